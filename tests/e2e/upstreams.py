"""Providers of the SDK tests, one for each wire format: strict about what they are asked, true to life in what they say.

Nothing here is made with the product's own readers and writers: the bodies follow the providers' documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import anthropic
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

from tests.e2e.google_and_aws import bedrock, bedrock_error, gemini, gemini_error, wrong_bedrock, wrong_gemini
from tests.e2e.scenes import CACHED, ENCRYPTED, INPUT, OUTPUT, REASONING, SIGNATURE, Scene, scene_of
from tests.e2e.shapes import unlike
from tests.provider import SSE, Asked, Provider, Wire

Json = dict[str, Any]
ANTHROPIC_API_VERSION = anthropic.Anthropic(api_key="-").default_headers["anthropic-version"]
CREATED = 1_760_000_000


class Upstream(Provider):
    """One strict provider. ``problems`` is what was wrong with what it was asked."""

    def __init__(self, wire: str) -> None:
        super().__init__(self._behave)
        self.wire = wire
        self.problems: list[str] = []

    @property
    def last(self) -> Json:
        """The last body that was asked."""
        return self.asked[-1].json

    async def _behave(self, wire: Wire, asked: Asked) -> None:
        problems = _head(self.wire, asked) + _CHECKS[self.wire](asked)
        if problems:
            self.problems += problems
            return await wire.plain(400, _ERRORS[self.wire](400, "; ".join(problems)), _ids(self.wire))
        if "err-" in asked.target or b"err-" in asked.body:
            place = asked.target if "err-" in asked.target else asked.body.decode()
            code = int(place.split("err-")[1][:3])
            return await wire.plain(code, _ERRORS[self.wire](code, f"the provider says {code}"), _ids(self.wire))
        await _ANSWERS[self.wire](wire, asked)


def _ids(wire: str) -> dict[str, str]:
    name = {"anthropic": "request-id", "bedrock": "x-amzn-requestid"}.get(wire, "x-request-id")
    return {name: f"req_of_{wire}"}


def _head(wire: str, asked: Asked) -> list[str]:
    """What is wrong with the method, the key, the content-type."""
    key = {"anthropic": "x-api-key", "gemini": "x-goog-api-key"}.get(wire, "authorization")
    expected = f"key-of-{wire}" if key != "authorization" else f"Bearer key-of-{wire}"
    problems = [] if asked.headers.get(key) == expected else [f"{key} is {asked.headers.get(key)!r}"]
    if asked.method != "POST" or asked.headers.get("content-type") != "application/json":
        problems.append(f"{asked.method} with content-type {asked.headers.get('content-type')}")
    if wire == "anthropic" and asked.headers.get("anthropic-version") not in ("2023-06-01", ANTHROPIC_API_VERSION):
        problems.append(f"anthropic-version is {asked.headers.get('anthropic-version')!r}")
    return problems


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


async def _stream(wire: Wire, events: list[bytes], headers: dict[str, str]) -> None:
    await wire.head(200, {**SSE, **headers})
    for event in events:
        await wire.chunk(event)
    await wire.end()


# ---------------------------------------------------------------- OpenAI chat and embeddings


def wrong_chat(asked: Asked) -> list[str]:
    """What is wrong with a chat or embeddings request."""
    body = asked.json
    if asked.target == "/v1/embeddings":
        extra = set(body) - {"model", "input", "dimensions", "encoding_format", "user"}
        return [f"{name} does not exist" for name in extra]
    if asked.target != "/v1/chat/completions":
        return [f"{asked.target} is no path of ours"]
    params = completion_create_params
    stream = bool(body.get("stream"))
    hint = params.CompletionCreateParamsStreaming if stream else params.CompletionCreateParamsNonStreaming
    # What an answer holds may be sent back with it.
    plain = [{k: v for k, v in one.items() if k not in ("annotations", "refusal")} for one in body["messages"]]
    problems = unlike({**body, "messages": plain}, hint)
    if body["model"].startswith("gpt-5"):
        problems += [
            f"{name} is not supported with this model" for name in ("max_tokens", "temperature") if name in body
        ]
    if "stream_options" in body and not stream:
        problems.append("stream_options without stream")
    asked_for: set[str] = set()
    for message in body["messages"]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in asked_for:
                problems.append("a tool's result for a call that nobody made")
        elif asked_for and message["role"] == "assistant" and message.get("tool_calls"):
            pass
        asked_for |= {call["id"] for call in message.get("tool_calls") or ()}
    return problems


def _chat_usage(scene: Scene) -> Json:
    return {
        "prompt_tokens": INPUT,
        "completion_tokens": OUTPUT,
        "total_tokens": INPUT + OUTPUT,
        "prompt_tokens_details": {"cached_tokens": CACHED, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": REASONING if scene.thought else 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def logprobs_of(text: str) -> list[Json]:
    """One entry per word, as OpenAI gives them."""
    words = [word if not i else f" {word}" for i, word in enumerate(text.split(" "))]
    return [
        {
            "token": word,
            "logprob": -0.25,
            "bytes": list(word.encode()),
            "top_logprobs": [
                {"token": word, "logprob": -0.25, "bytes": list(word.encode())},
                {"token": "No", "logprob": -2.5, "bytes": [78, 111]},
            ],
        }
        for word in words
    ]


def _finish(scene: Scene) -> str:
    return "tool_calls" if scene.calls else "length" if scene.cut else "stop"


async def chat(wire: Wire, asked: Asked) -> None:
    """Answers as OpenAI's chat completions do; reasoning as DeepSeek, vLLM and others show it."""
    body = asked.json
    if asked.target == "/v1/embeddings":
        return await embeddings(wire, body)
    scene = scene_of(asked.body)
    head = {"id": "chatcmpl-CQ1bT8x", "created": CREATED, "model": f"{body['model']}-2025-08-07"}
    calls = [
        {"id": f"call_8Zq{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(scene.calls)
    ]
    logprobs = {"content": logprobs_of(scene.text), "refusal": None} if scene.logprobs else None
    if not body.get("stream"):
        choices: list[Json] = []
        for index in range(scene.choices):
            message: Json = {"role": "assistant", "content": scene.text or None, "refusal": None, "annotations": []}
            if scene.thought:
                message["reasoning_content"] = scene.thought
            if calls:
                message["tool_calls"] = calls
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": _finish(scene)})
        more = {"service_tier": "default", "system_fingerprint": "fp_1a2b"}
        reply = {**head, "object": "chat.completion", "choices": choices, "usage": _chat_usage(scene), **more}
        return await wire.plain(200, _dumps(reply), {"x-request-id": "req_of_openai", "openai-processing-ms": "37"})
    wanted = bool((body.get("stream_options") or {}).get("include_usage"))

    def chunk(index: int, delta: Json, finish: str | None = None, probs: Json | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": probs, "finish_reason": finish}
        value = {**head, "object": "chat.completion.chunk", "service_tier": "default", "choices": [choice]}
        if wanted:
            value["usage"] = None
        return b"data: " + _dumps({**value, "obfuscation": "aB3"}) + b"\n\n"

    out: list[bytes] = []
    for index in range(scene.choices):
        out.append(chunk(index, {"role": "assistant", "content": "", "refusal": None}))
        out += [chunk(index, {"reasoning_content": piece}) for piece in scene.pieces(scene.thought)]
        if logprobs:
            for entry in logprobs["content"]:
                out.append(chunk(index, {"content": entry["token"]}, None, {"content": [entry], "refusal": None}))
        else:
            out += [chunk(index, {"content": piece}) for piece in scene.pieces(scene.text)]
        for number, call in enumerate(calls):
            function = {"name": call["function"]["name"], "arguments": ""}
            out.append(chunk(index, {"tool_calls": [{**call, "index": number, "function": function}]}))
            for piece in scene.pieces(call["function"]["arguments"]):
                out.append(chunk(index, {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}))
    out += [chunk(index, {}, _finish(scene)) for index in range(scene.choices)]
    if wanted:
        last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": _chat_usage(scene)}
        out.append(b"data: " + _dumps(last) + b"\n\n")
    await _stream(wire, [*out, b"data: [DONE]\n\n"], {"x-request-id": "req_of_openai"})


VECTOR = [0.5, -0.25, 1.0]


async def embeddings(wire: Wire, body: Json) -> None:
    """Answers as OpenAI's embeddings do, in base64 where that is asked for."""
    import base64
    import struct

    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = VECTOR
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, _ in enumerate(texts)]
    usage = {"prompt_tokens": 6, "total_tokens": 6}
    await wire.plain(200, _dumps({"object": "list", "data": data, "model": body["model"], "usage": usage}))


_OPENAI_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def openai_error(status: int, message: str) -> bytes:
    kind, code = _OPENAI_TYPES.get(status, ("server_error", None))
    return _dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


# ---------------------------------------------------------------- OpenAI responses


_REASONING_ID = re.compile(r"\.input\[\d+\]\.id is missing")  # what is not stored needs none


def wrong_responses(asked: Asked) -> list[str]:
    """What is wrong with a Responses request."""
    body = asked.json
    if asked.target == "/v1/embeddings":
        return wrong_chat(asked)
    if asked.target != "/v1/responses":
        return [f"{asked.target} is no path of ours"]
    params = response_create_params
    hint = params.ResponseCreateParamsStreaming if body.get("stream") else params.ResponseCreateParamsNonStreaming
    problems = [one for one in unlike(body, hint) if not _REASONING_ID.fullmatch(one)]
    if body["model"].startswith("gpt-5"):
        problems += [f"{name} is not supported with this model" for name in ("temperature", "top_p") if name in body]
    if isinstance(body["input"], list):
        made = {item["call_id"] for item in body["input"] if item.get("type") == "function_call"}
        answered = {item["call_id"] for item in body["input"] if item.get("type") == "function_call_output"}
        if made != answered:
            problems.append(f"calls {made} and outputs {answered} do not match")
        for item in body["input"]:
            if item.get("type") == "reasoning" and item.get("encrypted_content") != ENCRYPTED:
                problems.append("encrypted_content could not be decrypted")
    return problems


async def responses(wire: Wire, asked: Asked) -> None:
    """Answers as OpenAI's Responses API does."""
    body = asked.json
    if asked.target == "/v1/embeddings":
        return await embeddings(wire, body)
    scene = scene_of(asked.body)
    items: list[Json] = []
    if scene.thought:
        summary = [{"type": "summary_text", "text": scene.thought}]
        item: Json = {"id": "rs_0a1", "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (body.get("include") or ()):
            item["encrypted_content"] = ENCRYPTED
        items.append(item)
    if scene.text:
        part: Json = {"type": "output_text", "text": scene.text, "annotations": [], "logprobs": []}
        if scene.logprobs:
            part["logprobs"] = logprobs_of(scene.text)
        items.append(
            {"id": "msg_0a1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
        )
    for i, (name, arguments) in enumerate(scene.calls):
        call = {"call_id": f"call_8Zq{i}", "name": name, "arguments": json.dumps(arguments), "status": "completed"}
        items.append({"id": f"fc_0a{i}", "type": "function_call", **call})
    details = {"input_tokens_details": {"cached_tokens": CACHED}, "total_tokens": INPUT + OUTPUT}
    details["output_tokens_details"] = {"reasoning_tokens": REASONING if scene.thought else 0}
    whole: Json = {
        "id": "resp_0a1b2c",
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if scene.cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if scene.cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": f"{body['model']}-2025-08-07",
        "output": items,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "medium", "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {"input_tokens": INPUT, "output_tokens": OUTPUT, **details},
        "user": None,
        "metadata": {},
    }
    if not body.get("stream"):
        return await wire.plain(200, _dumps(whole), {"x-request-id": "req_of_openai-responses"})
    events = _responses_events(scene, items, whole)
    await _stream(wire, events, {"x-request-id": "req_of_openai-responses"})


def _responses_events(scene: Scene, items: list[Json], whole: Json) -> list[bytes]:
    out: list[bytes] = []

    def say(kind: str, **more: Any) -> None:
        value = {"type": kind, "sequence_number": len(out), **more}
        out.append(f"event: {kind}\n".encode() + b"data: " + _dumps(value) + b"\n\n")

    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    say("response.created", response=begun)
    say("response.in_progress", response=begun)
    for index, item in enumerate(items):
        at = {"item_id": item["id"], "output_index": index}
        if item["type"] == "reasoning":
            say("response.output_item.added", output_index=index, item={**item, "summary": []})
            at |= {"summary_index": 0}
            say("response.reasoning_summary_part.added", **at, part={"type": "summary_text", "text": ""})
            for piece in scene.pieces(scene.thought):
                say("response.reasoning_summary_text.delta", **at, delta=piece, obfuscation="x")
            say("response.reasoning_summary_text.done", **at, text=scene.thought)
            say("response.reasoning_summary_part.done", **at, part=item["summary"][0])
        elif item["type"] == "message":
            say("response.output_item.added", output_index=index, item={**item, "status": "in_progress", "content": []})
            part = item["content"][0]
            at |= {"content_index": 0}
            say("response.content_part.added", **at, part={**part, "text": "", "logprobs": []})
            if scene.logprobs:
                for entry in part["logprobs"]:
                    say("response.output_text.delta", **at, delta=entry["token"], logprobs=[entry])
            else:
                for piece in scene.pieces(scene.text):
                    say("response.output_text.delta", **at, delta=piece, logprobs=[], obfuscation="x")
            say("response.output_text.done", **at, text=scene.text, logprobs=part["logprobs"])
            say("response.content_part.done", **at, part=part)
        else:
            begun_item = {**item, "status": "in_progress", "arguments": ""}
            say("response.output_item.added", output_index=index, item=begun_item)
            for piece in scene.pieces(item["arguments"]):
                say("response.function_call_arguments.delta", **at, delta=piece, obfuscation="x")
            say("response.function_call_arguments.done", **at, arguments=item["arguments"])
        say("response.output_item.done", output_index=index, item=item)
    say(f"response.{whole['status']}", response=whole)
    return out


# ---------------------------------------------------------------- Anthropic


_SAMPLING = ("temperature", "top_p", "top_k")  # what older models take, and the SDK of today no longer names


def wrong_messages(asked: Asked) -> list[str]:
    """What is wrong with a Messages or count_tokens request."""
    body = asked.json
    if asked.target == "/v1/messages/count_tokens":
        return unlike(body, message_count_tokens_params.MessageCountTokensParams)
    if asked.target != "/v1/messages":
        return [f"{asked.target} is no path of ours"]
    params = message_create_params
    hint = params.MessageCreateParamsStreaming if body.get("stream") else params.MessageCreateParamsNonStreaming
    known = {name: value for name, value in body.items() if name not in _SAMPLING}
    problems = unlike(known if body["model"] == "claude-haiku-4-5" else body, hint)
    if problems:
        return problems
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled":
        if not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
            problems.append("max_tokens must be greater than thinking.budget_tokens, which is at least 1024")
        if body.get("temperature", 1) != 1:
            problems.append("temperature may only be set to 1 when thinking is enabled")
    if "temperature" in body and "top_p" in body:
        problems.append("temperature and top_p cannot both be specified for this model")
    if body["messages"][0]["role"] != "user":
        problems.append("first message must use the user role")
    waiting: set[str] = set()
    for message in body["messages"]:
        content = message["content"] if isinstance(message["content"], list) else []
        if isinstance(message["content"], str) and not message["content"]:
            problems.append("all messages must have non-empty content")
        answered = {block["tool_use_id"] for block in content if block["type"] == "tool_result"}
        if answered != waiting:
            problems.append(f"tool_use {waiting} and tool_result {answered} do not match")
        waiting = {block["id"] for block in content if block["type"] == "tool_use"}
        for block in content:
            if block["type"] == "text" and not block["text"].strip():
                problems.append("text content blocks must contain non-whitespace text")
            if block["type"] == "thinking" and block["signature"] != SIGNATURE:
                problems.append("Invalid `signature` in `thinking` block")
        kinds = [block["type"] for block in content]
        if "tool_result" in kinds and kinds[0] != "tool_result":
            problems.append("tool_result blocks must come first")
    return problems


async def messages(wire: Wire, asked: Asked) -> None:
    """Answers as Anthropic's Messages API does."""
    body = asked.json
    ids = {"request-id": "req_of_anthropic"}
    if asked.target.endswith("count_tokens"):
        return await wire.plain(200, b'{"input_tokens":321}', ids)
    scene = scene_of(asked.body)
    blocks: list[Json] = []
    if scene.thought:
        blocks.append({"type": "thinking", "thinking": scene.thought, "signature": SIGNATURE})
    if scene.text:
        blocks.append({"type": "text", "text": scene.text})
    for i, (name, arguments) in enumerate(scene.calls):
        blocks.append({"type": "tool_use", "id": f"toolu_01A{i}", "name": name, "input": arguments})
    usage = {
        "input_tokens": INPUT - CACHED,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": CACHED,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": OUTPUT,
        "service_tier": "standard",
    }
    stop = "tool_use" if scene.calls else "max_tokens" if scene.cut else "end_turn"
    message = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": f"{body['model']}-20251001",
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }
    if not body.get("stream"):
        return await wire.plain(200, _dumps(message), ids)
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    out = [_event("message_start", message=begun), _event("ping")]
    for index, block in enumerate(blocks):
        if block["type"] == "thinking":
            out.append(
                _event("content_block_start", index=index, content_block={**block, "thinking": "", "signature": ""})
            )
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in scene.pieces(scene.thought)]
            deltas.append({"type": "signature_delta", "signature": SIGNATURE})
        elif block["type"] == "text":
            out.append(_event("content_block_start", index=index, content_block={**block, "text": ""}))
            deltas = [{"type": "text_delta", "text": piece} for piece in scene.pieces(scene.text)]
        else:
            out.append(_event("content_block_start", index=index, content_block={**block, "input": {}}))
            pieces = ["", *scene.pieces(json.dumps(block["input"]))]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        out += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
        out.append(_event("content_block_stop", index=index))
    out.append(
        _event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": OUTPUT})
    )
    await _stream(wire, [*out, _event("message_stop")], ids)


def _event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + _dumps({"type": kind, **more}) + b"\n\n"


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def anthropic_error(status: int, message: str) -> bytes:
    error = {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message}
    return _dumps({"type": "error", "error": error, "request_id": "req_of_anthropic"})


_CHECKS: dict[str, Callable[[Asked], list[str]]] = {
    "openai": wrong_chat,
    "openai-responses": wrong_responses,
    "anthropic": wrong_messages,
    "gemini": wrong_gemini,
    "bedrock": wrong_bedrock,
}
_ANSWERS = {"openai": chat, "openai-responses": responses, "anthropic": messages, "gemini": gemini, "bedrock": bedrock}
_ERRORS = {
    "openai": openai_error,
    "openai-responses": openai_error,
    "anthropic": anthropic_error,
    "gemini": gemini_error,
    "bedrock": bedrock_error,
}
WIRES = tuple(_CHECKS)
