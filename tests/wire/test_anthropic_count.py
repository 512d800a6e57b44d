"""The estimate of a request's tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from mainstay.core.request import Document, Format, Image, Message, Request, Text, Tool, ToolCall, ToolResult
from mainstay.wire import anthropic_count
from mainstay.wire.anthropic_count import estimate_tokens


@pytest.fixture(params=["bpe-openai", "bytes"])
def _counted_with(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "bytes":
        monkeypatch.setitem(sys.modules, "bpe_openai", None)
    else:
        pytest.importorskip("bpe_openai")
    anthropic_count._counter.cache_clear()
    yield
    anthropic_count._counter.cache_clear()


def asked(*parts: object, **more: object) -> int:
    return estimate_tokens(Request("m", (Message("user", parts),), **more))  # type: ignore[arg-type]


@pytest.mark.usefixtures("_counted_with")
def test_text_is_counted_about_right() -> None:
    english = "The quick brown fox jumps over the lazy dog. " * 40  # some 400 tokens
    assert 320 <= asked(Text(english)) <= 540
    assert asked(Text("<|endoftext|>")) > asked(Text(""))


@pytest.mark.usefixtures("_counted_with")
def test_everything_the_model_reads_counts() -> None:
    plain = asked(Text("hi"))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    assert asked(Text("hi"), Image(url="https://example.com")) >= plain + 1_000
    assert asked(Text("hi"), Document(data="A" * 200_000, media_type="application/pdf")) >= plain + 6_000
    assert asked(Text("hi"), Document(data="A" * 4_000, media_type="text/plain")) >= plain + 700
    assert asked(Text("hi"), ToolCall("t", "f", '{"a": "b"}')) > plain
    assert asked(Text("hi"), ToolResult("t", (Text("a result of some words"),))) > plain
    assert asked(Text("hi"), tools=(Tool("weather", "tells it", schema),)) > plain + 20
    assert asked(Text("hi"), format=Format("schema", schema)) > plain
