"""The wire format of OpenAI's chat completions, as OpenAI and everyone compatible speaks it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError, UpstreamFailed
from mainstay.core.event import Event
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request
from mainstay.wire import openai_chat_reply as reply
from mainstay.wire.dialect import Fate, Field, Peek, Written
from mainstay.wire.json_edit import insert_member, members, splice, top_level
from mainstay.wire.openai_chat_fields import EXPRESSES, FIELDS
from mainstay.wire.openai_chat_outline import seen_messages, seen_tools, stream_options
from mainstay.wire.openai_chat_reply import ChatReader
from mainstay.wire.openai_chat_request import read_request
from mainstay.wire.openai_chat_request_writer import write_request
from mainstay.wire.openai_chat_writer import ChatWriter, write_reply
from mainstay.wire.openai_errors import read_error, write_error

Values = dict[str, msgspec.Raw]

_string = msgspec.json.Decoder(str)
_whole = msgspec.json.Decoder(int)
_encode = msgspec.json.Encoder().encode
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_EMPTY = (b"null", b"[]", b"{}", b"false")
_UNBOUNDED = (
    "web_search_options",
    "plugins",
    "search_parameters",
    "enable_search",
    "compound_custom",
    "models",
    "data_sources",
)
"""What makes the provider's servers search, run tools or choose another model."""


def model_of(values: Values) -> str:
    """The model that is asked for. Raises ``Invalid``."""
    try:
        model = _string.decode(values["model"])
    except KeyError:
        raise Invalid("the field model is missing: say which model or route shall answer", field="model") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("model is not a string", field="model") from None
    if not model:
        raise Invalid("model is empty: say which model or route shall answer", field="model")
    return model


def flag(values: Values, name: str) -> bool:
    """A field that is true, false or absent. Raises ``Invalid``."""
    raw = values.get(name)
    if raw is None:
        return False
    text = bytes(raw)
    if text == b"true":
        return True
    if text == b"false" or text == b"null":
        return False
    raise Invalid(f"{name} is not true or false", field=name)


def whole(values: Values, name: str) -> int | None:
    """A field that is a whole number, or None if absent. Raises ``Invalid``."""
    raw = values.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        return _whole.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid(f"{name} is not a whole number", field=name) from None


def text(values: Values, name: str) -> str | None:
    """A field's string, or None if it is absent or something else."""
    raw = values.get(name)
    if raw is None:
        return None
    try:
        return _string.decode(raw) or None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def given(values: Values, name: str) -> bool:
    """Whether a field is there and says something."""
    raw = values.get(name)
    return raw is not None and bytes(raw) not in _EMPTY


def usage_wanted(values: Values) -> bool:
    """Whether the caller of a stream asks for usage in it."""
    raw = values.get("stream_options")
    if raw is None:
        return False
    try:
        options = stream_options.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid(
            "stream_options is not an object with include_usage true or false", field="stream_options"
        ) from None
    return options is not None and options.include_usage is True


def ask_for_usage(body: bytes, peek: Peek, model: bytes) -> bytes:
    """``body`` with its model replaced by ``model``, a JSON string, and with usage asked for."""
    if b'"stream_options"' in body:
        for key, start, end in reversed(top_level(body)):
            if key == "stream_options":
                options = body[start:end]
                if options == b"null":
                    options = b'{"include_usage":true}'
                else:
                    asked = [(a, b) for name, a, b in top_level(options) if name == "include_usage"]
                    for span in reversed(asked):
                        options = splice(options, span, b"true")
                    if not asked:
                        options = insert_member(options, "include_usage", b"true")
                body = splice(body, (start, end), options)
                shift = len(options) - (end - start) if start < peek.model_at[0] else 0
                return splice(body, (peek.model_at[0] + shift, peek.model_at[1] + shift), model)
    body = insert_member(body, "stream_options", b'{"include_usage":true}')
    return splice(body, peek.model_at, model)


