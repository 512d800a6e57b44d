"""The wire format of Gemini's generateContent (v1beta, and Vertex AI's v1), as an upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import FailureKind, Invalid, MainstayError, Unsupported, UpstreamFailed
from mainstay.core.event import End, Event, Finish, Start, UsageSeen
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request
from mainstay.wire import gemini_reading, gemini_reply, gemini_request, gemini_writing
from mainstay.wire.dialect import Fate, Field, Peek, Written
from mainstay.wire.gemini_errors import read_error_body, write_error
from mainstay.wire.json_shape import decode_object
from mainstay.wire.openai_errors import retry_after

_METHODS = {
    "chat": "generateContent",
    "responses": "generateContent",
    "messages": "generateContent",
    "count_tokens": "countTokens",
    "embeddings": "batchEmbedContents",
    "embeddings.predict": "predict",
    "embeddings.content": "embedContent",
}


class Gemini:
    """``Dialect`` of generateContent. Callers do not speak it in this release: ``peek`` refuses them."""

    name = "gemini"
    fields: Mapping[str, Field] = gemini_request.FIELDS
    expresses: Mapping[str, Fate] = gemini_request.EXPRESSES

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    def peek(self, operation: str, body: bytes, content_type: str) -> Peek:
        """Always raises ``Invalid``."""
        raise Invalid("callers cannot speak Gemini's format here; use chat completions, responses or messages")

    def read_request(self, body: bytes) -> Request:
        """The canonical request. Raises ``Invalid`` or ``Unsupported`` naming the field."""
        return gemini_reading.read_request(body)

    def write_reply(self, events: Sequence[Event], request: bytes | None = None) -> bytes:
        """A plain reply: all events of it, folded."""
        return gemini_writing.write_reply(events)

    def writer(self, include_usage: bool, request: bytes | None = None) -> gemini_writing.StreamWriter:
        """A writer for one streamed reply; Gemini's streams always tell the usage."""
        return gemini_writing.StreamWriter()

    def write_error(self, error: MainstayError, status: int) -> bytes:
        """The body of an error reply in Google's shape."""
        return write_error(error, status)

    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path below ``…/v1beta`` (Gemini) or ``…/publishers/google`` (Vertex AI)."""
        method = _METHODS.get(operation)
        if method is None:
            raise Unsupported(f"{operation} does not exist in Gemini's format; use another target", field="model")
        if method == "generateContent" and stream:
            method = "streamGenerateContent?alt=sse"
        folder, _, bare = model.rpartition("/")
        if folder not in ("models", "tunedModels"):
            folder, bare = "models", model
        return f"/{folder}/{quote(bare, safe='-._~@')}:{method}"

    def rewrite(self, operation: str, body: bytes, peek: Peek, model: str, ask_usage: bool) -> bytes:
        """The body as it is: the path names the model, and usage is always told."""
        return body

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The canonical request as a generateContent body. Raises ``Unsupported`` for what it cannot say."""
        return gemini_request.write_request(request, model, facts)

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Of a plain reply: Start, Finish, UsageSeen, End; no content."""
        events = gemini_reply.read_reply(body)
        return tuple(event for event in events if isinstance(event, Start | Finish | UsageSeen | End))

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A whole plain reply as events. Raises ``UpstreamFailed``."""
        return gemini_reply.read_reply(body)

    def reader(self, operation: str) -> gemini_reply.StreamReader:
        """A reader for one streamed reply (``alt=sse``)."""
        return gemini_reply.StreamReader()

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means; Google says in the body when to come back."""
        error = read_error_body(body, status)
        wait = retry_after(headers, self._clock)
        if error is None:
            return UpstreamFailed(
                _kind(status),
                f"the provider answered with status {status}",
                status=status,
                retry_after=wait,
                body=body,
                dialect=self.name,
            )
        return UpstreamFailed(
            error.kind,
            error.message,
            status=status,
            retry_after=wait if wait is not None else error.retry_after,
            body=body,
            dialect=self.name,
            provider_code=error.status,
            field=error.field,
        )

    def write_count(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The body of ``countTokens`` for the canonical request."""
        written = gemini_request.write_request(request, model, facts)
        asked = msgspec.json.decode(written.body, type=dict[str, msgspec.Raw])
        named: dict[str, object] = {"model": model if "/" in model else f"models/{model}"}
        return Written(msgspec.json.encode({"generateContentRequest": named | asked}), written.dropped)

    def read_count(self, body: bytes) -> int:
        """The tokens that ``countTokens`` counted. Raises ``UpstreamFailed(unreadable)``."""
        try:
            total = decode_object(body).get("totalTokens")
        except Invalid:
            total = None
        if not isinstance(total, int):
            raise UpstreamFailed("unreadable", "the provider's reply has no totalTokens")
        return total


def _kind(status: int) -> FailureKind:
    """The kind of an error that has no body of Google's: a proxy's, or a load balancer's."""
    if status in (401, 403):
        return "auth"
    if status == 429:
        return "rate_limit"
    if status == 404:
        return "not_found"
    if status in (408, 504):
        return "timeout"
    if status in (503, 529):
        return "overloaded"
    return "server_error" if status >= 500 else "invalid"
