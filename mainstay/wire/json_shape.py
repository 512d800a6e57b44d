"""Decoded JSON that must have a certain shape, for wires that read a request field by field."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from mainstay.core.errors import Invalid


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object that ``body`` is. Raises ``Invalid`` if it is none."""
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    return as_object(value, "the body")


def as_object(value: Any, where: str) -> dict[str, Any]:
    """``value``, which must be an object. Raises ``Invalid`` naming ``where``."""
    if not isinstance(value, dict):
        raise Invalid(f"{where} must be an object", field=where)
    return cast("dict[str, Any]", value)


def as_list(value: Any, where: str) -> list[Any]:
    """``value``, which must be a list; nothing is an empty one. Raises ``Invalid`` naming ``where``."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Invalid(f"{where} must be a list", field=where)
    return cast("list[Any]", value)


def arguments(text: str) -> msgspec.Raw:
    """The JSON text of a tool call's arguments, to be put into a body. Raises ``Invalid`` if it is no object."""
    try:
        value: Any = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Invalid("the arguments of a tool call are not a JSON object", field="messages")
    return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1) if value else b"{}")
