"""Gemini's generateContent and Bedrock's Converse as providers of the SDK tests: strict, and true to life."""

from __future__ import annotations

import binascii
import itertools
import json
import struct
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.e2e.scenes import CACHED, INPUT, OUTPUT, REASONING, SIGNATURE, Scene, scene_of
from tests.e2e.shapes import ANY, OneOf, wrong
from tests.provider import SSE, Asked, Wire

Json = dict[str, Any]

# ---------------------------------------------------------------- Gemini

_BLOB = {"mimeType!": str, "data!": str, "displayName": str}
_PART = OneOf(
    {
        "text": str,
        "inlineData": _BLOB,
        "fileData": {"mimeType": str, "fileUri!": str},
        "functionCall": {"id": str, "name!": str, "args": dict},
        "functionResponse": {"id": str, "name!": str, "response!": dict, "parts": [{"inlineData": _BLOB}]},
    },
    {"thought": bool, "thoughtSignature": str},
)
_CONTENT = {"role": frozenset(("user", "model")), "parts!": [_PART]}
_FUNCTION = {"name!": str, "description": str, "parameters": dict, "parametersJsonSchema": ANY}
_GENERATION = {
    "stopSequences": [str],
    "responseMimeType": frozenset(("text/plain", "application/json")),
    "responseSchema": dict,
    "responseJsonSchema": ANY,
    "candidateCount": int,
    "maxOutputTokens": int,
    "temperature": float,
    "topP": float,
    "topK": int,
    "seed": int,
    "presencePenalty": float,
    "frequencyPenalty": float,
    "responseLogprobs": bool,
    "logprobs": int,
    "thinkingConfig": {"includeThoughts": bool, "thinkingBudget": int, "thinkingLevel": str},
}
_CALLING = {"mode": frozenset(("AUTO", "ANY", "NONE", "VALIDATED")), "allowedFunctionNames": [str]}
_GENERATE = {
    "model": str,
    "contents!": [_CONTENT],
    "systemInstruction": {"role": str, "parts!": [{"text!": str}]},
    "tools": [{"functionDeclarations!": [_FUNCTION]}],
    "toolConfig": {"functionCallingConfig": _CALLING},
    "safetySettings": [{"category!": str, "threshold!": str}],
    "generationConfig": _GENERATION,
}
_EMBED = {"model!": str, "content!": {"parts!": [{"text!": str}]}, "outputDimensionality": int}


def wrong_gemini(asked: Asked) -> list[str]:
    """What is wrong with a request to Gemini."""
    body, path = asked.json, urlsplit(asked.target)
    model, _, method = path.path.removeprefix("/v1beta/models/").partition(":")
    if method == "countTokens":
        problems = wrong(body, {"generateContentRequest": {**_GENERATE, "model!": str}, "contents": [_CONTENT]})
        named = body.get("generateContentRequest", {}).get("model")
        return problems + ([] if named == f"models/{model}" else [f"model is {named}"])
    if method == "batchEmbedContents":
        named = [f"model is {one['model']}" for one in body["requests"] if one["model"] != f"models/{model}"]
        return wrong(body, {"requests!": [_EMBED]}) + named
    if method not in ("generateContent", "streamGenerateContent"):
        return [f"{asked.target} is no path of ours"]
    problems = [] if path.query == ("alt=sse" if "stream" in method else "") else [f"the query is {path.query}"]
    problems += wrong(body, _GENERATE)
    if problems:
        return problems
    thinking = body.get("generationConfig", {}).get("thinkingConfig", {})
    if "thinkingLevel" in thinking and ("thinkingBudget" in thinking or model.startswith("gemini-2")):
        problems.append("thinking level is not supported for this model, or not beside a budget")
    called: list[str] = []
    for content in body["contents"]:
        answered = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        if sorted(answered) != sorted(called):
            problems.append("the number of function response parts must equal that of function call parts")
        calls = [part for part in content["parts"] if "functionCall" in part]
        called = [part["functionCall"]["name"] for part in calls]
        if calls and model.startswith("gemini-3") and not calls[0].get("thoughtSignature"):
            problems.append("Function call is missing a thought_signature in functionCall parts")
        for part in content["parts"]:
            if part.get("thoughtSignature") not in (None, "Q2lVQg==", "skip_thought_signature_validator"):
                problems.append("Thought signature is not valid")
    return problems


