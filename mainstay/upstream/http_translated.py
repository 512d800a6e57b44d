"""What is no conversation and can still be asked in another format: embeddings, and the counting of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mainstay.core.model import ModelFacts
from mainstay.core.usage import NOTHING, Usage
from mainstay.upstream.ask import Ask
from mainstay.wire import bedrock_embeddings, embeddings, gemini_embeddings
from mainstay.wire.anthropic_writer import write_count
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.dialect import Dialect
from mainstay.wire.gemini import Gemini

TRANSLATED = ("embeddings", "count_tokens")
"""The operations that this is about."""


Reads = Callable[[bytes, Mapping[str, str]], tuple[bytes, Usage]]
"""Makes the caller's own reply, and its usage, of the provider's body and headers."""


class Translated(NamedTuple):
    """The ``body`` for the provider, the ``operation`` that its path is of, and what reads the reply."""

    body: bytes
    operation: str
    read: Reads


def translated(ask: Ask, dialect: Dialect, model: str, facts: ModelFacts, vertex: bool) -> Translated | None:
    """How ``ask`` is put to ``dialect``; None where it is a conversation, or ``dialect`` has no word for it."""
    if ask.operation == "embeddings" and isinstance(dialect, Gemini | Bedrock):
        if isinstance(dialect, Gemini):
            embedder = gemini_embeddings.embedder(model, vertex)
        else:
            embedder = bedrock_embeddings.embedder(model)
        asked, dropped = embeddings.read_request(ask.body, embedder)
        body = embedder.write(asked, model)
        ask.dropped.update(dropped)

        def embedded(reply: bytes, headers: Mapping[str, str]) -> tuple[bytes, Usage]:
            return embeddings.read_reply(embedder, reply, headers, asked, model)

        return Translated(body, embedder.operation, embedded)
    if ask.operation == "count_tokens" and isinstance(dialect, Gemini | Bedrock):
        counter = dialect
        # What is merely counted loses nothing by what is left out, so nothing is named as dropped.
        written = counter.write_count(ask.request(), model, facts)

        def counted(reply: bytes, headers: Mapping[str, str]) -> tuple[bytes, Usage]:
            return write_count(counter.read_count(reply)), NOTHING

        return Translated(written.body, ask.operation, counted)
    return None
