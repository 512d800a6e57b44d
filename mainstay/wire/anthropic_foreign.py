"""Takes the thoughts that another provider made out of a request that otherwise passes through to Anthropic."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from mainstay.wire.anthropic_turns import is_foreign

_MARKS = (b'"gemini:', b'"openai.', b'"mainstay.')
_UNSIGNED = (b'"signature":""', b'"signature": ""')

_encode = msgspec.json.Encoder().encode
_outline = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_pieces = msgspec.json.Decoder(list[msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode


def without_foreign(body: bytes, model: str) -> bytes:
    """``body`` without the thinking blocks that an earlier target of another format answered with.

    Claude refuses what it did not sign, and thoughts are no part of the answer. Everything else stays as it is; a turn
    of nothing but such thoughts goes with them. Thoughts that nobody signed go too, unless ``model`` is another's that
    imitates the API.
    """
    marks = _MARKS + _UNSIGNED if "claude" in model.lower() else _MARKS
    if not _marked(body, marks):
        return body
    try:
        members = _outline(body)
        messages = _pieces(members["messages"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return body  # not a request that we can read: the provider says what is wrong with it
    kept: list[bytes] = []
    changed = False
    for message in messages:
        written = _without(bytes(message), marks) if _marked(bytes(message), marks) else bytes(message)
        changed = changed or written is None or written != bytes(message)
        if written is not None:
            kept.append(written)
    if not changed:
        return body
    values: dict[str, Any] = dict(members)
    values["messages"] = [msgspec.Raw(one) for one in kept]
    return _encode(values)


def _marked(piece: bytes, marks: tuple[bytes, ...]) -> bool:
    return any(mark in piece for mark in marks)


def _without(message: bytes, marks: tuple[bytes, ...]) -> bytes | None:
    """The message without foreign thoughts; None if nothing is left of it."""
    try:
        members = _outline(message)
        blocks = _pieces(members["content"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return message
    kept = [block for block in blocks if not (_marked(bytes(block), marks) and _is_foreign_thought(bytes(block)))]
    if len(kept) == len(blocks):
        return message
    if not kept:
        return None
    values: dict[str, Any] = dict(members)
    values["content"] = kept
    return _encode(values)


def _is_foreign_thought(block: bytes) -> bool:
    try:
        told = _any(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(told, dict):
        return False
    told = cast(dict[str, Any], told)
    proof = {"thinking": "signature", "redacted_thinking": "data"}.get(str(told.get("type")))
    signature = told.get(proof) if proof is not None else None
    return isinstance(signature, str) and (not signature or is_foreign(signature))
