"""What is known of a model by its name: every way in which providers and clouds write it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mainstay.core.model import UNKNOWN, ModelFacts
from mainstay.upstream.models import facts

BEFORE = [
    "",
    "anthropic.",
    "us.anthropic.",
    "eu.anthropic.",
    "apac.anthropic.",
    "jp.anthropic.",
    "au.anthropic.",
    "global.anthropic.",
    "us-gov.anthropic.",
    "anthropic/",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.",
    "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/anthropic.",
    "databricks-",
]
BEHIND = ["", "-20250805", "@20250805", "-20250805-v1:0", "-v2:0", "-latest", ":beta"]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(
    ("name", "prefill", "reasoning", "max_output"),
    [
        ("claude-3-haiku", True, False, 4096),
        ("claude-3-opus", True, False, 4096),
        ("claude-3-5-sonnet", True, False, 8192),
        ("claude-3.5-haiku", True, False, 8192),
        ("claude-3-7-sonnet", True, True, None),
        ("claude-sonnet-4", True, True, None),
        ("claude-opus-4-1", True, True, None),
        ("claude-haiku-4-5", True, True, None),
        ("claude-opus-4-6", False, True, None),
        ("claude-sonnet-4.6", False, True, None),
        ("claude-sonnet-5", False, True, None),
        ("claude-haiku-5-5", False, True, None),
        ("claude-fable-5-1", False, True, None),
        ("claude-opus-12", False, True, None),
    ],
)
def test_claude_by_any_name(
    before: str, name: str, behind: str, prefill: bool, reasoning: bool, max_output: int | None
) -> None:
    known = facts(before + name + behind, UNKNOWN)
    assert (known.prefill, known.reasoning, known.max_output) == (prefill, reasoning, max_output)
    assert (known.tools, known.images) == (True, True)


@pytest.mark.parametrize("name", ["claude-2.1", "anthropic.claude-v2:1", "claude-instant-1.2"])
def test_old_claude_takes_a_prefill(name: str) -> None:
    assert facts(name, UNKNOWN).prefill is True


def test_claude_2_has_no_tools() -> None:
    assert facts("claude-2.1", UNKNOWN).tools is False


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("o1", False),
        ("o3-mini", False),
        ("o4-mini-2025-04-16", False),
        ("gpt-5", False),
        ("gpt-5-2025-08-07", False),
        ("openai/gpt-5-mini", False),
        ("gpt-5.1-codex", None),
        ("gpt-6-astra", None),
        ("gpt-10", None),
    ],
)
def test_openai_models_that_reason(name: str, sampling: bool | None) -> None:
    known = facts(name, UNKNOWN)
    assert known.sampling is sampling
    assert known.reasoning is True
    assert known.max_tokens_field == "max_completion_tokens"


@pytest.mark.parametrize("name", ["gpt-5-chat-latest", "gpt-4o", "gpt-4.1-nano", "gpt-oss-120b", "ft:gpt-4o-mini:o::1"])
def test_openai_models_that_take_a_temperature(name: str) -> None:
    assert facts(name, UNKNOWN).sampling is None


@pytest.mark.parametrize(
    "name",
    [
        "text-embedding-3-small",
        "gemini-embedding-001",
        "embed-v4.0",
        "amazon.titan-embed-text-v2:0",
        "cohere.embed-v4:0",
    ],
)
def test_embeddings_have_no_tools(name: str) -> None:
    assert facts(name, UNKNOWN).tools is False


@pytest.mark.parametrize("name", ["my-own-model", "llama3", "mistral-large-latest", "octopus"])
def test_what_is_not_known_stays_unknown(name: str) -> None:
    assert facts(name, UNKNOWN) == UNKNOWN


def test_what_is_declared_wins_then_the_family_then_the_price_book() -> None:
    declared = ModelFacts(prefill=True, max_output=99)
    book = ModelFacts(context_window=5, max_output=7)
    known = facts("claude-opus-4-6", declared, book)
    assert (known.prefill, known.max_output, known.context_window, known.images) == (True, 99, 5, True)
    assert facts("claude-3-opus", UNKNOWN, book).context_window == 200000
    assert {getattr(facts("nobody", UNKNOWN), one.name) for one in fields(ModelFacts)} == {None}