async def gemini(wire: Wire, asked: Asked) -> None:
    """Answers as Gemini does."""
    body = asked.json
    if ":countTokens" in asked.target:
        details = [{"modality": "TEXT", "tokenCount": 123}]
        return await wire.plain(200, json.dumps({"totalTokens": 123, "promptTokensDetails": details}).encode())
    if ":batchEmbedContents" in asked.target:
        vectors = [{"values": [0.5, -0.25, 1.0]} for _ in body["requests"]]
        return await wire.plain(200, json.dumps({"embeddings": vectors}).encode())
    scene = scene_of(asked.body)
    thinks = body.get("generationConfig", {}).get("thinkingConfig", {}).get("includeThoughts")
    head = {"modelVersion": asked.target.split("/")[-1].partition(":")[0], "responseId": "mAIoadHk"}
    usage: Json = {
        "promptTokenCount": INPUT,
        "cachedContentTokenCount": CACHED,
        "candidatesTokenCount": OUTPUT - (REASONING if scene.thought else 0),
        "totalTokenCount": INPUT + OUTPUT,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": INPUT}],
    }
    if scene.thought:
        usage["thoughtsTokenCount"] = REASONING
    parts = _gemini_parts(scene, bool(thinks))
    finish = "MAX_TOKENS" if scene.cut else "STOP"
    if "alt=sse" not in asked.target:
        candidates: list[Json] = []
        for index in range(scene.choices):
            one: Json = {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": index}
            if scene.logprobs:
                one |= {"avgLogprobs": -0.25, "logprobsResult": _gemini_logprobs(scene.text)}
            candidates.append(one)
        return await wire.plain(200, json.dumps({"candidates": candidates, "usageMetadata": usage, **head}).encode())
    await wire.head(200, SSE)

    async def say(index: int, part: Json, last: bool = False, probs: bool = False) -> None:
        one: Json = {"content": {"role": "model", "parts": [part]}, "index": index}
        if probs:
            one["logprobsResult"] = _gemini_logprobs(scene.text)
        if last:
            one["finishReason"] = finish
        value = {"candidates": [one], "usageMetadata": usage, **head}
        await wire.chunk(b"data: " + json.dumps(value).encode() + b"\r\n\r\n")

    for index in range(scene.choices):
        for part in parts:
            if "text" in part:
                for piece in scene.pieces(part["text"]):
                    await say(index, {**part, "text": piece})
            else:
                await say(index, part)
        await say(index, {"text": ""}, last=True, probs=scene.logprobs)
    await wire.end()


def _gemini_parts(scene: Scene, thinks: bool) -> list[Json]:
    parts: list[Json] = []
    if scene.thought and thinks:
        parts.append({"text": scene.thought, "thought": True})
    if scene.text:
        parts.append({"text": scene.text})
    for i, (name, arguments) in enumerate(scene.calls):
        part: Json = {"functionCall": {"name": name, "args": arguments}}
        if not i:
            part["thoughtSignature"] = "Q2lVQg=="
        parts.append(part)
    return parts


def _gemini_logprobs(text: str) -> Json:
    words = [word if not i else f" {word}" for i, word in enumerate(text.split(" "))]
    chosen = [{"token": word, "tokenId": i, "logProbability": -0.25} for i, word in enumerate(words)]
    other = {"token": "No", "tokenId": 7, "logProbability": -2.5}
    return {"chosenCandidates": chosen, "topCandidates": [{"candidates": [one, other]} for one in chosen]}


_GOOGLE = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
_GOOGLE |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}


