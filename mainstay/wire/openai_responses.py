"""The OpenAI Responses dialect, both directions: what the pipeline and the door call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError, UpstreamFailed
from mainstay.core.event import Event
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request
from mainstay.wire import openai_errors, openai_responses_body, openai_responses_reply, openai_responses_request
from mainstay.wire.dialect import Fate, Field, Peek, Written
from mainstay.wire.json_edit import members, splice
from mainstay.wire.openai_responses_items import Expand
from mainstay.wire.openai_responses_reply import begins
from mainstay.wire.openai_responses_state import without_foreign
from mainstay.wire.openai_responses_stream import ResponsesReader
from mainstay.wire.openai_responses_writer import ResponsesWriter, write_reply

COMPACT = "responses.compact"
INPUT_TOKENS = "responses.input_tokens"


class _Part(msgspec.Struct):
    """A part of a message or of a tool's output, as far as it says what it costs."""

    type: str | None = None
    image_url: msgspec.Raw = msgspec.Raw()
    file_url: msgspec.Raw = msgspec.Raw()
    file_id: msgspec.Raw = msgspec.Raw()
    file_data: msgspec.Raw = msgspec.Raw()


class _Item(msgspec.Struct):
    type: str | None = None
    role: str | None = None
    content: str | list[_Part] | None = None
    output: str | _Part | list[_Part] | None = None


class _Tool(msgspec.Struct):
    type: str | None = None


class _Format(msgspec.Struct):
    type: str | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


_input = msgspec.json.Decoder(str | list[_Item] | None)
_tools = msgspec.json.Decoder(list[_Tool] | None)
_text = msgspec.json.Decoder(_Text | None)
_string = msgspec.json.Decoder(str | None)
_boolean = msgspec.json.Decoder(bool | None)
_count = msgspec.json.Decoder(int | None)

_ABSENT = (b"null", b"false", b"[]", b'""')
_STORED = ("previous_response_id", "conversation", "prompt", "background", "context_management")
"""Top-level fields that bring in, or keep running, what the body's size does not bound."""
_OWN_ITEMS = frozenset((None, "message", "reasoning", "function_call", "function_call_output", "compaction"))
_CLIENT_TOOLS = frozenset((None, "function", "custom", "namespace", "local_shell", "apply_patch", "shell", "computer"))


