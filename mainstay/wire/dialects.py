"""All wire formats there are, made once per process."""

from __future__ import annotations

from typing import NamedTuple

from mainstay.wire.anthropic import Anthropic
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.dialect import Dialect
from mainstay.wire.gemini import Gemini
from mainstay.wire.openai_chat import OpenAIChat
from mainstay.wire.openai_plain import OpenAIPlain
from mainstay.wire.openai_responses import OpenAIResponses


class Dialects(NamedTuple):
    """The formats by name, and the one of what is only passed through."""

    by_name: dict[str, Dialect]
    plain: Dialect


def dialects() -> Dialects:
    """All formats."""
    known: list[Dialect] = [OpenAIChat(), OpenAIResponses(), Anthropic(), Gemini(), Bedrock()]
    return Dialects({dialect.name: dialect for dialect in known}, OpenAIPlain())
