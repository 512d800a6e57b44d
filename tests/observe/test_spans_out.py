"""Calls as spans and metrics: ids that stay, both generations of names, figures that are counted once."""

from __future__ import annotations

from typing import Any

import pytest

from mainstay.core.usage import Usage
from mainstay.ledger.record import AttemptRecord, CallRecord, UsageRecord
from mainstay.observe.spans import record_of
from mainstay.observe.spans_metrics import CallMetrics
from mainstay.observe.spans_names import ATTRIBUTES, METRICS, PROVIDERS, Generation, generation_of
from mainstay.observe.spans_out import Exporter, attempt_span_id, call_span_id, relation, trace_id
from mainstay.observe.spans_record import Content, SpanRecord
from mainstay.upstream.providers import PROVIDERS as KINDS
from mainstay.wire import otlp
from mainstay.wire.otlp_metric import Buckets, Metric, Number
from mainstay.wire.otlp_span import Resource, Span

AT = 1_795_000_000_000_000
CALL = "call_01kafe0000000000000000000b"
GENERATIONS: list[Generation] = ["old", "new", "both"]


def call(**fields: Any) -> CallRecord:
    """A streamed call whose first attempt failed and whose second answered."""
    values: dict[str, Any] = {
        "v": 1, "id": CALL, "at": AT, "operation": "messages", "dialect": "anthropic", "stream": True, "status": 200,
        "outcome": "ok", "trace": "a" * 32, "parent": "b" * 16, "team": "support", "user": "u-1", "session": "s-1",
        "route": "chat", "model": "large", "provider": "beta", "upstream_model": "claude-large", "input": 100,
        "output": 41, "cached_input": 60, "cache_write": 10, "reasoning": 20, "input_audio": 5, "output_audio": 0,
        "usage_estimated": False, "cost_nano": 12345, "duration_ms": 1250.0, "first_token_ms": 250.0, "finish": "stop",
        "tags": {"feature": "search"}, "content": "blob_1",
        "attempts": [
            AttemptRecord("small", "alpha", "gpt-small", AT + 1000, 100.0, status=503, error="overloaded", message="busy"),
            AttemptRecord(
                "large", "beta", "claude-large", AT + 150_000, 1000.0, 99.0, 200,
                usage=UsageRecord(100, 41, 60, 10, 20, 5), cost_nano=12345, request_id="req_1",
            ),
        ],
    }  # fmt: skip
    return CallRecord(**{**values, **fields})


def test_a_call_is_a_span_with_one_below_it_for_each_attempt() -> None:
    whole, first, second = Exporter().spans(call())
    assert {span.trace_id for span in (whole, first, second)} == {"a" * 32}
    assert (whole.parent_id, first.parent_id, second.parent_id) == ("b" * 16, whole.span_id, whole.span_id)
    assert (whole.kind, first.kind, second.kind) == ("server", "client", "client")
    assert (whole.name, first.name, second.name) == ("chat chat", "chat gpt-small", "chat claude-large")
    assert (whole.start, whole.end) == (AT * 1000, AT * 1000 + 1_250_000_000)
    assert (second.start, second.end) == (AT * 1000 + 150_000_000, AT * 1000 + 1_150_000_000)
    assert (whole.status, first.status, first.status_message, second.status) == ("unset", "error", "busy", "unset")
    assert (first.attributes["error.type"], first.attributes["http.response.status_code"]) == ("overloaded", 503)
    assert second.attributes["gen_ai.response.time_to_first_chunk"] == 0.099
    assert second.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert whole.attributes["mainstay.cost.nano_usd"] == 12345
    assert whole.attributes["mainstay.tag.feature"] == "search"


def test_tokens_are_told_once() -> None:
    spans = Exporter("both").spans(call())
    told = [
        span.attributes["gen_ai.usage.input_tokens"] for span in spans if "gen_ai.usage.input_tokens" in span.attributes
    ]
    assert told == [100]
    assert spans[0].attributes["mainstay.usage.input"] == 100


def test_ids_follow_from_the_call() -> None:
    record = call(trace=None, parent=None)
    assert Exporter().spans(record) == Exporter().spans(record)
    whole, first, second = Exporter().spans(record)
    assert (whole.trace_id, whole.span_id, whole.parent_id) == (trace_id(CALL), call_span_id(CALL), None)
    assert [first.span_id, second.span_id] == [attempt_span_id(CALL, 0), attempt_span_id(CALL, 1)]
    assert len({whole.span_id, first.span_id, second.span_id}) == 3
    assert call_span_id(CALL[:-1] + "c") != whole.span_id
    # Stored elsewhere, these must not change with a version of ours.
    assert (whole.trace_id, whole.span_id) == ("fab4dfb56fd09469c80864a1db289947", "a040ba3dcf3f7031")


