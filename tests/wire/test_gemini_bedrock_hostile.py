"""Whatever a provider sends, the Gemini and Bedrock wires answer with events or with an error of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid, UpstreamFailed
from mainstay.wire import eventstream
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.gemini import Gemini

DIALECTS = [Gemini(), Bedrock()]
# fmt: off
KEYS = [
    "candidates", "content", "parts", "text", "thought", "thoughtSignature", "functionCall", "name", "args",
    "id", "finishReason", "index", "usageMetadata", "promptTokenCount", "promptFeedback", "blockReason",
    "error", "code", "message", "status", "details", "@type", "fieldViolations", "groundingMetadata",
    "groundingChunks", "groundingSupports", "segment", "startIndex", "groundingChunkIndices",
    "logprobsResult", "chosenCandidates", "web", "uri", "contents", "systemInstruction", "generationConfig",
    "tools", "functionDeclarations", "toolConfig", "functionResponse", "response", "inlineData", "output",
    "stopReason", "usage", "inputTokens", "delta", "start", "toolUse", "toolUseId", "input",
    "reasoningContent", "reasoningText", "citation", "messages", "system", "inferenceConfig", "outputConfig",
    "additionalModelRequestFields", "thinking", "toolSpec", "inputSchema", "json", "image", "source", "bytes",
    "toolResult", "cachePoint", "role", "type", "data", "mimeType", "additionalModelResponseFields",
    "stop_sequence", "contentBlockIndex",
]
# fmt: on
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**20)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "STOP", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), values, max_size=5).map(msgspec.json.encode), st.binary(max_size=30)
)
DEEP = b'{"candidates":' + b"[" * 100_000


@pytest.mark.parametrize("dialect", DIALECTS, ids=["gemini", "bedrock"])
@given(body=bodies | st.just(DEEP))
def test_plain_replies_and_errors(dialect: Gemini | Bedrock, body: bytes) -> None:
    with suppress(UpstreamFailed):
        assert dialect.read_reply(body)
    failed = dialect.read_error(400, {"x-amzn-errortype": ""}, body)
    assert failed.message
    with suppress(Invalid):
        assert dialect.read_request(body).messages


@given(bodies | st.just(DEEP))
def test_events_of_a_gemini_stream(body: bytes) -> None:
    reader = DIALECTS[0].reader("chat")
    stream = b"data: " + body.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n"
    frames = reader.feed(stream) + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == stream


@given(
    st.sampled_from(["contentBlockDelta", "contentBlockStart", "contentBlockStop", "messageStop", "metadata", ""]),
    st.sampled_from(["event", "exception", "error", ""]),
    bodies | st.just(DEEP),
)
def test_messages_of_a_bedrock_stream(what: str, kind: str, body: bytes) -> None:
    headers: dict[str, Any] = {":event-type": what, ":message-type": kind}
    reader = DIALECTS[1].reader("chat")
    data = eventstream.encode(headers, body)
    assert [frame.raw for frame in reader.feed(data)] == [data]
    reader.finish()
