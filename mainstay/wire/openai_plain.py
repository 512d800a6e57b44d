"""OpenAI's operations that pass through to an upstream of the same format: completions, embeddings, images, audio,
moderations, rerank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError, Unsupported, UpstreamFailed
from mainstay.core.event import End, Event, Finish, Start, TextDelta, UsageSeen
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request
from mainstay.wire.dialect import Fate, Field, Peek, Reader, Writer, Written
from mainstay.wire.json_edit import insert_member, members, splice
from mainstay.wire.multipart import FormField, form_fields, with_field
from mainstay.wire.openai_chat import Values, ask_for_usage, flag, model_of, text, usage_wanted, whole
from mainstay.wire.openai_chat_fields import EXPRESSES
from mainstay.wire.openai_chat_reply import failure, reason_of
from mainstay.wire.openai_errors import read_error, write_error
from mainstay.wire.openai_plain_stream import CompletionWriter, PlainReader, write_completion
from mainstay.wire.openai_usage import convert_usage

OPERATIONS = frozenset(
    (
        "completions",
        "embeddings",
        "images.generations",
        "images.edits",
        "images.variations",
        "audio.transcriptions",
        "audio.translations",
        "audio.speech",
        "moderations",
        "rerank",
    )
)
"""What passes through this dialect."""

IMAGE_TOKENS = 8192
"""No image of OpenAI's costs more output tokens."""

_DEFAULTS = {
    "moderations": "omni-moderation-latest",
    "images.generations": "dall-e-2",
    "images.edits": "dall-e-2",
    "images.variations": "dall-e-2",
}
"""The model that OpenAI takes where none is named."""

_FORM_POLICY = ("model", "stream", "n", "user")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BULK = frozenset(("data", "results"))
_several = msgspec.json.Decoder(list[str | list[int]])


