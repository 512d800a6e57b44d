"""Writes the messages of the canonical request as Anthropic's system prompt and turns."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from mainstay.core.errors import Unsupported
from mainstay.core.model import ModelFacts
from mainstay.core.request import (
    Audio,
    Document,
    Image,
    Message,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from mainstay.wire import anthropic_models
from mainstay.wire.anthropic_cache import Block, control

_ID = re.compile(r"[^A-Za-z0-9_-]")
_MARKED = re.compile(r"[:.]")
_MAGIC = (("/9j/", "image/jpeg"), ("iVBORw0KGgo", "image/png"), ("R0lGOD", "image/gif"), ("UklGR", "image/webp"))
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def conversation(
    messages: tuple[Message, ...], model: str, facts: ModelFacts, dropped: dict[str, None]
) -> tuple[list[Block], list[tuple[str, list[Block]]]]:
    """The system prompt, and the turns: roles alternate, tool results come first in theirs."""
    writer = _Blocks(dropped)
    system: list[Block] = []
    turns: list[tuple[str, list[Block]]] = []
    only_system = all(message.role in ("system", "developer") for message in messages)
    for i, message in enumerate(messages):
        role = {"developer": "system", "tool": "user"}.get(message.role, message.role)
        if message.name is not None:
            dropped["name"] = None
        blocks = writer.blocks(message.parts, role, i)
        if not blocks:
            continue
        if role == "system" and only_system:
            role = "user"  # the API wants something to answer, and this is what there is
        if role == "system" and not turns:
            system += blocks
        elif turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    for role, blocks in turns:
        if role == "user":
            blocks.sort(key=lambda block: block["type"] != "tool_result")
        elif role == "assistant" and any(block["type"] in _THOUGHT for block in blocks):
            _thinking_first(blocks)
    _check_system_turns(turns, model)
    _end(turns, facts)
    if not turns:
        raise Unsupported("Anthropic needs a message of the user besides the system prompt", field="messages")
    return system, turns


_THOUGHT = ("thinking", "redacted_thinking")


def _thinking_first(blocks: list[Block]) -> None:
    """A turn that thinks must begin with it; where it does, its own order stays."""
    if blocks[0]["type"] not in _THOUGHT:
        blocks.sort(key=lambda block: block["type"] not in _THOUGHT)


def _check_system_turns(turns: list[tuple[str, list[Block]]], model: str) -> None:
    for i, (role, _) in enumerate(turns):
        if role != "system":
            continue
        if not anthropic_models.takes_system_turns(model):
            raise Unsupported(
                f"{model} takes system messages only before the conversation; move them to its start", field="messages"
            )
        if turns[i - 1][0] != "user" or (i + 1 < len(turns) and turns[i + 1][0] != "assistant"):
            raise Unsupported(
                "Anthropic takes a system message inside the conversation only after a message of the user and before "
                "the answer to it; move it there, or to the start",
                field="messages",
            )


def _end(turns: list[tuple[str, list[Block]]], facts: ModelFacts) -> None:
    """A last turn of the assistant is the beginning of the answer; the API refuses white space at its end."""
    if not turns or turns[-1][0] != "assistant":
        return
    if facts.prefill is False:
        raise Unsupported(
            "this model does not continue an answer that was begun; end with a message of the user", field="messages"
        )
    blocks = turns[-1][1]
    while blocks and blocks[-1]["type"] == "text":
        blocks[-1]["text"] = blocks[-1]["text"].rstrip()
        if blocks[-1]["text"]:
            return
        blocks.pop()
    if not blocks:
        turns.pop()


class _Blocks:
    """Writes the parts of messages as content blocks."""

    def __init__(self, dropped: dict[str, None]) -> None:
        self._dropped = dropped

    def blocks(self, parts: Iterable[Part], role: str, at: int) -> list[Block]:
        """The blocks of one message. Raises ``Unsupported``."""
        blocks: list[Block] = []
        for part in parts:
            if role == "system" and not isinstance(part, Text):
                raise Unsupported(f"message {at}: Anthropic takes only text in a system message", field="messages")
            block = self._block(part, at)
            if block is not None:
                blocks.append(block)
        return blocks

    def _block(self, part: Part, at: int) -> Block | None:
        if isinstance(part, Text):
            # The API refuses blocks of white space alone, and other formats are full of empty ones.
            return marked({"type": "text", "text": part.text}, part.cache) if part.text.strip() else None
        if isinstance(part, ToolCall):
            block = {
                "type": "tool_use",
                "id": _tool_id(part.id),
                "name": part.name,
                "input": tool_input(part.arguments),
            }
            return marked(block, part.cache)
        if isinstance(part, ToolResult):
            return self._tool_result(part, at)
        if isinstance(part, Thinking):
            return self._thinking(part)
        if isinstance(part, Refusal):
            return {"type": "text", "text": part.text} if part.text.strip() else None
        return self._media(part, at)

    def _tool_result(self, part: ToolResult, at: int) -> Block:
        block: Block = {"type": "tool_result", "tool_use_id": _tool_id(part.id)}
        content = [inner for p in part.content if (inner := self._block(p, at)) is not None]
        block["content"] = text_or_blocks(content) if content else ""
        if part.is_error:
            block["is_error"] = True
        return marked(block, part.cache)

    def _thinking(self, part: Thinking) -> Block | None:
        if part.signature is None or part.id is not None or is_foreign(part.signature):
            # Anthropic takes back only what it signed; the thoughts of another provider are no part of the answer.
            self._dropped["thinking"] = None
            return None
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.signature}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}

    def _media(self, part: Image | Audio | Document, at: int) -> Block:
        if isinstance(part, Audio):
            raise Unsupported(f"message {at}: Anthropic takes no audio", field="messages")
        if isinstance(part, Image):
            if part.detail not in (None, "auto"):
                self._dropped["messages.image.detail"] = None
            return marked({"type": "image", "source": _image_source(part, at)}, part.cache)
        block: Block = {"type": "document", "source": _document_source(part, at)}
        if part.name:
            block["title"] = part.name
        return marked(block, part.cache)


def is_foreign(signature: str) -> bool:
    """Whether another provider signed it: Anthropic signs in base64, and we mark those of others with a colon or a
    point (``gemini:``, ``openai.``, ``mainstay.``)."""
    return _MARKED.search(signature) is not None


def marked(block: Block, cache: str | None) -> Block:
    """``block`` with a cache mark if ``cache`` says so."""
    if cache is not None:
        block["cache_control"] = control(cache)
    return block


def _tool_id(id: str) -> str:
    """The API takes letters, digits, ``_`` and ``-`` in ids; other providers make ids with more."""
    return _ID.sub("_", id)


def tool_input(arguments: str) -> Any:
    """Arguments as the object that the API wants; text that is none, such as a cut one, under the key that
    Anthropic's guide names for it."""
    if not arguments.strip():
        return {}
    try:
        _object(arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"INVALID_JSON": arguments}
    return msgspec.Raw(arguments.encode())