def gemini_error(status: int, message: str) -> bytes:
    return json.dumps(
        {"error": {"code": status, "message": message, "status": _GOOGLE.get(status, "UNKNOWN")}}
    ).encode()


# ---------------------------------------------------------------- Bedrock

_SOURCE = OneOf({"bytes": str, "s3Location": {"uri!": str, "bucketOwner": str}})
_IMAGE = {"format!": frozenset(("png", "jpeg", "gif", "webp")), "source!": _SOURCE}
_DOCUMENT = {"format!": str, "name!": str, "source!": _SOURCE}
_CACHE = {"type!": frozenset(("default",)), "ttl": str}
_RESULT = OneOf({"text": str, "json": ANY, "image": _IMAGE, "document": _DOCUMENT})
_BLOCK = OneOf(
    {
        "text": str,
        "image": _IMAGE,
        "document": _DOCUMENT,
        "toolUse": {"toolUseId!": str, "name!": str, "input!": ANY},
        "toolResult": {"toolUseId!": str, "content!": [_RESULT], "status": frozenset(("success", "error"))},
        "reasoningContent": OneOf({"reasoningText": {"text!": str, "signature": str}, "redactedContent": str}),
        "cachePoint": _CACHE,
    }
)
_TOOL = OneOf(
    {
        "toolSpec": {"name!": str, "description": str, "inputSchema!": {"json!": dict}, "strict": bool},
        "cachePoint": _CACHE,
    }
)
_SCHEMA = {"schema!": str, "name": str, "description": str}
_CONVERSE = {
    "messages!": [{"role!": frozenset(("user", "assistant")), "content!": [_BLOCK]}],
    "system": [OneOf({"text": str, "cachePoint": _CACHE})],
    "inferenceConfig": {"maxTokens": int, "temperature": float, "topP": float, "stopSequences": [str]},
    "toolConfig": {"tools!": [_TOOL], "toolChoice": OneOf({"auto": {}, "any": {}, "tool": {"name!": str}})},
    "additionalModelRequestFields": dict,
    "additionalModelResponseFieldPaths": [str],
    "requestMetadata": dict,
    "performanceConfig": {"latency": str},
    "serviceTier": {"type!": str},
    "outputConfig": {
        "textFormat": {"type!": frozenset(("json_schema",)), "structure!": {"jsonSchema!": _SCHEMA}},
        "effort": str,
    },
}
_COUNT = {name: _CONVERSE[name] for name in ("messages!", "system", "toolConfig", "additionalModelRequestFields")}


def wrong_bedrock(asked: Asked) -> list[str]:
    """What is wrong with a request to Bedrock."""
    body = asked.json
    method = asked.target.rpartition("/")[2]
    model = unquote(asked.target.split("/")[2])
    if not asked.target.startswith("/model/") or ":" in asked.target:
        return [f"{asked.target} is no path of ours"]
    if method == "count-tokens":
        return wrong(body, {"input!": OneOf({"converse": _COUNT})})
    if method not in ("converse", "converse-stream"):
        return [f"{asked.target} is no path of ours"]
    problems = wrong(body, _CONVERSE)
    if problems:
        return problems
    roles = [message["role"] for message in body["messages"]]
    if roles[0] != "user" or any(a == b for a, b in itertools.pairwise(roles)):
        problems.append(f"roles must alternate, from user on: {roles}")
    waiting: set[str] = set()
    for message in body["messages"]:
        content = message["content"]
        answered = {block["toolResult"]["toolUseId"] for block in content if "toolResult" in block}
        if answered != waiting:
            problems.append(f"toolUse {waiting} and toolResult {answered} do not match")
        waiting = {block["toolUse"]["toolUseId"] for block in content if "toolUse" in block}
        if waiting and "toolConfig" not in body:
            problems.append("The toolConfig field must be defined when using toolUse and toolResult content blocks")
        for block in content:
            if "text" in block and not block["text"].strip():
                problems.append("the text field in the ContentBlock is blank")
            signed = block.get("reasoningContent", {}).get("reasoningText", {}).get("signature", SIGNATURE)
            if signed != SIGNATURE and "claude" in model:
                problems.append("Invalid signature in reasoningContent")
    thinking = body.get("additionalModelRequestFields", {}).get("thinking", {})
    limit = body.get("inferenceConfig", {}).get("maxTokens", 64000)  # left out: all that the model can
    if thinking.get("type") == "enabled" and thinking["budget_tokens"] >= limit:
        problems.append("max_tokens must be greater than thinking.budget_tokens")
    return problems