class OpenAIPlain:
    """The operations that are passed through and never translated."""

    name = "openai"
    fields: Mapping[str, Field] = {}
    expresses: Mapping[str, Fate] = dict.fromkeys(EXPRESSES, "refused")

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    # toward callers

    def peek(self, operation: str, body: bytes, content_type: str) -> Peek:
        """What the pipeline needs to know of a JSON body or a form. Raises ``Invalid``."""
        if content_type[:19].lower() == "multipart/form-data":
            return _peek_form(operation, body, content_type)
        values, span = members(body)
        default = _DEFAULTS.get(operation)
        model = default if default is not None and "model" not in values else model_of(values)
        peek = Peek(model, flag(values, "stream"), model_at=span, user=text(values, "user"))
        if operation == "completions":
            _peek_completion(peek, values)
        elif operation.startswith("images."):
            peek.n = max(1, whole(values, "n") or 1)
            peek.max_tokens = IMAGE_TOKENS
            peek.unbounded = tuple(name for name in ("file_id", "images", "mask") if _names_files(values, name))
        elif operation == "audio.speech":
            peek.stream = text(values, "stream_format") == "sse"
        elif operation in ("moderations", "embeddings", "rerank") and b"image_url" in body:
            peek.images = True
            peek.unbounded = ("input.image_url",)
        return peek

    def read_request(self, body: bytes) -> NoReturn:
        """Never: raises ``Unsupported``."""
        raise Unsupported("this operation goes only to an upstream of the same dialect", field="model")

    def write_reply(self, events: Sequence[Event], request: bytes | None = None) -> bytes:
        """A text completion: all events of it, folded."""
        return write_completion(events)

    def writer(self, include_usage: bool, request: bytes | None = None) -> Writer:
        """A writer for one streamed text completion; its ``fail`` serves the other operations too."""
        return CompletionWriter(include_usage)

    def write_error(self, error: MainstayError, status: int) -> bytes:
        """The body of an error reply; a provider's own passes through if it is in this format."""
        return write_error(error, self.name)

    # toward upstreams

    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path below the provider's base URL."""
        return "/" + operation.replace(".", "/")

    def rewrite(self, operation: str, body: bytes, peek: Peek, model: str, ask_usage: bool) -> bytes:
        """The caller's body with the model renamed (or named, if it was not) and, for a stream of completions, usage
        asked for."""
        if body.startswith((b"--", b"\r\n--")):
            value = model.encode()
            return splice(body, peek.model_at, value) if peek.model_at != (0, 0) else with_field(body, "model", value)
        name = _encode(model)
        if peek.model_at == (0, 0):
            return insert_member(body, "model", name)
        if operation == "completions" and ask_usage and peek.stream and not peek.usage_wanted:
            return ask_for_usage(body, peek, name)
        return body if model == peek.model else splice(body, peek.model_at, name)

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """Never: raises ``Unsupported``."""
        raise Unsupported("this operation goes only to an upstream of the same dialect", field="model")

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Start, Finish, UsageSeen and End of a plain reply; sound, and transcripts as mere text, give End alone.

        Raises ``UpstreamFailed(unreadable)`` where the reply is not what the operation answers with.
        """
        value = _outline(body)
        if value is None:
            if operation.startswith("audio.") and not _markup(body):
                return (Start("", ""), End())
            raise UpstreamFailed("unreadable", "the provider's reply is not a JSON object")
        if "choices" not in value and (failed := failure(value, body)) is not None and "text" not in value:
            return (failed,)
        events: list[Event] = [_start(value)]
        for i, choice in enumerate(_objects(value.get("choices"))):
            reason, index = choice.get("finish_reason"), choice.get("index")
            if isinstance(reason, str):
                events.append(Finish(reason_of(reason), index if isinstance(index, int) else i, None, reason))
        usage = convert_usage(value.get("usage"))
        if usage is not None:
            events.append(UsageSeen(usage))
        events.append(End())
        return tuple(events)

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A text completion as events. Raises ``UpstreamFailed(unreadable)``."""
        events = list(self.glance("completions", body))
        value = _object(body) or {}
        for i, choice in enumerate(_objects(value.get("choices"))):
            index, piece = choice.get("index"), choice.get("text")
            if isinstance(piece, str):
                events.insert(1 + i, TextDelta(piece, index if isinstance(index, int) else i))
        return tuple(events)

    def reader(self, operation: str) -> Reader:
        """A reader for one streamed reply: server-sent events, or sound as it comes."""
        return PlainReader(operation)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means."""
        return read_error(status, headers, body, self._clock, self.name)


def _peek_completion(peek: Peek, values: Values) -> None:
    if peek.stream and "stream_options" in values:
        peek.usage_wanted = usage_wanted(values)
    bound = whole(values, "max_tokens")
    peek.max_tokens = bound if bound is None or bound > 0 else None
    prompts = 1
    if "prompt" in values and bytes(values["prompt"]).startswith(b"["):
        try:
            prompts = max(1, len(_several.decode(values["prompt"])))
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # one prompt of token ids, or something that its provider will refuse
    peek.n = max(1, whole(values, "n") or 1, whole(values, "best_of") or 1) * prompts


def _names_files(values: Values, name: str) -> bool:
    raw = values.get(name)
    return raw is not None and (name == "file_id" or b"file_id" in bytes(raw) or b"http" in bytes(raw))


def _peek_form(operation: str, body: bytes, content_type: str) -> Peek:
    found: dict[str, FormField] = {}
    for field in form_fields(body, content_type):
        meant = field.name.casefold()
        if meant not in _FORM_POLICY:
            continue
        if field.name != meant or meant in found:
            raise Invalid(f"the field {meant} is given twice or is misspelt", field=meant, code="duplicate_key")
        if field.file:
            raise Invalid(f"the field {meant} is sent as a file; send it as plain text", field=meant)
        found[meant] = field

    def value(name: str) -> str | None:
        field = found.get(name)
        if field is None:
            return None
        try:
            return body[field.start : field.end].decode()
        except UnicodeDecodeError:
            raise Invalid(f"the field {name} is not UTF-8", field=name) from None

    model = value("model") if "model" in found else _DEFAULTS.get(operation)
    if not model:
        raise Invalid("the field model is missing: say which model or route shall answer", field="model")
    stream = (value("stream") or "false").strip().lower()
    if stream not in ("true", "false", "1", "0"):
        raise Invalid("stream is not true or false", field="stream")
    n = (value("n") or "1").strip()
    if not n.isascii() or not n.isdigit() or len(n) > 4:
        raise Invalid("n is not a whole number", field="n")
    at = found.get("model")
    return Peek(
        model,
        stream in ("true", "1"),
        IMAGE_TOKENS if operation.startswith("images.") else None,
        max(1, int(n)),
        audio=operation.startswith("audio."),
        user=value("user") or None,
        model_at=(0, 0) if at is None else (at.start, at.end),
    )


def _outline(body: bytes) -> dict[str, Any] | None:
    """A reply's members but for the pictures and vectors in it, which nobody here looks at and which would take several
    times their size."""
    try:
        return {name: _decode(raw) for name, raw in _members.decode(body).items() if name not in _BULK}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in cast(list[Any], value) if isinstance(one, dict)] if isinstance(value, list) else []


def _markup(body: bytes) -> bool:
    return body[:64].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _start(value: dict[str, Any]) -> Start:
    id_, model, created = value.get("id"), value.get("model"), value.get("created")
    return Start(
        id_ if isinstance(id_, str) else "",
        model if isinstance(model, str) else "",
        int(created) if isinstance(created, int | float) else 0,
    )
