"""A good request for every endpoint of the model API, and a provider that answers them all as OpenAI does."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any, NamedTuple

from tests.provider import SSE, Asked, Wire

BOUNDARY = "the-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Ask(NamedTuple):
    """One endpoint's request: its fields, whether it is a form, and how a stream is asked for (None: it has none)."""

    fields: dict[str, Any]
    stream: dict[str, Any] | None = None
    file: tuple[str, str, str, bytes] | None = None

    def body(self, model: str, stream: bool = False, said: str = "hello") -> tuple[bytes, str]:
        """The body and its content-type. ``said`` is what the request is about."""
        fields: dict[str, Any] = {"model": model, **json.loads(json.dumps(self.fields).replace("SAID", said))}
        if stream:
            assert self.stream is not None
            fields |= self.stream
        if self.file is None:
            return json.dumps(fields).encode(), "application/json"
        parts = [
            f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n'
            f"{value if isinstance(value, str) else json.dumps(value)}".encode()
            for name, value in fields.items()
        ]
        name, filename, kind, content = self.file
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        parts.append(f"{head}content-type: {kind}\r\n\r\n".encode() + content)
        return b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode(), FORM


STREAM = {"stream": True}
SOUND = ("file", "a.wav", "audio/wav", b"RIFF$\x00\x00\x00WAVEfmt " + bytes(64))
PICTURE = ("image", "a.png", "image/png", PIXEL)
USER = [{"role": "user", "content": "SAID"}]

ASKS: dict[str, Ask] = {
    "/v1/chat/completions": Ask({"messages": USER, "max_tokens": 20}, STREAM),
    "/v1/responses": Ask({"input": "SAID", "max_output_tokens": 20}, STREAM),
    "/v1/responses/compact": Ask({"input": USER}),
    "/v1/messages": Ask({"messages": USER, "max_tokens": 20}, STREAM),
    "/v1/messages/count_tokens": Ask({"messages": USER}),
    "/v1/embeddings": Ask({"input": "SAID"}),
    "/v1/completions": Ask({"prompt": "SAID", "max_tokens": 20}, STREAM),
    "/v1/moderations": Ask({"input": "SAID"}),
    "/v1/rerank": Ask({"query": "SAID", "documents": ["a", "b"]}),
    "/v1/images/generations": Ask({"prompt": "SAID"}, STREAM),
    "/v1/images/edits": Ask({"prompt": "SAID"}, STREAM, PICTURE),
    "/v1/images/variations": Ask({"n": "1"}, None, PICTURE),
    "/v1/audio/transcriptions": Ask({"prompt": "SAID"}, STREAM, SOUND),
    "/v1/audio/translations": Ask({"prompt": "SAID"}, None, SOUND),
    "/v1/audio/speech": Ask({"input": "SAID", "voice": "alloy"}, {"stream_format": "sse"}),
}
"""By path. A new endpoint needs a row here, which the matrix then tests."""

CASES = [(path, stream) for path, ask in ASKS.items() for stream in ((False, True) if ask.stream else (False,))]
"""Every endpoint, plain and, where it has it, streamed."""


def answers(said: str) -> Any:
    """A provider that says ``said`` at every one of OpenAI's endpoints."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    counted = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    message = {"role": "assistant", "content": said, "refusal": None, "annotations": []}
    head = {"id": "chatcmpl-9", "created": 1760000000, "model": "gpt-4o-mini-2024-07-18"}
    text = {"text": said, "index": 0, "logprobs": None, "finish_reason": "stop"}
    plain: dict[str, Any] = {
        "/v1/chat/completions": {
            **head,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage,
        },
        "/v1/completions": {**head, "object": "text_completion", "choices": [text], "usage": usage},
        "/v1/embeddings": {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        },
        "/v1/moderations": {
            "id": "modr-1",
            "model": "omni",
            "results": [{"flagged": False, "categories": {"x": said}}],
        },
        "/v1/rerank": {"id": "r", "results": [{"index": 1, "relevance_score": 0.9}], "meta": {"said": said}},
        "/v1/audio/transcriptions": {"text": said, "usage": {"type": "duration", "seconds": 7}},
        "/v1/audio/translations": {"text": said},
    }
    for path in ("generations", "edits", "variations"):
        data = [{"b64_json": base64.b64encode(said.encode()).decode(), "revised_prompt": said}]
        plain[f"/v1/images/{path}"] = {"created": 1760000000, "data": data, "usage": counted}

    def chunk(delta: dict[str, Any] | None, finish: str | None, **more: Any) -> dict[str, Any]:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return {**head, "object": "chat.completion.chunk", "choices": choices, **more}

    image = base64.b64encode(said.encode()).decode()
    streamed: dict[str, list[dict[str, Any]]] = {
        "/v1/chat/completions": [
            chunk({"role": "assistant", "content": ""}, None),
            chunk({"content": said}, None),
            chunk({}, "stop"),
            chunk(None, None, usage=usage),
        ],
        "/v1/completions": [
            {**head, "object": "text_completion", "choices": [text]},
            {**head, "object": "text_completion", "choices": [], "usage": usage},
        ],
        "/v1/images/generations": [{"type": "image_generation.completed", "b64_json": image, "usage": counted}],
        "/v1/images/edits": [{"type": "image_edit.completed", "b64_json": image, "usage": counted}],
        "/v1/audio/transcriptions": [
            {"type": "transcript.text.delta", "delta": said},
            {"type": "transcript.text.done", "text": said, "usage": {"type": "tokens", **counted}},
        ],
        "/v1/audio/speech": [
            {"type": "speech.audio.delta", "audio": image},
            {"type": "speech.audio.done", "usage": counted},
        ],
    }

    async def behave(wire: Wire, asked: Asked) -> None:
        wants = b'"stream": true' in asked.body or b'"stream":true' in asked.body or b'name="stream"' in asked.body
        path = asked.target
        if path == "/v1/audio/speech" and b'"sse"' not in asked.body:
            return await wire.plain(
                200, b"ID3" + struct.pack("<4f", 1, 2, 3, 4) + said.encode(), {"content-type": "audio/mpeg"}
            )
        if not wants and b'"sse"' not in asked.body:
            return await wire.plain(200, json.dumps(plain[path]).encode())
        await wire.head(200, SSE)
        for event in streamed[path]:
            named = f"event: {event['type']}\n".encode() if "type" in event else b""
            await wire.chunk(named + b"data: " + json.dumps(event).encode() + b"\n\n")
        if "completions" in path:
            await wire.chunk(b"data: [DONE]\n\n")
        await wire.end()

    return behave