class OpenAIChat:
    """Chat completions. Pass a ``clock`` to control what a ``retry-after`` date means."""

    name = "openai"
    fields: Mapping[str, Field]
    expresses: Mapping[str, Fate]

    def __init__(self, clock: Clock | None = None) -> None:
        self.fields, self.expresses = FIELDS, EXPRESSES
        self._clock = clock or Clock()

    # toward callers

    def peek(self, operation: str, body: bytes, content_type: str) -> Peek:
        """What the pipeline needs to know. Raises ``Invalid``."""
        values, span = members(body)
        peek = Peek(model_of(values), model_at=span)
        if "stream" in values:
            peek.stream = flag(values, "stream")
            if peek.stream and "stream_options" in values:
                peek.usage_wanted = usage_wanted(values)
        if "max_tokens" in values or "max_completion_tokens" in values:
            peek.max_tokens = _bound(values)
        if "n" in values:
            peek.n = max(1, whole(values, "n") or 1)
        unbounded: list[str] = []
        if not _QUIET.issuperset(values):
            _look(peek, values, unbounded)
        if "messages" in values:
            _look_at_messages(peek, values["messages"], body, unbounded)
        if unbounded:
            peek.unbounded = tuple(dict.fromkeys(unbounded))
        return peek

    def read_request(self, body: bytes) -> Request:
        """The canonical request. Raises ``Invalid`` or ``Unsupported`` naming the field."""
        return read_request(body)

    def write_reply(self, events: Sequence[Event], request: bytes | None = None) -> bytes:
        """A plain reply: all events of it, folded."""
        return write_reply(events)

    def writer(self, include_usage: bool, request: bytes | None = None) -> ChatWriter:
        """A writer for one streamed reply."""
        return ChatWriter(include_usage)

    def write_error(self, error: MainstayError, status: int) -> bytes:
        """The body of an error reply; a provider's own passes through if it is in this format."""
        return write_error(error, self.name)

    # toward upstreams

    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path below the provider's base URL."""
        return "/chat/completions"

    def rewrite(self, operation: str, body: bytes, peek: Peek, model: str, ask_usage: bool) -> bytes:
        """The caller's body with the model renamed and, if need be, usage asked for."""
        name = _encode(model)
        if ask_usage and peek.stream and not peek.usage_wanted:
            return ask_for_usage(body, peek, name)
        if model == peek.model:
            return body
        return splice(body, peek.model_at, name)

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The canonical request in this format. Raises ``Unsupported``."""
        return write_request(request, model, facts)

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Start, Finish, UsageSeen and End of a plain reply that passes through; or Failed, if it holds an error."""
        return reply.glance(body)

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A whole plain reply as events. Raises ``UpstreamFailed``."""
        return reply.read_reply(body)

    def reader(self, operation: str) -> ChatReader:
        """A reader for one streamed reply."""
        return ChatReader()

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means."""
        return read_error(status, headers, body, self._clock, self.name)


_QUIET = frozenset(
    """
    model messages stream stream_options max_tokens max_completion_tokens n temperature top_p stop seed
    presence_penalty frequency_penalty logit_bias logprobs top_logprobs tool_choice parallel_tool_calls reasoning_effort
    """.split()
)
"""Fields that say nothing about what a model must be able to do, or what it may cost beyond its bounds."""


def _bound(values: Values) -> int | None:
    # Which of the two a provider heeds is its own affair: the larger one bounds the answer. Some take 0 or less for
    # "no limit".
    one, two = whole(values, "max_completion_tokens"), whole(values, "max_tokens")
    if one is None or two is None:
        bound = two if one is None else one
        return bound if bound is not None and bound > 0 else None
    return max(one, two) if one > 0 and two > 0 else None


def _look(peek: Peek, values: Values, unbounded: list[str]) -> None:
    """What is needed of the model, and what costs more than the bytes tell."""
    peek.user = text(values, "user") or text(values, "safety_identifier")
    if given(values, "tools"):
        peek.tools = True
        if not _own_tools(values["tools"]):
            unbounded.append("tools")
    elif given(values, "functions"):
        peek.tools = True
    if "response_format" in values and b"schema" in bytes(values["response_format"]):
        peek.schema = True
    if given(values, "audio") or ("modalities" in values and b"audio" in bytes(values["modalities"])):
        peek.audio = True
    if text(values, "service_tier") in ("priority", "fast"):
        unbounded.append("service_tier")
    unbounded.extend(name for name in _UNBOUNDED if given(values, name))


def _own_tools(raw: msgspec.Raw) -> bool:
    """Whether all tools are the caller's: others are run by the provider's servers."""
    try:
        return all(tool.type in ("function", "custom") for tool in seen_tools.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _may_have_media(body: bytes) -> bool:
    """Whether ``body`` has one of the words that make a part media, or could spell one with escapes."""
    return (
        b'"image_url"' in body
        or b'"input_audio"' in body
        or b'"file"' in body
        or b'"audio"' in body
        or (b"\\u00" in body and _ESCAPED_LETTER.search(body) is not None)
    )


def _look_at_messages(peek: Peek, raw: msgspec.Raw, body: bytes, unbounded: list[str]) -> None:
    try:
        messages = seen_messages.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Its provider will say what is wrong with it; until then anything that has a word for media might be media.
        if _may_have_media(body):
            peek.images = True
            unbounded.append("messages")
        return
    for message in messages:
        if bytes(message.audio) != b"null":
            unbounded.append("messages.audio")
        if isinstance(message.content, list):
            for part in message.content:
                image = part.image_url
                if image is not None:
                    peek.images = True
                    url = image if isinstance(image, str) else image.url
                    if url is not None and not url.startswith("data:"):
                        unbounded.append("messages.image_url")
                if part.type == "input_audio":
                    peek.audio = True
                if part.file is not None and part.file.file_id is not None:
                    unbounded.append("messages.file_id")
