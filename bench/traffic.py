"""What is sent and answered in every case, byte for byte the same for all that serve it; and the configurations."""

from __future__ import annotations

import json
from typing import Any

CONNECTIONS = 32
PROMPT = "Please tell me in a few short sentences what I can do about a parcel that was sent nine days ago. "
SYSTEM = "You are a helpful assistant of the support team of a company that sells furniture."
REPLY_TEXT = (
    "First look at the tracking page; then ask the neighbours. If nothing helps, write to us and we send a new one."
)
LARGE = 100_000
STREAMS = 64
EVENTS = 200

SECRET = "ms-bench-secret-of-the-bench"
PLAIN_KEY = "ms-bench-plain-secret-of-the-bench"

FULL, BARE, CROSS, CROSS_BARE = "chat", "small", "across", "claude"
"""Models that callers name: a route with everything on, a bare model, a route to another dialect, and a bare model of it."""


def chat_request(model: str, *, size: int = 200, stream: bool = False, unique: str = "") -> bytes:
    """A request for chat completions whose texts have ``size`` characters in all; ``unique`` makes it a new one."""
    room = max(size - len(SYSTEM) - len(unique), 0)
    prompt = (PROMPT * (room // len(PROMPT) + 1))[:room] + unique
    body: dict[str, Any] = {"model": model, "max_tokens": 256}
    if stream:
        body["stream"] = True
    body["messages"] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
    return json.dumps(body, separators=(",", ":")).encode()


def chat_reply(size: int = 0) -> bytes:
    """A reply of OpenAI's: about 400 bytes, or with a text of ``size`` characters."""
    text = REPLY_TEXT if not size else (REPLY_TEXT * (size // len(REPLY_TEXT) + 1))[:size]
    reply: dict[str, Any] = {
        "id": "chatcmpl-C4Gm9xikLXbgE8He0BHWeoM03aa72",
        "object": "chat.completion",
        "created": 1755133833,
        "model": "gpt-small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 58, "completion_tokens": 27, "total_tokens": 85},
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def messages_reply(size: int = 0) -> bytes:
    """The same answer as Anthropic gives it."""
    text = REPLY_TEXT if not size else (REPLY_TEXT * (size // len(REPLY_TEXT) + 1))[:size]
    reply: dict[str, Any] = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-large",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 58, "output_tokens": 27},
    }
    return json.dumps(reply, separators=(",", ":")).encode()


def _line(value: dict[str, Any], event: str = "") -> bytes:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


def chat_events(count: int = EVENTS) -> list[bytes]:
    """``count`` events of OpenAI's, the last ones the reason of the end, the usage and ``[DONE]``."""

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": "chatcmpl-C4Gm9xikLXbgE8He0BHWeoM03aa72", "object": "chat.completion.chunk"}
        return _line({**head, "created": 1755133833, "model": "gpt-small", "choices": choices, **more})

    def delta(delta: dict[str, str], finish: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": delta, "finish_reason": finish}])

    usage = {"prompt_tokens": 58, "completion_tokens": count, "total_tokens": 58 + count}
    words = REPLY_TEXT.split()
    events = [delta({"role": "assistant", "content": ""})]
    events += [delta({"content": words[i % len(words)] + " "}) for i in range(count - 4)]
    return [*events, delta({}, "stop"), chunk([], usage=usage), b"data: [DONE]\n\n"]


def messages_events(count: int = EVENTS) -> list[bytes]:
    """``count`` events of Anthropic's."""
    message = json.loads(messages_reply())
    message.update(content=[], stop_reason=None, usage={"input_tokens": 58, "output_tokens": 1})
    words = REPLY_TEXT.split()
    events = [_line({"type": "message_start", "message": message}, "message_start")]
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    events.append(_line(block, "content_block_start"))
    for i in range(count - 5):
        delta = {"type": "text_delta", "text": words[i % len(words)] + " "}
        events.append(_line({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta"))
    events.append(_line({"type": "content_block_stop", "index": 0}, "content_block_stop"))
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    events.append(_line({"type": "message_delta", "delta": end, "usage": {"output_tokens": count}}, "message_delta"))
    return [*events, _line({"type": "message_stop"}, "message_stop")]


SMALL_PRICE = {"input": 0.15, "output": 0.60, "cached_input": 0.075}
LARGE_PRICE = {"input": 3, "output": 15}


def bundle(openai: str, anthropic: str) -> dict[str, Any]:
    """Mainstay's configuration, given the addresses of the two upstreams.

    The key ``full`` has limits and budgets, its team a budget too; they are so wide that nothing is ever refused. The
    key ``plain`` has none. ``chat`` is a weighted route with a fallback, the cache on; ``small`` a model's own name.
    """
    tree = {"fallback": [{"weighted": {"small": 9, "large": 1}}, "large"]}
    across = {"fallback": [{"weighted": {"claude": 9, "claude-2": 1}}, "claude-2"]}
    limits = {"requests_per_minute": 60_000_000, "tokens_per_minute": 2_000_000_000, "concurrent": 5000}
    return {
        "providers": [
            {"name": "alpha", "wire": "openai", "base_url": openai, "api_key": "${UPSTREAM_KEY}"},
            {"name": "beta", "wire": "anthropic", "base_url": anthropic, "api_key": "${UPSTREAM_KEY}"},
        ],
        "models": [
            {"name": "small", "target": "alpha/gpt-small", "price": SMALL_PRICE},
            {"name": "large", "target": "alpha/gpt-large", "price": LARGE_PRICE},
            {"name": "claude", "target": "beta/claude-small", "price": SMALL_PRICE},
            {"name": "claude-2", "target": "beta/claude-large", "price": LARGE_PRICE},
        ],
        "routes": [
            {"name": FULL, "to": tree, "cache": {"ttl": "10m"}},
            {"name": CROSS, "to": across, "cache": {"ttl": "10m"}},
        ],
        "teams": [{"name": "bench", "budget": {"usd": 500_000, "per": "month"}}, {"name": "free"}],
        "keys": [
            {
                "name": "full",
                "team": "bench",
                "secret": "${FULL_KEY}",
                "limits": limits,
                "budget": {"usd": 50_000, "per": "day"},
            },
            {"name": "plain", "team": "free", "secret": "${PLAIN_KEY}", "admin": True},
        ],
    }