def test_how_an_application_s_span_belongs_to_a_call() -> None:
    def told(trace: str, span: str, parent: str | None = None, **attributes: str) -> SpanRecord:
        return record_of(Span(trace, span, "s", 1, 2, parent_id=parent, attributes={**attributes}))

    record, trace = call(), "a" * 32
    assert [relation(record, record_of(span)) for span in Exporter().spans(record)] == ["own"] * 3
    assert relation(record, told(trace, "b" * 16)) == "caller"
    assert relation(record, told("c" * 32, "1" * 16, **{"x-mainstay-call": CALL})) == "names"
    assert relation(record, told(trace, "1" * 16, attempt_span_id(CALL, 1))) == "below"
    assert relation(record, told(trace, "1" * 16, "b" * 16)) is None
    assert relation(record, told("c" * 32, "b" * 16)) is None
    alone = call(trace=None, parent=None)
    assert relation(alone, record_of(Exporter().spans(alone)[0])) == "own"


@pytest.mark.parametrize(
    ("generation", "written", "absent"),
    [
        (
            "old",
            {"gen_ai.system", "gen_ai.usage.cache_creation.input_tokens"},
            {"gen_ai.usage.cache_write.input_tokens"},
        ),
        (
            "new",
            {"gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.audio.input_tokens"},
            {"gen_ai.system", "gen_ai.usage.cache_creation.input_tokens"},
        ),
        (
            "both",
            {"gen_ai.system", "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_write.input_tokens"},
            set[str](),
        ),
    ],
)
def test_the_generation_decides_the_names(generation: Generation, written: set[str], absent: set[str]) -> None:
    *_, answered = Exporter(generation).spans(call())
    assert written | {"gen_ai.provider.name"} <= answered.attributes.keys()
    assert not absent & answered.attributes.keys()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_our_own_mapper_reads_what_we_send(generation: Generation) -> None:
    exporter = Exporter(generation, Resource({"service.name": "gw"}), providers={"beta": "anthropic"})
    spans = otlp.read_traces(otlp.write_traces(exporter.spans(call()), "protobuf"), "protobuf").spans
    whole, _, answered = (record_of(span) for span in spans)
    assert (whole.call, whole.own, whole.session, whole.user, whole.tags) == (
        CALL, True, "s-1", "u-1", {"feature": "search"},
    )  # fmt: skip
    audio = 5 if generation != "old" else 0
    assert answered.usage == Usage(100, 41, 60, 10, 20, audio)
    assert (answered.kind, answered.model, answered.provider, answered.finish) == (
        "llm", "claude-large", "anthropic", ("stop",),
    )  # fmt: skip
    assert answered.first_token_ms == pytest.approx(99)


def test_content_leaves_only_when_it_is_given() -> None:
    said = Content("a question", "an answer")
    assert "a question" not in str(Exporter("both").spans(call()))
    *others, answered = Exporter("both").spans(call(), said)
    assert answered.attributes["gen_ai.input.messages"] == "a question"
    assert answered.attributes["gen_ai.output.messages"] == "an answer"
    assert "a question" not in str(others)
    (hit,) = Exporter().spans(call(attempts=[], cache="hit"), said)
    assert hit.attributes["gen_ai.output.messages"] == "an answer"


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [("refused", 429, "unset"), ("refused", 503, "error"), ("failed", 502, "error"), ("cancelled", 499, "unset"),
     ("crashed", 0, "error")],
)  # fmt: skip
def test_how_a_call_that_did_not_go_well_is_told(outcome: str, status: int, expected: str) -> None:
    record = call(outcome=outcome, status=status, error="why", attempts=[], model=None, provider=None, duration_ms=None)
    (span,) = Exporter().spans(record)
    assert (span.status, span.attributes["error.type"], span.end) == (expected, "why", span.start)
    assert ("http.response.status_code" in span.attributes) == (status > 0)


def by_name(metrics: CallMetrics) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics.collect(AT * 1000 + 9)}


def only(metric: Metric) -> Any:
    (point,) = metric.points
    return point


