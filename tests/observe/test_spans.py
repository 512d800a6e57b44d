"""Spans of each dialect as records: golden files, mixtures, and spans that are up to no good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.usage import Usage
from mainstay.observe.spans import DIALECTS, record_of, records_of
from mainstay.observe.spans_record import SpanRecord
from mainstay.wire import otlp
from mainstay.wire.otlp_span import Event, Resource, Scope, Span, Value

GOLDEN = Path(__file__).parents[1] / "golden" / "spans"
START = 1_795_000_000_000_000_000
CALL = "call_01kafe0000000000000000000b"


def shown(record: SpanRecord) -> dict[str, Any]:
    """What a record says, without what it does not."""
    found = {key: one for key, one in msgspec.to_builtins(record).items() if one not in (None, {}, [], (), False, 0)}
    found["ok"] = record.ok
    if record.content is not None:
        found["content"] = {key: one for key, one in found["content"].items() if one}
    return json.loads(json.dumps(found))


def span(events: tuple[Event, ...] = (), **attributes: Value) -> Span:
    """A span with these attributes, ``__`` in their names being a dot."""
    return Span(
        "1" * 32, "2" * 16, "s", START, START + 10**9, events=events,
        attributes={name.replace("__", "."): value for name, value in attributes.items()},
    )  # fmt: skip


@pytest.mark.parametrize("dialect", ["genai", "openinference", "langfuse"])
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_dialect_becomes_records(dialect: str, encoding: otlp.Encoding) -> None:
    case = json.loads((GOLDEN / f"{dialect}.json").read_text(encoding="utf-8"))
    spans = otlp.read_traces(json.dumps(case["request"]).encode(), "json").spans
    again = otlp.read_traces(otlp.write_traces(spans, encoding), encoding).spans
    assert [shown(record) for record in records_of(again)] == case["records"]


def test_content_is_nowhere_but_in_content() -> None:
    secret = "the name of a patient"
    for dialect in DIALECTS:
        names = [name for field in ("input", "output", "content") for name in dialect.rows.get(field, ())]
        names += [f"{one.prefix}0.x" for one in dialect.families if one.place in ("input", "output", "content")]
        for name in names:
            record = record_of(span(**{name: secret}))
            assert record.content is not None, name
            assert secret in str(record.content), name
            assert secret not in str({**msgspec.to_builtins(record), "content": None}), name
        for name in dialect.events:
            record = record_of(span((Event(START, name, {"content": secret}),)))
            assert secret in str(record.content), name
            assert secret not in str({**msgspec.to_builtins(record), "content": None}), name


def test_the_usage_of_one_dialect_is_never_mixed_with_another_s() -> None:
    record = record_of(
        span(
            gen_ai__usage__input_tokens=10,
            gen_ai__usage__output_tokens=2,
            llm__token_count__prompt=99,
            llm__token_count__prompt_details__cache_read=50,
        )
    )
    assert record.usage == Usage(10, 2)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"gen_ai.usage.input_tokens": "12", "gen_ai.usage.output_tokens": 3.0}, Usage(12, 3)),
        ({"gen_ai.usage.input_tokens": 5, "gen_ai.usage.cache_read.input_tokens": 16}, Usage(21, 0, 16)),
        ({"gen_ai.usage.input_tokens": 16, "gen_ai.usage.cache_read.input_tokens": 16}, Usage(16, 0, 16)),
        ({"gen_ai.usage.input_tokens": 5, "gen_ai.usage.cache_write.input_tokens": 1,
          "gen_ai.usage.cache_creation.input_tokens": 2}, Usage(5, 0, 0, 1)),
        ({"gen_ai.usage.cache_read.input_tokens": 16}, None),
        ({"gen_ai.usage.input_tokens": -1}, None),
        ({"gen_ai.usage.input_tokens": float("nan")}, None),
        ({"gen_ai.usage.input_tokens": True}, None),
        ({"gen_ai.usage.output_tokens": 3, "gen_ai.usage.reasoning.output_tokens": 9}, Usage(0, 3, reasoning=3)),
        ({"llm.token_count.total": 9}, Usage(9, 0)),
        ({"langfuse.observation.usage_details": '{"input_tokens":10,"output_tokens":4,'
          '"input_tokens_details":{"cached_tokens":6},"output_tokens_details":{"reasoning_tokens":1}}'},
         Usage(10, 4, 6, reasoning=1)),
        ({"langfuse.observation.usage_details": '{"total":7}'}, Usage(7, 0)),
        ({"langfuse.observation.usage_details": '{"total":'}, None),
    ],
)  # fmt: skip
def test_usage(told: dict[str, Value], usage: Usage | None) -> None:
    assert record_of(span(**told)).usage == usage


@pytest.mark.parametrize(
    ("told", "nano"),
    [
        ({"gen_ai.usage.cost": 0.0000000015}, 2),
        ({"gen_ai.usage.cost": "1.5"}, 1_500_000_000),
        ({"llm.cost.prompt": 0.1, "llm.cost.completion": 0.2}, 300_000_000),
        ({"langfuse.observation.cost_details": '{"input":0.1,"output":0.2}'}, 300_000_000),
        ({"langfuse.observation.cost_details": '{"input":0.1,"total":0.5}'}, 500_000_000),
        ({"gen_ai.usage.cost": -1}, None),
        ({"gen_ai.usage.cost": float("inf")}, None),
        ({"gen_ai.usage.cost": 1e30}, None),
        ({"gen_ai.usage.cost": "free"}, None),
    ],
)
def test_a_reported_cost_is_exact_or_unknown(told: dict[str, Value], nano: int | None) -> None:
    assert record_of(span(**told)).reported_cost == nano


def test_a_span_names_its_call_by_any_of_the_names() -> None:
    for name in ("mainstay.call.id", "x-mainstay-call", "http.response.header.x-mainstay-call"):
        assert record_of(span(**{name: CALL})).call == CALL
        assert record_of(span(**{name: (CALL,)})).call == CALL
        assert record_of(span(**{name: "call_'; drop table calls"})).call is None
    assert not record_of(span(mainstay__call__id=CALL)).own
    ours = Span("1" * 32, "2" * 16, "s", 1, 2, attributes={"mainstay.call.id": CALL}, scope=Scope("mainstay"))
    assert record_of(ours).own


def test_our_own_names_say_what_our_headers_say() -> None:
    record = record_of(
        span(mainstay__user="u", mainstay__session="s", mainstay__workflow="w", mainstay__tag__feature="search")
    )
    assert (record.user, record.session, record.workflow, record.tags) == ("u", "s", "w", {"feature": "search"})


def test_what_a_record_keeps_is_bounded() -> None:
    many: dict[str, Value] = {f"k{n}": "v" * 5000 for n in range(300)}
    many |= {"tag.tags": tuple(f"t{n}" for n in range(100)), "gen_ai.request.model": "m" * 5000}
    record = record_of(span(**many))
    assert (len(record.attributes), record.dropped_attributes, len(record.tags)) == (128, 172, 32)
    assert max(len(str(value)) for value in record.attributes.values()) == 1024
    assert len(record.model or "") == 1024


def test_first_token() -> None:
    assert (
        record_of(span(langfuse__observation__completion_start_time="2026-11-18T11:06:40.250Z")).first_token_ms == 250
    )
    assert record_of(span(langfuse__observation__completion_start_time="2020-01-01T00:00:00Z")).first_token_ms is None
    assert record_of(span(langfuse__observation__completion_start_time="soon")).first_token_ms is None
    events = (Event(START + 40_000_000, "llm.content.completion.chunk"),)
    assert record_of(span(events)).first_token_ms == 40


def test_content_that_was_spread_does_not_cost_more_than_it_is_long() -> None:
    hostile: dict[str, Value] = {f"llm.input_messages.{10**9 - 1}.message.content": "far"}
    hostile |= {f"llm.input_messages.{n}{'.a' * 400}": "deep" for n in range(50)}
    hostile |= {"llm.input_messages.3": "both", "llm.input_messages.3.message": "ways", "llm.input_messages.": "none"}
    record = record_of(span(**hostile))
    assert record.content is not None
    assert "far" in (record.content.input or "")
    assert len(record.content.input or "") < 100_000


values = st.recursive(
    st.text(max_size=8) | st.booleans() | st.integers() | st.floats() | st.binary(max_size=8) | st.none(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
every_name = sorted(
    {name for dialect in DIALECTS for names in dialect.rows.values() for name in names}
    | {name for dialect in DIALECTS for name in dialect.kinds}
    | {f"{family.prefix}{n}.x" for dialect in DIALECTS for family in dialect.families for n in (0, "", "a.b")}
)


@given(
    attributes=st.dictionaries(st.sampled_from(every_name) | st.text(max_size=9), values, max_size=8),
    event=st.sampled_from([*sorted({name for dialect in DIALECTS for name in dialect.events}), "exception"]),
    within=st.dictionaries(st.sampled_from(["content", "gen_ai.prompt", "exception.type", "role"]), values, max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_any_values_become_a_record(attributes: dict[str, Value], event: str, within: dict[str, Value]) -> None:
    record = record_of(
        Span(
            "1" * 32,
            "2" * 16,
            "s",
            START,
            START + 5,
            status="error",
            attributes=attributes,
            events=(Event(START, event, within),),
            resource=Resource(attributes),
        )
    )
    msgspec.json.encode(record)
    usage = record.usage
    assert usage is None or (usage.plain_input >= 0 and usage.plain_output >= 0)
