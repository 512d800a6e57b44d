"""What is kept of OpenAI Responses between calls: input and output items, history put back in, compaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from mainstay.core.errors import Invalid
from mainstay.core.event import Event, TextDelta
from mainstay.core.request import Audio, Document, Image, Message, Part, Refusal, Request, Text, ToolCall, ToolResult
from mainstay.core.usage import Usage
from mainstay.wire.openai_responses_items import FOREIGN, SUMMARY_OPENING, Expand, Json, item_kind
from mainstay.wire.openai_responses_object import usage_json
from mainstay.wire.openai_responses_reply import begins
from mainstay.wire.openai_responses_request import read_request
from mainstay.wire.sse import SseSplitter

COMPACT_FIELDS = (
    "model",
    "input",
    "instructions",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
)
"""The fields of a request to ``/responses/compact``."""

_encode = msgspec.json.encode
_loose = msgspec.json.Decoder(dict[str, Any])
_outline = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FOREIGN_MARK = b'"' + FOREIGN.encode()
_TERMINAL = ("response.completed", "response.incomplete", "response.failed")

_ASK_TO_COMPACT = (
    "Stop here and write a summary that can stand in for everything above, for the assistant who goes on with this "
    "conversation and will see nothing else of it. Keep what was asked and by whom, decisions and the reasons for "
    "them, facts, names, numbers, identifiers, file paths and code that are still needed, the results of tools, what "
    "is done and what is left to do. Leave out greetings and detours. Write the summary only, in the language of the "
    "conversation."
)


# ---- what to keep ---------------------------------------------------------------------------------------------------


def stored_input(body: bytes, make_id: Callable[[str], str] | None = None) -> list[Json]:
    """The request's own input as a list of items; a string becomes a message of the user.

    ``make_id`` makes an id with the prefix it is given, for items that have none (they need one to be listed).
    Raises ``Invalid`` if the body is no object or its input no string or array of objects.
    """
    try:
        given = _loose.decode(body).get("input")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("the body is not a JSON object; check its syntax", code="invalid_json") from None
    if given is None:
        return []
    if isinstance(given, str):
        items: list[Json] = [_message(given)]
    elif isinstance(given, list) and all(isinstance(one, dict) for one in cast(list[Any], given)):
        items = cast(list[Json], given)
    else:
        raise Invalid("input must be a string or an array of items", field="input")
    if make_id is not None:
        for item in items:
            kind = item_kind(item)
            if kind == "message":
                item.setdefault("type", "message")
                item.setdefault("status", "completed")
                if isinstance(item.get("content"), str):
                    item["content"] = _message(item["content"], item.get("role", "user"))["content"]
            if item.get("id") is None:
                item["id"] = make_id(_PREFIXES.get(kind, "item_"))
    return items


_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "compaction": "cmp_",
}


def _message(text: str, role: str = "user") -> Json:
    part: Json = {"type": "input_text", "text": text}
    if role == "assistant":
        part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": role, "content": [part]}


def response_object(source: bytes | Mapping[str, Any]) -> Json | None:
    """The response object in a plain reply's body, or in the last of the events of a stream that tell how it ended.

    None if ``source`` holds neither.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if source.lstrip()[:1] == b"{":
        return _decoded(source)
    splitter = SseSplitter(len(source) + 1)
    found: Json | None = None
    for event in (*splitter.feed(source), *splitter.finish()):
        told = _decoded(event.data) if event.data else None
        if told is not None and told.get("type") in _TERMINAL and isinstance(told.get("response"), dict):
            found = cast(Json, told["response"])
    return found


def _decoded(data: bytes) -> Json | None:
    try:
        return _loose.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def output_items(source: bytes | Mapping[str, Any]) -> list[Json]:
    """The output items of a reply: ``source`` as for ``response_object``."""
    output = (response_object(source) or {}).get("output")
    if not isinstance(output, list):
        return []
    return [cast(Json, item) for item in cast(list[Any], output) if isinstance(item, dict)]


def response_id(source: bytes | Mapping[str, Any]) -> str | None:
    """The id of a reply: ``source`` as for ``response_object``."""
    identifier = (response_object(source) or {}).get("id")
    return identifier if isinstance(identifier, str) else None


def stamp(body: bytes, **fields: Any) -> bytes:
    """A plain reply with top-level ``fields`` (``id``, ``previous_response_id``, ``store``) set; all else as it was."""
    members: dict[str, Any] = dict(_outline.decode(body))
    members.update(fields)
    return _encode(members)


# ---- putting it back in ---------------------------------------------------------------------------------------------


