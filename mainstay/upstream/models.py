"""Facts about families of models: what they take and what they refuse, by the beginning of their name."""

from __future__ import annotations

import re
from dataclasses import fields, replace

from mainstay.core.model import ModelFacts

# The first pattern that fits counts. Facts are those of the vendors' model pages; unknown stays None.
_FAMILIES: tuple[tuple[re.Pattern[str], ModelFacts], ...] = tuple(
    (re.compile(pattern), facts)
    for pattern, facts in (
        # OpenAI's reasoning models refuse temperature and top_p and bound the answer by max_completion_tokens.
        (
            r"^(o1|o3|o4|gpt-5)(?!.*chat)",
            ModelFacts(sampling=False, reasoning=True, max_tokens_field="max_completion_tokens", roles_developer=True),
        ),
        (r"^gpt-3\.5", ModelFacts(images=False, max_output=4096, context_window=16385)),
        (r"^gpt-4o", ModelFacts(tools=True, images=True, schema=True, max_output=16384, context_window=128000)),
        (r"^gpt-4\.1", ModelFacts(tools=True, images=True, schema=True, max_output=32768, context_window=1047576)),
        # Anthropic's models from 4.6 on refuse a prefilled answer.
        (
            r"^(anthropic\.|[a-z]{2}\.anthropic\.)?claude-(opus|sonnet)-(4-[6-9]|[5-9])",
            ModelFacts(tools=True, images=True, documents=True, schema=True, reasoning=True, prefill=False),
        ),
        (
            r"^(anthropic\.|[a-z]{2}\.anthropic\.)?claude-3-(opus|sonnet|haiku)",
            ModelFacts(tools=True, images=True, prefill=True, max_output=4096, context_window=200000, reasoning=False),
        ),
        (
            r"^(anthropic\.|[a-z]{2}\.anthropic\.)?claude-3-5",
            ModelFacts(tools=True, images=True, prefill=True, max_output=8192, context_window=200000, reasoning=False),
        ),
        (
            r"^(anthropic\.|[a-z]{2}\.anthropic\.)?claude",
            ModelFacts(tools=True, images=True, documents=True, prefill=True, context_window=200000),
        ),
        (r"^gemini", ModelFacts(tools=True, images=True, audio=True, documents=True, schema=True)),
        (r"^(text-embedding|embed)", ModelFacts(tools=False, images=False)),
    )
)


def facts(name: str, declared: ModelFacts, book: ModelFacts | None = None) -> ModelFacts:
    """What is known of the model that the provider calls ``name``: declared first, then its family, then the price book."""
    bare = name.rpartition("/")[2].lower()
    family = next((known for pattern, known in _FAMILIES if pattern.search(bare)), None)
    for source in (family, book):
        if source is not None:
            known = {f.name: getattr(source, f.name) for f in fields(ModelFacts) if getattr(declared, f.name) is None}
            declared = replace(declared, **known)
    return declared