def _image_source(image: Image, at: int) -> Block:
    url, data, media_type = image.url, image.data, image.media_type
    if url is not None and url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        if not comma or not head.endswith(";base64"):
            raise Unsupported(f"message {at}: an image in a data: URL must be base64", field="messages")
        media_type = head.partition(";")[0] or None
    elif url is not None:
        return {"type": "url", "url": url}
    if not data:
        raise Unsupported(f"message {at}: an image needs a URL or data", field="messages")
    if media_type is None:
        media_type = next((kind for magic, kind in _MAGIC if data.startswith(magic)), "image/png")
    return {"type": "base64", "media_type": media_type, "data": data}


def _document_source(document: Document, at: int) -> Block:
    if document.url is not None:
        return {"type": "url", "url": document.url}
    if document.file_id is not None:
        if not document.file_id.startswith("file_"):
            raise Unsupported(
                f"message {at}: the file {document.file_id} lies with another provider; send its content",
                field="messages",
            )
        return {"type": "file", "file_id": document.file_id}
    if document.data is None:
        raise Unsupported(f"message {at}: a document needs a URL, data or a file id", field="messages")
    media_type = document.media_type or ("application/pdf" if document.data.startswith("JVBERi") else "text/plain")
    if media_type == "application/pdf":
        return {"type": "base64", "media_type": media_type, "data": document.data}
    if media_type.startswith("text/") or media_type == "application/json":
        try:
            text = base64.b64decode(document.data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Unsupported(f"message {at}: the document is not text in base64", field="messages") from None
        return {"type": "text", "media_type": "text/plain", "data": text}
    raise Unsupported(f"message {at}: Anthropic takes PDF and text documents, not {media_type}", field="messages")


def text_or_blocks(blocks: list[Block]) -> str | list[Block]:
    """One plain text as a string, which every server that imitates the API reads."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return blocks[0]["text"]
    return blocks