def with_history(
    body: bytes,
    items: Sequence[Mapping[str, Any]],
    expand: Expand | None = None,
    remove: Iterable[str] = ("previous_response_id",),
) -> bytes:
    """The request with earlier ``items`` before its own input, and the fields ``remove`` taken out.

    ``expand`` opens our own compaction items, which become messages; others stay as they are. Earlier reasoning that
    is only a pointer to what a provider keeps is left out: whoever answers now may not have it. Every other field
    keeps its bytes. Raises ``Invalid`` if the body is no object or its input neither string nor array.
    """
    try:
        members: dict[str, Any] = dict(_outline.decode(body))
        own = _own_items(members.get("input"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("input must be a string or an array of items", field="input") from None
    for name in remove:
        members.pop(name, None)
    if items or (own and expand is not None):
        earlier = [item for item in items if item_kind(item) != "reasoning" or item.get("encrypted_content")]
        expanded = [*earlier, *own] if expand is None else [_expanded(item, expand) for item in (*earlier, *own)]
        members["input"] = expanded
    return _encode(members)


def with_references(body: bytes, items: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The request with those ``items``, by id, in the places where its input refers to them; all else keeps its bytes."""
    members: dict[str, Any] = dict(_outline.decode(body))
    resolved: list[Any] = []
    for item in _own_items(members.get("input")):
        told = _decoded(bytes(item)) if isinstance(item, msgspec.Raw) and b"item_reference" in bytes(item) else None
        found = items.get(str(told.get("id"))) if told is not None and item_kind(told) == "item_reference" else None
        resolved.append(item if found is None else found)
    members["input"] = resolved
    return _encode(members)


def _own_items(given: msgspec.Raw | None) -> list[Any]:
    """The items of an input, each as its own bytes."""
    if given is None or begins(given, b"null"):
        return []
    if begins(given, b'"'):
        return [_message(msgspec.json.decode(given, type=str))]
    return cast(list[Any], msgspec.json.decode(given, type=list[msgspec.Raw]))


def _expanded(item: Any, expand: Expand) -> Any:
    """``item``, or the message that stands in for it if it is one of our compactions."""
    if isinstance(item, msgspec.Raw):
        if b"compaction" not in bytes(item):
            return item
        told = _decoded(bytes(item))
        if told is None:
            return item
    else:
        told = cast(Mapping[str, Any], item)
    secret = told.get("encrypted_content")
    if told.get("type") != "compaction" or not isinstance(secret, str):
        return item
    summary = expand(secret)
    return item if summary is None else _message(SUMMARY_OPENING + summary)


def without_foreign(body: bytes) -> bytes:
    """The request without the reasoning that providers of other formats signed: a Responses upstream refuses it."""
    if _FOREIGN_MARK not in body:
        return body
    members: dict[str, Any] = dict(_outline.decode(body))
    if not begins(members.get("input", msgspec.Raw()), b"["):
        return body
    items = cast(list[Any], msgspec.json.decode(members["input"], type=list[msgspec.Raw]))
    members["input"] = [item for item in items if not _is_foreign(item)]
    return _encode(members)


def _is_foreign(item: msgspec.Raw) -> bool:
    told = _decoded(bytes(item)) if _FOREIGN_MARK in bytes(item) else None
    return (
        told is not None
        and told.get("type") == "reasoning"
        and str(told.get("encrypted_content", "")).startswith(FOREIGN)
    )


# ---- compaction -----------------------------------------------------------------------------------------------------


def read_compact(body: bytes, expand: Expand | None = None) -> Request:
    """The canonical request that asks a model for a summary of the conversation in ``body``.

    ``body`` is a request to ``/responses/compact``, its history already put in (``with_history``). Calls of tools
    become text, since no provider takes them without the tools. Raises ``Invalid`` or ``Unsupported`` naming the field.
    """
    try:
        given = _loose.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("the body is not a JSON object; check its syntax", code="invalid_json") from None
    for name in given.keys() - set(COMPACT_FIELDS):
        if given[name] is not None:
            raise Invalid(f"{name} is not a field of a compaction; leave it out", field=name)
    if given.get("input") in (None, []):
        raise Invalid("there is nothing to compact: send input, or previous_response_id", field="input")
    request = read_request(body, expand)
    said = tuple(_told(message) for message in request.messages)
    ask = Message("user", (Text(_ASK_TO_COMPACT),))
    kept = tuple(message for message in said if message.parts)
    return Request(model=request.model, messages=(*kept, ask), hints=request.hints)


def _told(message: Message) -> Message:
    """``message`` without tools: what was called and what came back, told in words."""
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolCall):
            parts.append(Text(f"[called the tool {part.name} with {part.arguments}]"))
        elif isinstance(part, ToolResult):
            parts.append(Text(f"[the tool {part.name or part.id} gave back:]"))
            parts.extend(part.content)
        elif isinstance(part, Refusal):
            parts.append(Text(part.text))
        elif isinstance(part, Text | Image | Document | Audio):
            parts.append(part)
    return Message("user" if message.role == "tool" else message.role, tuple(parts))


def summary_of(events: Sequence[Event]) -> str:
    """The text of an answer to ``read_compact``."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def write_compaction(
    body: bytes, encrypted: str, *, identifier: str, item_id: str, created: int, usage: Usage
) -> bytes:
    """The reply to a compaction: the messages of the user in ``body``, and the item that holds the summary.

    ``encrypted`` is the summary as an opaque string that ``expand`` can open; ``created`` is in seconds since the
    epoch. ``identifier`` and ``item_id`` are the ids of the compaction and of its item.
    """
    kept: list[Json] = []
    tail = identifier.rpartition("_")[2]
    for item in stored_input(body):
        if item_kind(item) == "message" and item.get("role") == "user":
            content = item.get("content")
            whole = _message(content) if isinstance(content, str) else {**item, "type": "message"}
            whole.setdefault("id", f"msg_{tail}_{len(kept)}")
            kept.append({**whole, "status": "completed"})
    return _encode(
        {
            "id": identifier,
            "object": "response.compaction",
            "created_at": created,
            "output": [*kept, {"id": item_id, "type": "compaction", "encrypted_content": encrypted}],
            "usage": usage_json(usage),
        }
    )
