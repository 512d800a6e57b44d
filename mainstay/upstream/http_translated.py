"""What is no conversation and can still be asked in another format: embeddings, and the counting of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mainstay.core.errors import Unsupported
from mainstay.core.model import ModelFacts
from mainstay.core.usage import NOTHING, Usage
from mainstay.upstream.ask import Ask
from mainstay.wire.anthropic_writer import write_count
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.dialect import Dialect
from mainstay.wire.gemini import Gemini
from mainstay.wire.gemini_embeddings import read_embeddings, write_embeddings

TRANSLATED = ("embeddings", "count_tokens")
"""The operations that this is about."""


class Translated(NamedTuple):
    """The ``body`` for the provider, and what makes the caller's own reply, and its usage, of the provider's."""

    body: bytes
    read: Callable[[bytes], tuple[bytes, Usage]]


def translated(ask: Ask, dialect: Dialect, model: str, facts: ModelFacts, vertex: bool) -> Translated | None:
    """How ``ask`` is put to ``dialect``; None where it is a conversation, or ``dialect`` has no word for it."""
    if ask.operation == "embeddings" and isinstance(dialect, Gemini):
        if vertex:
            raise Unsupported("Vertex AI makes no embeddings in Gemini's format; use a provider of kind gemini")
        written = write_embeddings(ask.body, model)
        ask.dropped.update(written.dropped)

        def embedded(reply: bytes) -> tuple[bytes, Usage]:
            return read_embeddings(reply, ask.body, model)

        return Translated(written.body, embedded)
    if ask.operation == "count_tokens" and isinstance(dialect, Gemini | Bedrock):
        counter = dialect
        # What is merely counted loses nothing by what is left out, so nothing is named as dropped.
        written = counter.write_count(ask.request(), model, facts)

        def counted(reply: bytes) -> tuple[bytes, Usage]:
            return write_count(counter.read_count(reply)), NOTHING

        return Translated(written.body, counted)
    return None
