"""Reads the input items of an OpenAI Responses request as messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.request import (
    Audio,
    Document,
    Image,
    Message,
    Part,
    Refusal,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

Json = dict[str, Any]
Expand = Callable[[str], str | None]
"""Opens the ``encrypted_content`` of a compaction item: its summary, or None if it is not one of ours."""

NATIVE = "openai."
"""Before a canonical signature: it is ``encrypted_content`` of a Responses upstream, and only such a one can read it."""
FOREIGN = "mainstay."
"""Before the ``encrypted_content`` that we give a caller: it is the signature of a provider of another format."""
REDACTED = FOREIGN + "redacted."
"""The same, where it is no signature but the thoughts themselves, encrypted."""

SUMMARY_OPENING = "This is a summary of the conversation so far:\n\n"


def signature_of(encrypted: str) -> str:
    """The canonical signature that ``encrypted_content`` stands for; it says whose it is."""
    if encrypted.startswith(FOREIGN):
        return encrypted.removeprefix(REDACTED).removeprefix(FOREIGN)
    return NATIVE + encrypted


def encrypted_of(signature: str, redacted: bool = False) -> str:
    """The ``encrypted_content`` for a canonical signature: the inverse of ``signature_of``."""
    if signature.startswith(NATIVE):
        return signature.removeprefix(NATIVE)
    return (REDACTED if redacted else FOREIGN) + signature


def refuse(message: str, field: str) -> NoReturn:
    """A field that has no canonical meaning, and would change the answer."""
    raise Unsupported(message, field=field)


def wrong(expected: str, field: str) -> NoReturn:
    """A field with a wrong value."""
    raise Invalid(f"{field} must be {expected}", field=field)


def string_of(value: Any, field: str) -> str:
    """``value`` if it is a string."""
    if not isinstance(value, str):
        wrong("a string", field)
    return value


def object_of(value: Any, field: str) -> Json:
    """``value`` if it is an object."""
    if not isinstance(value, dict):
        wrong("an object", field)
    return cast(Json, value)


def array_of(value: Any, field: str) -> list[Any]:
    """``value`` if it is an array."""
    if not isinstance(value, list):
        wrong("an array", field)
    return cast(list[Any], value)


def read_messages(given: Json, hints: Json, expand: Expand | None) -> tuple[Message, ...]:
    """The messages that ``instructions`` and ``input`` of the request ``given`` say; hints are put into ``hints``."""
    found: list[Message] = []
    instructions = given.get("instructions")
    if instructions is not None:
        found.append(Message("system", (Text(string_of(instructions, "instructions")),)))
    asked = given.get("input")
    if asked is None:
        raise Invalid("the field input is missing: send a string or an array of items", field="input")
    if isinstance(asked, str):
        found.append(Message("user", (Text(asked),)))
        return tuple(found)
    if not isinstance(asked, list):
        wrong("a string or an array of items", "input")
    turn: list[Part] = []  # the parts of the assistant's turn that is being read: it is spread over several items
    for index, one in enumerate(cast(list[Any], asked)):
        where = f"input[{index}]"
        item = object_of(one, where)
        parts = _assistant_parts(item, where, hints)
        if parts is not None:
            turn += parts
            continue
        if turn:
            found.append(Message("assistant", tuple(turn)))
            turn = []
        found.append(_other_item(item, where, hints, expand))
    if turn:
        found.append(Message("assistant", tuple(turn)))
    return tuple(found)


def item_kind(item: Mapping[str, Any]) -> str:
    """The type of an input item; messages and references may leave it out."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    return "message" if "role" in item else "item_reference" if "id" in item else ""


def _assistant_parts(item: Json, where: str, hints: Json) -> list[Part] | None:
    """What ``item`` adds to a turn of the assistant; None if it is not the assistant's."""
    kind = item_kind(item)
    if kind == "message" and item.get("role") == "assistant":
        if item.get("phase") is not None:
            hints["phase"] = item["phase"]
        return _content(item.get("content"), f"{where}.content", hints)
    if kind == "function_call":
        for key in ("namespace", "async"):
            if item.get(key):
                refuse(f"{where}.{key} cannot be said to this model's provider", f"{where}.{key}")
        _direct(item, where)
        arguments = string_of(item.get("arguments"), f"{where}.arguments")
        call_id = string_of(item.get("call_id"), f"{where}.call_id")
        return [ToolCall(call_id, string_of(item.get("name"), f"{where}.name"), arguments)]
    if kind == "reasoning":
        return _thinking(item, where)
    return None


def _direct(item: Json, where: str) -> None:
    caller = item.get("caller")
    if caller is not None and object_of(caller, f"{where}.caller").get("type") != "direct":
        refuse(f"{where}.caller: calls by programs cannot be said to this model's provider", f"{where}.caller")


def _thinking(item: Json, where: str) -> list[Part]:
    texts: list[str] = []
    for key in ("content", "summary"):
        pieces = item.get(key)
        if pieces is not None and not texts:
            for index, piece in enumerate(array_of(pieces, f"{where}.{key}")):
                inner = f"{where}.{key}[{index}]"
                texts.append(string_of(object_of(piece, inner).get("text"), f"{inner}.text"))
    encrypted = item.get("encrypted_content")
    signature = None if not encrypted else signature_of(string_of(encrypted, f"{where}.encrypted_content"))
    text = "\n\n".join(texts)
    if not text and signature is None:
        return []  # only a pointer to what the provider keeps: without it there is nothing to say
    identifier: str | None = None
    if signature is None or signature.startswith(NATIVE):
        # The id tells other formats that the thoughts are not theirs; it may have been left out.
        identifier = string_of(item.get("id") or "", f"{where}.id")
    if encrypted and encrypted.startswith(FOREIGN):
        # Whether thoughts without a text are redacted is known to who made them; here it is written down.
        return [Thinking(text, signature, redacted=encrypted.startswith(REDACTED))]
    return [Thinking(text, signature, redacted=not text, id=identifier)]