async def bedrock(wire: Wire, asked: Asked) -> None:
    """Answers as Bedrock does."""
    ids = {"x-amzn-requestid": "req_of_bedrock"}
    if asked.target.endswith("/count-tokens"):
        return await wire.plain(200, b'{"inputTokens":222}', ids)
    scene = scene_of(asked.body)
    blocks: list[Json] = []
    if scene.thought:
        blocks.append({"reasoningContent": {"reasoningText": {"text": scene.thought, "signature": SIGNATURE}}})
    if scene.text:
        blocks.append({"text": scene.text})
    for i, (name, arguments) in enumerate(scene.calls):
        blocks.append({"toolUse": {"toolUseId": f"tooluse_kZJM{i}", "name": name, "input": arguments}})
    stop = "tool_use" if scene.calls else "max_tokens" if scene.cut else "end_turn"
    usage = {
        "inputTokens": INPUT - CACHED,
        "outputTokens": OUTPUT,
        "totalTokens": INPUT + OUTPUT,
        "cacheReadInputTokens": CACHED,
        "cacheWriteInputTokens": 0,
    }
    if asked.target.endswith("/converse"):
        message = {"role": "assistant", "content": blocks}
        reply = {"output": {"message": message}, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 551}}
        return await wire.plain(200, json.dumps(reply).encode(), ids)
    await wire.head(200, {"content-type": "application/vnd.amazon.eventstream", **ids})
    await wire.chunk(_aws("messageStart", {"p": "abc", "role": "assistant"}))
    for index, block in enumerate(blocks):
        deltas: list[Json]
        if "toolUse" in block:
            start = {name: block["toolUse"][name] for name in ("toolUseId", "name")}
            await wire.chunk(_aws("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": start}}))
            pieces = ["", *scene.pieces(json.dumps(block["toolUse"]["input"]))]
            deltas = [{"toolUse": {"input": piece}} for piece in pieces]
        elif "text" in block:
            deltas = [{"text": piece} for piece in scene.pieces(scene.text)]
        else:
            deltas = [{"reasoningContent": {"text": piece}} for piece in scene.pieces(scene.thought)]
            deltas.append({"reasoningContent": {"signature": SIGNATURE}})
        for delta in deltas:
            await wire.chunk(_aws("contentBlockDelta", {"contentBlockIndex": index, "delta": delta, "p": "abcd"}))
        await wire.chunk(_aws("contentBlockStop", {"contentBlockIndex": index}))
    await wire.chunk(_aws("messageStop", {"stopReason": stop}))
    await wire.chunk(_aws("metadata", {"usage": usage, "metrics": {"latencyMs": 551}}))
    await wire.end()


def _aws(kind: str, value: Json) -> bytes:
    """One message of AWS's event stream."""
    headers = b""
    told = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    for name, text in told.items():
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(text)) + text.encode()
    payload = json.dumps(value).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", binascii.crc32(message))


def bedrock_error(status: int, message: str) -> bytes:
    names = {
        400: "ValidationException",
        401: "UnrecognizedClientException",
        403: "AccessDeniedException",
        429: "ThrottlingException",
    }
    return json.dumps({"message": message, "__type": names.get(status, "InternalServerException")}).encode()
