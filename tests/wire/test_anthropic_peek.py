"""What the pipeline learns of a Messages request, and what becomes of a body that stays in the format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.wire.anthropic import Anthropic

# The machine may be busy with other tests.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALECT = Anthropic()
ASKED: dict[str, Any] = {"model": "chat", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}


def peek(operation: str = "messages", **more: Any) -> Any:
    return DIALECT.peek(operation, json.dumps({**ASKED, **more}).encode(), "application/json")


def content(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def test_a_plain_request() -> None:
    body = json.dumps(ASKED).encode()
    seen = DIALECT.peek("messages", body, "application/json")
    assert (seen.model, seen.stream, seen.max_tokens, seen.n, seen.user) == ("chat", False, 64, 1, None)
    assert (seen.tools, seen.images, seen.schema, seen.unbounded) == (False, False, False, ())
    assert seen.usage_wanted
    assert body[slice(*seen.model_at)] == b'"chat"'


def test_what_it_looks_for() -> None:
    seen = peek(
        stream=True,
        metadata={"user_id": "u-1"},
        tools=[{"name": "f", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}],
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    )
    assert (seen.stream, seen.user, seen.tools, seen.schema, seen.unbounded) == (True, "u-1", True, True, ())
    assert peek(output_format={"type": "json_schema", "schema": {}}).schema
    assert not peek(output_config={"effort": "low"}, tools=[]).schema


@pytest.mark.parametrize("field", ["model", "messages", "max_tokens"])
def test_required_fields(field: str) -> None:
    body = json.dumps({name: value for name, value in ASKED.items() if name != field}).encode()
    with pytest.raises(Invalid, match=f"{field}: Field required") as refused:
        DIALECT.peek("messages", body, "application/json")
    assert refused.value.field == field


def test_counting_needs_no_max_tokens() -> None:
    body = json.dumps({name: value for name, value in ASKED.items() if name != "max_tokens"}).encode()
    assert DIALECT.peek("count_tokens", body, "application/json").max_tokens is None


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"tools": {}}, "tools"),
        ({"metadata": []}, "metadata"),
        ({"messages": content({"type": "image", "source": 5})}, "messages"),
    ],
)
def test_wrong_types(more: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        peek(**more)
    assert refused.value.field == field


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model":"a","model":"b","max_tokens":1,"messages":[]}', b"\xff"])
def test_what_is_no_request_or_two(body: bytes) -> None:
    with pytest.raises(Invalid):
        DIALECT.peek("messages", body, "application/json")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("more", "images", "unbounded"),
    [
        ({"messages": content(IMAGE)}, True, ()),
        (
            {"messages": content({"type": "image", "source": {"type": "url", "url": "https://e.com"}})},
            True,
            ("messages.content.source.url",),
        ),
        (
            {"messages": content({"type": "document", "source": {"type": "file", "file_id": "file_1"}})},
            False,
            ("messages.content.source.file",),
        ),
        (
            {"messages": content({"type": "document", "source": {"type": "base64", "data": "", "media_type": "x"}})},
            False,
            ("messages.content.source.base64",),
        ),
        ({"messages": content({"type": "document", "source": {"type": "text", "data": "x"}})}, False, ()),
        ({"messages": content({"type": "search_result", "source": "https://e.com", "content": []})}, False, ()),
        ({"messages": content({"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]})}, True, ()),
        (
            {
                "messages": content(
                    {
                        "type": "document",
                        "source": {"type": "content", "content": [{**IMAGE, "source": {"type": "url"}}]},
                    }
                )
            },
            True,
            ("messages.content.source.url",),
        ),
        (
            {"messages": content({"type": "container_upload", "file_id": "file_1"})},
            False,
            ("messages.content.container_upload",),
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, False, ("tools.web_search_20250305",)),
        ({"tools": [{"type": "custom", "name": "f", "input_schema": {}}]}, False, ()),
        ({"mcp_servers": [{"type": "url", "url": "https://e.com", "name": "n"}]}, False, ("mcp_servers",)),
        ({"mcp_servers": []}, False, ()),
        ({"container": "c_1"}, False, ("container",)),
        ({"container": None, "speed": "standard"}, False, ()),
        ({"speed": "fast"}, False, ("speed",)),
    ],
)
def test_what_the_size_does_not_bound(more: dict[str, Any], images: bool, unbounded: tuple[str, ...]) -> None:
    seen = peek(**more)
    assert (seen.images, seen.unbounded) == (images, unbounded)


def test_escapes_hide_nothing() -> None:
    block = {"type": "image", "source": {"type": "url", "url": "https://e.com"}}
    body = json.dumps({**ASKED, "messages": content(block)})
    for word in ("image", "source", "url"):
        body = body.replace(f'"{word}"', '"' + "".join(f"\\u{ord(letter):04x}" for letter in word) + '"')
    assert "source" not in body
    seen = DIALECT.peek("messages", body.encode(), "application/json")
    assert seen.images
    assert seen.unbounded == ("messages.content.source.url",)


@UNHURRIED
@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), st.booleans())
def test_only_the_model_is_rewritten(before: str, after: str, ascii: bool) -> None:
    asked = {"x_unknown": {"a": [1.50, None]}, **ASKED, "model": before, "temperature": 1.0}
    body = json.dumps(asked, ensure_ascii=ascii).encode()
    seen = DIALECT.peek("messages", body, "application/json")
    renamed = DIALECT.rewrite("messages", body, seen, after, True)
    assert json.loads(renamed) == {**asked, "model": after}
    start, end = seen.model_at
    assert renamed[:start] == body[:start]
    assert renamed.endswith(body[end:])
    assert DIALECT.rewrite("messages", body, seen, before, False) == body


MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def marked(ttl: str = "5m", **asked: Any) -> dict[str, Any]:
    body = json.dumps({**ASKED, **asked}).encode()
    seen = DIALECT.peek("messages", body, "application/json")
    return json.loads(DIALECT.rewrite("messages", body, seen, "claude", False, cache_prompt=ttl))


def marks(payload: dict[str, Any]) -> list[tuple[str, Any]]:
    """Where marks lie, in the order in which the API reads them."""
    found: list[tuple[str, Any]] = []
    for i, tool in enumerate(payload.get("tools", [])):
        found.append((f"tools.{i}", tool.get("cache_control")))
    for i, block in enumerate(payload.get("system", [])):
        found.append((f"system.{i}", block.get("cache_control")))
    for i, message in enumerate(payload["messages"]):
        for j, block in enumerate(message["content"] if isinstance(message["content"], list) else ()):
            found.append((f"messages.{i}.{j}", block.get("cache_control")))
    return [(place, mark) for place, mark in found if mark is not None]


TALK = [
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": "c"},
]
TOOLS = [{"name": "f", "input_schema": {}}, {"name": "g", "input_schema": {}}]


def test_marks_on_the_last_tool_system_block_and_user_block() -> None:
    for ttl, mark in (("5m", MARK), ("1h", HOUR)):
        payload = marked(ttl, system="be kind", tools=TOOLS, messages=TALK)
        assert marks(payload) == [("tools.1", mark), ("system.0", mark), ("messages.0.1", mark)]
        assert payload["model"] == "claude"
        assert payload["system"] == [{"type": "text", "text": "be kind", "cache_control": mark}]
    assert marks(marked()) == [("messages.0.0", MARK)]


def test_marks_that_are_there_stay_and_count() -> None:
    def text(mark: Any = None) -> dict[str, Any]:
        return {"type": "text", "text": "x", **({"cache_control": mark} if mark else {})}

    talk = [{"role": "user", "content": [text(MARK), text(MARK), text(MARK), text()]}]
    payload = marked(system="s", tools=TOOLS, messages=talk)
    assert [place for place, _ in marks(payload)] == ["messages.0.0", "messages.0.1", "messages.0.2", "messages.0.3"]
    full = [{"role": "user", "content": [text(MARK)] * 4 + [text()]}]
    assert len(marks(marked(messages=full))) == 4


def test_longer_times_come_first() -> None:
    five = {"type": "text", "text": "x", "cache_control": MARK}
    hour = {"type": "text", "text": "x", "cache_control": HOUR}
    assert marks(marked("1h", system=[five], messages=TALK, tools=TOOLS)) == [
        ("tools.1", HOUR),
        ("system.0", MARK),
        ("messages.0.1", MARK),
    ]
    assert marks(marked("5m", system=[hour], messages=TALK, tools=TOOLS)) == [
        ("tools.1", HOUR),
        ("system.0", HOUR),
        ("messages.0.1", MARK),
    ]


def test_the_automatic_mark_is_respected() -> None:
    payload = marked("1h", system="s", messages=TALK, cache_control=HOUR)
    assert marks(payload) == [("system.0", HOUR)]
    assert payload["cache_control"] == HOUR


def test_what_cannot_carry_a_mark_carries_none() -> None:
    empty = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " "}]}]
    assert marks(marked(messages=empty, system="")) == [("messages.0.0", MARK)]


def test_counting_is_never_marked() -> None:
    body = json.dumps(ASKED).encode()
    seen = DIALECT.peek("count_tokens", body, "application/json")
    assert DIALECT.rewrite("count_tokens", body, seen, "chat", False, cache_prompt="5m") == body


def test_paths() -> None:
    assert DIALECT.path("messages", "m", True) == "/v1/messages"
    assert DIALECT.path("count_tokens", "m", False) == "/v1/messages/count_tokens"