def _other_item(item: Json, where: str, hints: Json, expand: Expand | None) -> Message:
    kind = item_kind(item)
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "system", "developer"):
            wrong("user, assistant, system or developer", f"{where}.role")
        content = _content(item.get("content"), f"{where}.content", hints)
        return Message(cast(Role, role), tuple(content))
    if kind == "function_call_output":
        _direct(item, where)
        if item.get("namespace"):
            refuse(f"{where}.namespace cannot be said to this model's provider", f"{where}.namespace")
        call_id = string_of(item.get("call_id"), f"{where}.call_id")
        output = item.get("output")
        parts = [Text(output)] if isinstance(output, str) else _content(output, f"{where}.output", hints)
        for part in parts:
            if not isinstance(part, Text | Image | Document):
                wrong("a string or an array of text, images and files", f"{where}.output")
        name = item.get("name")
        content = cast(tuple[Text | Image | Document, ...], tuple(parts))
        result = ToolResult(call_id, content, name=None if name is None else string_of(name, f"{where}.name"))
        return Message("tool", (result,))
    if kind == "compaction":
        summary = None
        if expand is not None:
            summary = expand(string_of(item.get("encrypted_content"), f"{where}.encrypted_content"))
        if summary is None:
            refuse("this compaction item was made by another provider, and only it can read it", where)
        return Message("user", (Text(SUMMARY_OPENING + summary),))
    if kind == "":
        wrong("an item with a type", where)
    refuse(f"items of type {kind} cannot be said to this model's provider; take {where} out", f"{where}.type")


def _content(value: Any, where: str, hints: Json) -> list[Part]:
    if isinstance(value, str):
        return [Text(value)]
    if not isinstance(value, list):
        wrong("a string or an array of parts", where)
    parts: list[Part] = []
    for index, one in enumerate(cast(list[Any], value)):
        inner = f"{where}[{index}]"
        parts.append(_part(object_of(one, inner), inner, hints))
    return parts


def _part(part: Json, where: str, hints: Json) -> Part:
    kind = part.get("type")
    cache = None if part.get("prompt_cache_breakpoint") is None else "5m"
    if kind in ("input_text", "output_text", "text"):
        return Text(string_of(part.get("text"), f"{where}.text"), cache)
    if kind == "refusal":
        return Refusal(string_of(part.get("refusal"), f"{where}.refusal"))
    if kind == "input_image":
        return _image(part, where, cache)
    if kind == "input_file":
        return _document(part, where, cache, hints)
    if kind == "input_audio":
        audio = object_of(part.get("input_audio"), f"{where}.input_audio")
        data = string_of(audio.get("data"), f"{where}.input_audio.data")
        return Audio(data, string_of(audio.get("format"), f"{where}.input_audio.format"))
    if not isinstance(kind, str):
        wrong("the type of the part, such as input_text", f"{where}.type")
    refuse(f"parts of type {kind} cannot be said to this model's provider", f"{where}.type")


def _image(part: Json, where: str, cache: str | None) -> Image:
    detail = part.get("detail")
    if detail == "auto":
        detail = None
    elif detail is not None:
        detail = string_of(detail, f"{where}.detail")
    url = part.get("image_url")
    if url is None:
        if part.get("file_id") is not None:
            refuse(
                "a picture that is stored with a provider cannot be sent to another; send its data", f"{where}.file_id"
            )
        wrong("a URL, or a data: URL with the picture in base64", f"{where}.image_url")
    media_type, data = _data_url(string_of(url, f"{where}.image_url"), f"{where}.image_url")
    if data is None:
        return Image(url=url, detail=detail, cache=cache)
    return Image(data=data, media_type=media_type, detail=detail, cache=cache)


def _document(part: Json, where: str, cache: str | None, hints: Json) -> Document:
    name = part.get("filename")
    if name is not None:
        name = string_of(name, f"{where}.filename")
    if part.get("detail") not in (None, "auto"):
        hints["detail"] = part["detail"]
    given = [key for key in ("file_data", "file_url", "file_id") if part.get(key) is not None]
    if len(given) != 1:
        raise Invalid(f"{where} must have exactly one of file_data, file_url and file_id", field=where)
    value = string_of(part[given[0]], f"{where}.{given[0]}")
    if given[0] == "file_url":
        return Document(url=value, name=name, cache=cache)
    if given[0] == "file_id":
        return Document(file_id=value, name=name, cache=cache)
    media_type, data = _data_url(value, f"{where}.file_data")
    if data is None:
        data = value
    return Document(data=data, media_type=media_type, name=name, cache=cache)


def _data_url(url: str, where: str) -> tuple[str | None, str | None]:
    """The media type and base64 content of a ``data:`` URL; (None, None) for any other URL."""
    if not url.startswith("data:"):
        return None, None
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(";base64"):
        wrong("a data: URL in base64, such as data:image/png;base64,…", where)
    return head.removesuffix(";base64").partition(";")[0] or None, data
