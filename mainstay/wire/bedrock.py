"""The wire format of Amazon Bedrock's Converse and ConverseStream, as an upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, MainstayError, Unsupported, UpstreamFailed
from mainstay.core.event import End, Event, Finish, Start, UsageSeen
from mainstay.core.model import ModelFacts
from mainstay.core.request import Request
from mainstay.wire import bedrock_reading, bedrock_reply, bedrock_request, bedrock_writing
from mainstay.wire.bedrock_errors import read_error_body, write_error
from mainstay.wire.dialect import Fate, Field, Peek, Written
from mainstay.wire.json_shape import decode_object
from mainstay.wire.openai_errors import retry_after

_CONVERSATIONS = ("chat", "responses", "messages")
_COUNTED = ("messages", "system", "toolConfig", "additionalModelRequestFields")


class Bedrock:
    """``Dialect`` of Converse. Callers do not speak it in this release: ``peek`` refuses them."""

    name = "bedrock"
    fields: Mapping[str, Field] = bedrock_request.FIELDS
    expresses: Mapping[str, Fate] = bedrock_request.EXPRESSES

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    def peek(self, operation: str, body: bytes, content_type: str) -> Peek:
        """Always raises ``Invalid``."""
        raise Invalid("callers cannot speak Bedrock's format here; use chat completions, responses or messages")

    def read_request(self, body: bytes) -> Request:
        """The canonical request. Raises ``Invalid`` or ``Unsupported`` naming the field."""
        return bedrock_reading.read_request(body)

    def write_reply(self, events: Sequence[Event], request: bytes | None = None) -> bytes:
        """A plain reply: all events of it, folded."""
        return bedrock_writing.write_reply(events)

    def writer(self, include_usage: bool, request: bytes | None = None) -> bedrock_writing.StreamWriter:
        """A writer for one streamed reply; Bedrock's streams always tell the usage."""
        return bedrock_writing.StreamWriter()

    def write_error(self, error: MainstayError, status: int) -> bytes:
        """The body of an error reply in AWS's shape."""
        return write_error(error, status)

    def path(self, operation: str, model: str, stream: bool) -> str:
        """The path below the runtime's host; ids and ARNs are quoted, slashes and colons included."""
        if operation in _CONVERSATIONS:
            return f"/model/{quote(model, safe='-._~')}/{'converse-stream' if stream else 'converse'}"
        if operation == "count_tokens":
            return f"/model/{quote(model, safe='-._~')}/count-tokens"
        if operation == "embeddings":
            return f"/model/{quote(model, safe='-._~')}/invoke"
        raise Unsupported(f"{operation} does not exist in Bedrock's format; use another target", field="model")

    def rewrite(self, operation: str, body: bytes, peek: Peek, model: str, ask_usage: bool) -> bytes:
        """The body as it is: the path names the model, and usage is always told."""
        return body

    def write_request(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The canonical request as a Converse body. Raises ``Unsupported`` for what it cannot say."""
        return bedrock_request.write_request(request, model, facts)

    def glance(self, operation: str, body: bytes) -> tuple[Event, ...]:
        """Of a plain reply: Start, Finish, UsageSeen, End; no content."""
        events = bedrock_reply.read_reply(body)
        return tuple(event for event in events if isinstance(event, Start | Finish | UsageSeen | End))

    def read_reply(self, body: bytes) -> tuple[Event, ...]:
        """A whole plain reply as events. Raises ``UpstreamFailed(unreadable)``."""
        return bedrock_reply.read_reply(body)

    def reader(self, operation: str) -> bedrock_reply.StreamReader:
        """A reader for one streamed reply."""
        return bedrock_reply.StreamReader()

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailed:
        """What an upstream's error reply means."""
        error = read_error_body(headers.get("x-amzn-errortype", ""), body, status)
        return UpstreamFailed(
            error.kind,
            error.message,
            status=status,
            retry_after=retry_after(headers, self._clock),
            body=body,
            dialect=self.name,
            provider_code=error.type,
        )

    def write_count(self, request: Request, model: str, facts: ModelFacts) -> Written:
        """The body of ``count-tokens`` for the canonical request."""
        written = bedrock_request.write_request(request, model, facts)
        asked = msgspec.json.decode(written.body, type=dict[str, msgspec.Raw])
        counted = {name: asked[name] for name in _COUNTED if name in asked}
        return Written(msgspec.json.encode({"input": {"converse": counted}}), written.dropped)

    def read_count(self, body: bytes) -> int:
        """The tokens that ``count-tokens`` counted. Raises ``UpstreamFailed(unreadable)``."""
        try:
            total = decode_object(body).get("inputTokens")
        except Invalid:
            total = None
        if not isinstance(total, int):
            raise UpstreamFailed("unreadable", "the provider's reply has no inputTokens")
        return total
