"""The messages of a Converse request, and what Bedrock allows in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mainstay.core.errors import Invalid, Unsupported
from mainstay.core.request import Audio, Document, Image, Message, Part, Refusal, Text, Thinking, ToolCall, ToolResult
from mainstay.wire.json_shape import arguments

Json = dict[str, Any]
Vendor = Literal["anthropic", "amazon", "cohere", "mistral", "openai", "other"]

TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
AUDIO = frozenset(
    ("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a", "mpeg", "mpga", "pcm", "webm")
)
_MARKED = re.compile(r"[:.]")
_CACHE_MARKS = 4  # Bedrock refuses a request with more


def vendor(model: str) -> Vendor:
    """Who made ``model``, as far as its id or ARN tells."""
    name = model.lower()
    if "anthropic" in name or "claude" in name:
        return "anthropic"
    if "nova" in name:
        return "amazon"
    for part in ("cohere", "mistral", "openai"):
        if f"{part}." in name:
            return part
    if "application-inference-profile/" in name or "provisioned-model/" in name or "prompt-router/" in name:
        return "anthropic"
    return "other" if "." in name else "anthropic"


def cache_point(ttl: str) -> Json:
    """A mark up to which Bedrock keeps the prompt; five minutes is what it does unasked."""
    return {"cachePoint": {"type": "default"} | ({} if ttl == "5m" else {"ttl": ttl})}


class Conversation:
    """Writes the messages of one request: what was dropped, the system prompt and the marks are there to read after it."""

    def __init__(self, made_by: Vendor) -> None:
        self.made_by = made_by
        self.dropped: set[str] = set()
        self.system: list[Json] = []
        self.tools_used = False
        self.marks = 0
        self._documents = 0

    def messages(self, messages: Sequence[Message]) -> list[Json]:
        """Turns of the user's and the model's, which must alternate: neighbours of one side become one turn."""
        turns: list[Json] = []
        only_system = all(message.role in ("system", "developer") for message in messages)
        for message in messages:
            if message.name is not None:
                self.dropped.add("name")
            if message.role in ("system", "developer") and not only_system:
                self.system.extend(self._blocks(message.parts, "system"))
                continue
            role = "assistant" if message.role == "assistant" else "user"
            blocks = self._blocks(message.parts, role)
            if not blocks:
                continue
            if turns and turns[-1]["role"] == role:
                turns[-1]["content"].extend(blocks)
            else:
                turns.append({"role": role, "content": blocks})
        _without_space_at_the_end(turns)
        if not turns:
            raise Invalid("there is nothing to answer; add a message of role user", field="messages")
        return turns

    def _blocks(self, parts: Iterable[Part], role: str) -> list[Json]:
        blocks: list[Json] = []
        for part in parts:
            block = self._block(part, role)
            if block is None:
                continue
            blocks.append(block)
            cache = getattr(part, "cache", None)
            if cache is not None:
                if self.made_by in ("anthropic", "amazon") and self.marks < _CACHE_MARKS:
                    self.marks += 1
                    blocks.append(cache_point(cache))
                else:
                    self.dropped.add("cache_control")
        return blocks

    def _block(self, part: Part, role: str) -> Json | None:
        match part:
            case Text() | Refusal():
                return {"text": part.text} if part.text.strip() else None  # Bedrock refuses blank texts
            case ToolCall() if role == "assistant":
                self.tools_used = True
                return {
                    "toolUse": {"toolUseId": tool_id(part.id), "name": part.name, "input": arguments(part.arguments)}
                }
            case ToolResult() if role == "user":
                self.tools_used = True
                return {"toolResult": self._result(part)}
            case Thinking() if role == "assistant":
                return self._thinking(part)
            case Image() | Audio() | Document() if role != "system":
                return self._media(part)
            case _:
                raise Invalid(f"a {type(part).__name__} cannot stand in a message of role {role}", field="messages")

    def _result(self, part: ToolResult) -> Json:
        content: list[Json] = []
        for item in part.content:
            if isinstance(item, Text):
                if item.text:
                    content.append({"text": item.text})
            else:
                content.append(self._media(item))
        result: Json = {"toolUseId": tool_id(part.id), "content": content}
        if part.is_error:
            result["status"] = "error"
        return result

    def _thinking(self, part: Thinking) -> Json | None:
        # What Claude signed is base64; the signatures of others are marked with a colon or a point, or have an id.
        # Claude wants no thought back that nobody signed.
        foreign = part.id is not None or (part.signature is not None and _MARKED.search(part.signature) is not None)
        if foreign or (part.signature is None and self.made_by == "anthropic"):
            self.dropped.add("thinking")
            return None
        if part.redacted:
            return {"reasoningContent": {"redactedContent": part.signature or ""}}
        signed = {} if part.signature is None else {"signature": part.signature}
        return {"reasoningContent": {"reasoningText": {"text": part.text} | signed}}

    def _media(self, part: Image | Audio | Document) -> Json:
        if isinstance(part, Audio):
            if part.format not in AUDIO:
                raise Unsupported(f"Bedrock takes no sound in {part.format!r}", field="messages")
            return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
        if isinstance(part, Document) and part.file_id is not None:
            raise Unsupported("Bedrock has no stored files; send the file's content", field="messages")
        media_type, data, url = part.media_type, part.data, part.url
        if url is not None and url.startswith("data:"):
            head, _, data = url[5:].partition(",")
            if not head.endswith(";base64"):
                raise Invalid("a data: address must hold base64", field="messages")
            media_type, url = head.split(";")[0] or media_type, None
        if url is not None and not url.startswith("s3://"):
            raise Unsupported(
                "Bedrock fetches nothing from the web; send the content, or an s3:// address", field="messages"
            )
        source: Json = {"bytes": data} if url is None else {"s3Location": {"uri": url}}
        if url is None and data is None:
            raise Invalid("a picture or file has neither an address nor content", field="messages")
        if isinstance(part, Image):
            if part.detail not in (None, "auto"):
                self.dropped.add("detail")
            return {"image": {"format": _format_of(IMAGES, media_type, url, "png"), "source": source}}
        self._documents += 1
        name = document_name(part.name) or f"document {self._documents}"
        return {"document": {"format": _format_of(DOCUMENTS, media_type, url, "pdf"), "name": name, "source": source}}


def _without_space_at_the_end(turns: list[Json]) -> None:
    """A last turn of the assistant is the beginning of the answer; Claude refuses white space at its end."""
    if not turns or turns[-1]["role"] != "assistant":
        return
    blocks = turns[-1]["content"]
    if "text" in blocks[-1]:
        blocks[-1]["text"] = blocks[-1]["text"].rstrip()


def _format_of(formats: Mapping[str, str], media_type: str | None, url: str | None, default: str) -> str:
    ending = (url or "").rpartition(".")[2].lower()
    ending = "jpeg" if ending == "jpg" else ending
    if media_type is None:
        return ending if ending in formats.values() else default
    if media_type.partition(";")[0] not in formats:
        raise Unsupported(f"Bedrock takes no {media_type}", field="messages")
    return formats[media_type.partition(";")[0]]


def document_name(name: str | None) -> str:
    """``name`` as Bedrock allows it: letters, digits, single spaces, hyphens, parentheses and square brackets."""
    clean = re.sub(r"[^a-zA-Z0-9\s()\[\]-]", "-", name or "")
    return re.sub(r"\s+", " ", clean).strip()[:200]


def tool_id(identifier: str) -> str:
    """The id of a tool call as Bedrock allows it; one that it does not allow is replaced, always by the same."""
    if TOOL_ID.fullmatch(identifier):
        return identifier
    return "tool_" + hashlib.sha256(identifier.encode()).hexdigest()[:32]
