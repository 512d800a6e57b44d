"""The response object: what it repeats of its request, usage, annotations, how it ended; and items while they are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec

from mainstay.core.errors import MainstayError, OverLimit, Refused, UpstreamFailed
from mainstay.core.event import Finish
from mainstay.core.usage import Usage

Json = dict[str, Any]

_loose = msgspec.json.Decoder(dict[str, Any])

_ECHOED: Mapping[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The fields of a request that its response repeats, and what they are where the request does not say."""


def usage_json(usage: Usage) -> Json:
    """``usage`` as the field of that name."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def response_id_of(upstream_id: str) -> str:
    """The id that a translated reply has: always ``resp_…``."""
    return upstream_id if upstream_id.startswith("resp_") else f"resp_{upstream_id or 'unnamed'}"


def echo(request: bytes | None) -> Json:
    """The part of a response object that repeats the request; ``request`` is the caller's body."""
    given: Json = {}
    if request is not None:
        try:
            given = _loose.decode(request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            given = {}
    said = {key: default if given.get(key) is None else given[key] for key, default in _ECHOED.items()}
    reasoning = cast(Json, given["reasoning"]) if isinstance(given.get("reasoning"), dict) else {}
    said["reasoning"] = {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")}
    text = cast(Json, given["text"]) if isinstance(given.get("text"), dict) else {}
    said["text"] = {"format": {"type": "text"}} | {key: value for key, value in text.items() if value is not None}
    tools = cast(list[Any], given["tools"]) if isinstance(given.get("tools"), list) else []
    said["tools"] = [_tool(cast(Json, tool)) for tool in tools if isinstance(tool, dict)]
    return said


def _tool(tool: Json) -> Json:
    return {"description": None, "parameters": None, "strict": None} | tool if tool.get("type") == "function" else tool


def logprobs_json(entries: Sequence[Mapping[str, Any]] | None) -> list[Json]:
    """Log probabilities in this format: ``bytes`` and ``top_logprobs`` are always there."""
    found: list[Json] = []
    for entry in entries or ():
        token = str(entry.get("token", ""))
        written: Json = {"token": token, "logprob": entry.get("logprob", 0.0)}
        written["bytes"] = entry.get("bytes") or list(token.encode())
        if "top_logprobs" in entry:
            written["top_logprobs"] = logprobs_json(entry["top_logprobs"])
        found.append(written)
    return found


def annotation_json(data: Mapping[str, Any]) -> Json:
    """A citation as an annotation with all of its required fields."""
    kind = data.get("type", "url_citation")
    inner = data.get(kind) if isinstance(kind, str) else None
    flat = {**data, **cast(Mapping[str, Any], inner)} if isinstance(inner, Mapping) else dict(data)
    if isinstance(inner, Mapping):
        del flat[kind]
    flat["type"] = kind
    flat.pop("native", None)  # another format's own words for it
    if kind == "url_citation":
        for key, default in (("url", ""), ("title", ""), ("start_index", 0), ("end_index", 0)):
            if flat.get(key) is None:
                flat[key] = default
    elif kind == "file_citation":
        for key, default in (("file_id", ""), ("filename", ""), ("index", 0)):
            if flat.get(key) is None:
                flat[key] = default
    return flat


def outcome(finish: Finish | None, refused: bool) -> tuple[Literal["completed", "incomplete"], Json | None]:
    """The status and the details that say why a reply is incomplete.

    A refusal in so many words (``refused``) is a part of the reply that says so; one without is told as a filter's.
    """
    if finish is None or finish.reason in ("stop", "tool_calls") or (finish.reason == "refusal" and refused):
        return "completed", None
    if finish.reason == "length":
        return "incomplete", {"reason": "max_output_tokens"}
    if finish.reason in ("content_filter", "refusal"):
        return "incomplete", {"reason": "content_filter"}
    return "incomplete", {}  # it stopped for a reason that this format has no word for


def failure_code(error: MainstayError) -> str:
    """The nearest of the few codes that a failed response may have."""
    if isinstance(error, OverLimit) or (isinstance(error, UpstreamFailed) and error.kind in ("rate_limit", "quota")):
        return "rate_limit_exceeded"
    if isinstance(error, Refused):
        return "invalid_prompt"
    if isinstance(error, UpstreamFailed) and error.kind in ("content_filter", "context_length", "invalid"):
        return "invalid_prompt"
    return "server_error"


@dataclass(slots=True)
class OpenPart:
    """One part of a message, being written."""

    kind: Literal["output_text", "refusal"]
    index: int
    head: bytes  # the beginning of each of its delta events
    text: list[str] = field(default_factory=list[str])
    logprobs: list[Json] = field(default_factory=list[Json])
    annotations: list[Json] = field(default_factory=list[Json])

    def json(self) -> Json:
        """The part as far as it was written."""
        text = "".join(self.text)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "annotations": self.annotations, "logprobs": self.logprobs, "text": text}


@dataclass(slots=True)
class OpenItem:
    """One output item, being written; ``json`` is it as it will be when it is done."""

    kind: Literal["message", "reasoning", "function_call"]
    index: int
    json: Json
    head: bytes = b""  # the beginning of each of its delta events, for reasoning and function calls
    text: list[str] = field(default_factory=list[str])
    part: OpenPart | None = None

    @property
    def id(self) -> str:
        """The item's id."""
        return cast(str, self.json["id"])