def test_metrics_of_the_old_generation() -> None:
    metrics = CallMetrics(AT * 1000, "old", {"beta": "anthropic"})
    metrics.add(call())
    metrics.add(call(duration_ms=200.0, first_token_ms=100.0, output=1))
    found = by_name(metrics)
    assert found.keys() == {
        "gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk", "gen_ai.client.token.usage",
        "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token",
    }  # fmt: skip
    duration = only(found["gen_ai.client.operation.duration"])
    assert (duration.count, duration.sum, duration.min, duration.max) == (2, 1.45, 0.2, 1.25)
    assert dict(zip((*duration.bounds, "more"), duration.counts, strict=True))[0.32] == 1
    assert dict(zip((*duration.bounds, "more"), duration.counts, strict=True))[1.28] == 1
    assert duration.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.system": "anthropic",
        "gen_ai.request.model": "claude-large",
    }  # fmt: skip
    assert (duration.start, duration.at) == (AT * 1000, AT * 1000 + 9)
    tokens = {point.attributes["gen_ai.token.type"]: point for point in found["gen_ai.client.token.usage"].points}
    assert [(sort, point.sum) for sort, point in tokens.items() if isinstance(point, Buckets)] == [
        ("input", 200), ("output", 42),
    ]  # fmt: skip
    each = only(found["gen_ai.server.time_per_output_token"])
    assert (each.count, each.sum) == (1, pytest.approx(0.025))


def test_metrics_of_the_new_generation() -> None:
    metrics = CallMetrics(AT * 1000, "new")
    metrics.add(call())
    metrics.add(call(operation="embeddings", stream=False, first_token_ms=None, input=9, output=0, input_audio=0))
    found = by_name(metrics)
    assert only(found["gen_ai.client.inference.duration"]).count == 1
    embedded = only(found["gen_ai.client.embeddings.duration"])
    assert (embedded.count, embedded.attributes["gen_ai.operation.name"]) == (1, "embeddings")
    assert only(found["gen_ai.client.embeddings.operation.input_tokens"]).sum == 9
    assert "gen_ai.client.operation.duration" not in found
    assert "gen_ai.client.token.usage" not in found
    usage = found["gen_ai.client.inference.usage.input_tokens"]
    assert (usage.sort, usage.monotonic, usage.temporality) == ("sum", True, "cumulative")
    counted = [
        (point.attributes["gen_ai.operation.name"], point.attributes["gen_ai.token.modality"], point.value)
        for point in usage.points
        if isinstance(point, Number)
    ]
    assert sorted(counted) == [("chat", "audio", 5), ("chat", "unknown", 95)]
    cached = found["gen_ai.client.inference.usage.cache_read.input_tokens"].points
    assert sum(point.value for point in cached if isinstance(point, Number)) == 60


def test_both_generations_at_once_are_the_sum_of_the_two() -> None:
    found: dict[Generation, set[str]] = {}
    for generation in GENERATIONS:
        metrics = CallMetrics(0, generation)
        metrics.add(call())
        metrics.add(call(operation="embeddings"))
        metrics.add(call(operation="rerank"))
        names = [metric.name for metric in metrics.collect(9)]
        assert len(names) == len(set(names))
        found[generation] = set(names)
    assert found["both"] == found["old"] | found["new"]


def test_a_metric_has_a_limited_number_of_series_and_loses_none() -> None:
    metrics = CallMetrics(0, "both", limit=10)
    for number in range(50):
        metrics.add(call(upstream_model=f"model-{number}"))
    for metric in metrics.collect(9):
        assert len(metric.points) <= 11
        assert any(point.attributes == {"otel.metric.overflow": True} for point in metric.points)
    duration = by_name(metrics)["gen_ai.client.operation.duration"]
    assert sum(point.count for point in duration.points if isinstance(point, Buckets)) == 50
    total = by_name(metrics)["gen_ai.client.inference.usage.input_tokens"]
    assert sum(point.value for point in total.points if isinstance(point, Number)) == 50 * 100


def test_calls_that_never_reached_a_model_are_counted_with_their_error() -> None:
    metrics = CallMetrics(0)
    metrics.add(
        call(outcome="refused", error="rate_limit_exceeded", provider=None, model=None, upstream_model=None, input=None,
             output=None, first_token_ms=None, attempts=[])
    )  # fmt: skip
    point = only(by_name(metrics)["gen_ai.client.operation.duration"])
    assert point.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "chat", "error.type": "rate_limit_exceeded",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "generation"),
    [("", "old"), ("old", "old"), ("new", "new"), ("both", "both"), ("gen_ai_latest_experimental", "new"),
     ("http/dup,gen_ai_latest_experimental", "new"), ("gen_ai_latest_experimental/dup", "both"), ("http", "old")],
)  # fmt: skip
def test_the_setting(setting: str, generation: Generation) -> None:
    assert generation_of(setting) == generation


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="old, new or both"):
        generation_of("newest")


def test_the_tables_hold_names_that_exist() -> None:
    assert PROVIDERS.keys() <= KINDS.keys()
    for table in (ATTRIBUTES, METRICS):
        for name in table.values():
            assert name.old or name.new
            assert all(one.startswith("gen_ai.") for one in name.old + name.new)