class OpenAIResponses:
    """See ``wire.dialect.Dialect``. Operations: ``responses``, ``responses.compact``, ``responses.input_tokens``."""

    name = openai_responses_reply.NAME
    fields: Mapping[str, Field] = openai_responses_request.FIELDS
    expresses: Mapping[str, Fate] = openai_responses_body.EXPRESSES

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    # ---- toward callers

    def peek(self, operation: str, body: bytes, content_type: str = "application/json") -> Peek:
        """What the pipeline needs to know. Raises ``Invalid`` for a body that is not this format's, or is ambiguous."""
        values, span = members(body)
        model = _read(values, "model", _string, "a string")
        if not model:
            raise Invalid("the field model is missing: say which model or route shall answer", field="model")
        peek = Peek(model, model_at=span, usage_wanted=True)
        peek.stream = bool(_read(values, "stream", _boolean, "true or false"))
        peek.max_tokens = _read(values, "max_output_tokens", _count, "a whole number")
        if peek.max_tokens is not None and peek.max_tokens < 1:
            raise Invalid("max_output_tokens must be at least 1", field="max_output_tokens")
        for name in ("safety_identifier", "user"):
            peek.user = peek.user or _read(values, name, _string, "a string")
        if "text" in values:
            text = _read(values, "text", _text, "an object")
            peek.schema = text is not None and text.format is not None and text.format.type == "json_schema"
        unbounded = [name for name in _STORED if name in values and bytes(values[name]) not in _ABSENT]
        if "tools" in values:
            for tool in _read(values, "tools", _tools, "an array of tools") or ():
                peek.tools = True
                if tool.type not in _CLIENT_TOOLS:
                    unbounded.append(f"tools.{tool.type}")
        _look(_read(values, "input", _input, "a string or an array of items"), peek, unbounded)
        peek.unbounded = tuple(dict.fromkeys(unbounded))
        return peek

    def read_request(self, body: bytes, expand: Expand | None = None) -> Request:
        """The canonical request; ``expand`` opens our own compaction items."""
        return openai_responses_request.read_request(body, expand)

    def write_reply(
        self, events: Sequence[Event], request: bytes | None = None, stamp: Mapping[str, Any] | None = None
    ) -> bytes:
        """A plain reply. ``request`` is the caller's body, ``stamp`` what the gateway sets in the response object."""
        return write_reply(events, self._clock, request, stamp)

    def writer(
        self, include_usage: bool = True, request: bytes | None = None, stamp: Mapping[str, Any] | None = None
    ) -> ResponsesWriter:
        """A writer for one streamed reply; usage is always part of it. The others are as for ``write_reply``."""
        return ResponsesWriter(self._clock, request, stamp)

    def write_error(self, error: MainstayError, status: int) -> bytes:
        """The body of an error reply."""
        return openai_errors.write_error(error, self.name)

    # ---- toward upstreams

    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path below the provider's base URL."""
        if operation == COMPACT:
            return "/responses/compact"
        if operation == INPUT_TOKENS:
            return "/responses/input_tokens"
        return "/responses"

    def rewrite(self, operation: str, body: bytes, peek: Peek, model: str, ask_usage: bool) -> bytes:
        """The caller's body with the model's name replaced; usage comes without being asked for.

        Taken out is only the reasoning that we passed on to the caller from a provider of another format.
        """
        return without_foreign(splice(body, peek.model_at, msgspec.json.encode(model)))

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The canonical request in this format. Raises ``Unsupported`` for what it cannot say."""
        return openai_responses_body.write_request(request, model, facts)

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Start, Finish, UsageSeen and End of a plain reply that passes through."""
        return openai_responses_reply.glance(body)

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A whole plain reply as events."""
        return openai_responses_reply.read_reply(body)

    def reader(self, operation: str = "responses") -> ResponsesReader:
        """A reader for one streamed reply."""
        return ResponsesReader()

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means."""
        return openai_errors.read_error(status, headers, body, self._clock, self.name)


def _read(values: Mapping[str, msgspec.Raw], name: str, decoder: msgspec.json.Decoder[Any], expected: str) -> Any:
    raw = values.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"{name} must be {expected} ({error})", field=name) from None


def _look(given: str | list[_Item] | None, peek: Peek, unbounded: list[str]) -> None:
    """Note in ``peek`` what the input holds, and in ``unbounded`` what its size does not bound."""
    if given is None or isinstance(given, str):
        return
    for item in given:
        if item.type == "item_reference" or (item.type is None and item.role is None):
            unbounded.append("input.item_reference")
        elif item.type == "compaction_trigger":
            unbounded.append("input.compaction_trigger")
        for held in (item.content, item.output):
            if isinstance(held, list):
                for part in held:
                    _look_at_part(part, peek, unbounded)
            elif isinstance(held, _Part):
                _look_at_part(held, peek, unbounded)


def _look_at_part(part: _Part, peek: Peek, unbounded: list[str]) -> None:
    kind = part.type
    if kind in ("input_text", "output_text"):
        return
    if kind == "input_audio":
        peek.audio = True
    elif kind in ("input_image", "computer_screenshot"):
        peek.images = True
        if _given(part.image_url) and not begins(part.image_url, b'"data:'):
            unbounded.append("input.image_url")
    for name in ("file_id", "file_url", "file_data"):
        if _given(getattr(part, name)):
            unbounded.append(f"input.{name}")


def _given(raw: msgspec.Raw) -> bool:
    return len(raw) > 0 and not begins(raw, b"null")
