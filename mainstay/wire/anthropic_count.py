"""An estimate of a request's input tokens, for ``count_tokens`` where no provider can be asked."""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec

from mainstay.core.request import Audio, Document, Image, Part, Refusal, Request, Text, Thinking, ToolCall, ToolResult

BYTES_PER_TOKEN = 3.5
"""Bytes of UTF-8 in one token, where no tokenizer is installed."""
IMAGE = 1_600
"""Tokens of one image: what the largest one takes that is not scaled down."""
PAGE = 2_250
"""Tokens of one page of a PDF: its text, and its picture."""
PAGE_BYTES = 50_000
"""Bytes of a PDF that are taken for one page."""
MESSAGE = 4
"""Tokens around each message."""
CALL = 12
"""Tokens around each tool call, result and definition."""
TOOLS = 300
"""Tokens of the instructions that come with any tools."""


def estimate_tokens(request: Request) -> int:
    """The input tokens of ``request``, estimated.

    Text (messages, tool calls and results, definitions, schema) is counted with the ``o200k`` vocabulary if
    ``bpe-openai`` is installed, else at 3.5 bytes a token; an image counts 1,600, a PDF 2,250 per 50 kB, a sound one
    per kilobyte. It is meant for planning: expect an error of a tenth for English, more elsewhere.
    """
    count = _counter()
    total = 0
    for message in request.messages:
        total += MESSAGE + sum(_part(part, count) for part in message.parts)
    if request.tools:
        total += TOOLS
        for tool in request.tools:
            schema = msgspec.json.encode(tool.parameters or {}).decode()
            total += CALL + count(tool.name) + count(tool.description or "") + count(schema)
    if request.format is not None and request.format.schema is not None:
        total += count(msgspec.json.encode(request.format.schema).decode())
    return total


def _part(part: Part, count: Callable[[str], int]) -> int:
    if isinstance(part, Text | Refusal):
        return count(part.text)
    if isinstance(part, Thinking):
        return 0  # thoughts of earlier turns are taken out before the model reads the rest
    if isinstance(part, ToolCall):
        return CALL + count(part.name) + count(part.arguments)
    if isinstance(part, ToolResult):
        return CALL + sum(_part(inner, count) for inner in part.content)
    if isinstance(part, Image):
        return IMAGE
    if isinstance(part, Audio):
        return len(part.data) * 3 // 4 // 1000 + 1
    return _document(part)


def _document(document: Document) -> int:
    if document.data is None:
        return PAGE
    size = len(document.data) * 3 // 4
    if document.media_type is not None and document.media_type.startswith("text/"):
        return int(size / BYTES_PER_TOKEN) + 1
    return PAGE * (size // PAGE_BYTES + 1)


@functools.cache
def _counter() -> Callable[[str], int]:
    try:
        import bpe_openai
    except ImportError:
        return _by_bytes
    encoding = bpe_openai.get_encoding("o200k_base")
    # Words that look like control tokens are the caller's text like any other.
    return lambda text: len(encoding.encode(text, disallowed_special=()))


def _by_bytes(text: str) -> int:
    return int(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN + 0.999)
