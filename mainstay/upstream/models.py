"""Facts about families of models: what they take and what they refuse, by the beginning of their name."""

from __future__ import annotations

import re
from dataclasses import fields, replace

from mainstay.core.model import ModelFacts
from mainstay.wire.anthropic_models import generation

# The first pattern that fits counts. Facts are those of the vendors' model pages; unknown stays None.
_FAMILIES: tuple[tuple[re.Pattern[str], ModelFacts], ...] = tuple(
    (re.compile(pattern), facts)
    for pattern, facts in (
        # OpenAI's reasoning models bound the answer by max_completion_tokens; the first of them refuse temperature and
        # top_p, those from gpt-5.1 on take them while they do not reason.
        (
            r"^(ft:)?(o[1-9]|gpt-5(?!\.))(?!.*chat)",
            ModelFacts(sampling=False, reasoning=True, max_tokens_field="max_completion_tokens", roles_developer=True),
        ),
        (
            r"^(ft:)?gpt-([5-9]|\d\d)(?!.*chat)",
            ModelFacts(reasoning=True, max_tokens_field="max_completion_tokens", roles_developer=True),
        ),
        (r"^(ft:)?gpt-3\.5", ModelFacts(images=False, max_output=4096, context_window=16385)),
        (r"^(ft:)?gpt-4o", ModelFacts(tools=True, images=True, schema=True, max_output=16384, context_window=128000)),
        (
            r"^(ft:)?gpt-4\.1",
            ModelFacts(tools=True, images=True, schema=True, max_output=32768, context_window=1047576),
        ),
        (r"(^|[-.])embed", ModelFacts(tools=False, images=False)),
        (r"^gemini", ModelFacts(tools=True, images=True, audio=True, documents=True, schema=True)),
    )
)


_CLAUDE = ModelFacts(tools=True, images=True, documents=True, prefill=True, context_window=200000)


def _claude(name: str) -> ModelFacts | None:
    """What is known of a Claude model, whatever a cloud puts before its name (a region, ``anthropic.``) or behind it (a
    date, a version); None for any other model."""
    known = generation(name)
    if known is None:
        return _CLAUDE if "claude" in name else None
    if known.version >= (4, 6):  # from here on they refuse a prefilled answer
        return ModelFacts(tools=True, images=True, documents=True, schema=True, reasoning=True, prefill=False)
    if known.version >= (3, 6):
        return replace(_CLAUDE, reasoning=True)
    if known.version >= (3, 5):
        return replace(_CLAUDE, reasoning=False, max_output=8192)
    if known.version >= (3, 0):
        return replace(_CLAUDE, documents=None, reasoning=False, max_output=4096)
    return ModelFacts(tools=False, images=False, documents=False, reasoning=False, prefill=True, max_output=4096)


def facts(name: str, declared: ModelFacts, book: ModelFacts | None = None) -> ModelFacts:
    """What is known of the model that the provider calls ``name``: declared first, then its family, then the price book."""
    bare = name.rpartition("/")[2].lower()
    family = _claude(bare) or next((known for pattern, known in _FAMILIES if pattern.search(bare)), None)
    for source in (family, book):
        if source is not None:
            known = {f.name: getattr(source, f.name) for f in fields(ModelFacts) if getattr(declared, f.name) is None}
            declared = replace(declared, **known)
    return declared
