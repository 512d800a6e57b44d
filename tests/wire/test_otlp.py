"""OTLP in both encodings: round trips, the reference library, limits, and bytes that are none."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mainstay.core.errors import Invalid
from mainstay.wire import otlp, otlp_reply
from mainstay.wire.otlp_metric import Buckets, Metric, Number
from mainstay.wire.otlp_span import KINDS, STATUSES, Event, Limits, Link, Resource, Scope, Span

ENCODINGS: list[otlp.Encoding] = ["protobuf", "json"]
TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"

texts = st.text(max_size=12)
moments = st.integers(0, 2**64 - 1)
numbers = st.integers(0, 2**32 - 1)
values = st.recursive(
    texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.binary(max_size=9)
    | st.none(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
attributes = st.dictionaries(texts, values, max_size=4)
trace_ids = st.binary(min_size=16, max_size=16).filter(any).map(bytes.hex)
span_ids = st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex)
resources = st.builds(Resource, attributes, numbers, texts)
scopes = st.builds(Scope, texts, texts, attributes, numbers, texts)
events = st.builds(Event, moments, texts, attributes, numbers)
links = st.builds(Link, trace_ids, span_ids, texts, attributes, numbers, numbers)


@st.composite
def requests(draw: st.DrawFn) -> list[Span]:
    """Spans of a few resources and scopes, already in the order in which they are written."""
    spans: list[Span] = []
    for _ in range(draw(st.integers(0, 2))):
        resource = draw(resources)
        for _ in range(draw(st.integers(1, 2))):
            scope = draw(scopes)
            for _ in range(draw(st.integers(1, 2))):
                spans.append(
                    Span(
                        trace_id=draw(trace_ids),
                        span_id=draw(span_ids),
                        name=draw(texts),
                        start=draw(moments),
                        end=draw(moments),
                        parent_id=draw(st.none() | span_ids),
                        kind=draw(st.sampled_from(KINDS)),
                        status=draw(st.sampled_from(STATUSES)),
                        status_message=draw(texts),
                        attributes=draw(attributes),
                        events=tuple(draw(st.lists(events, max_size=2))),
                        links=tuple(draw(st.lists(links, max_size=2))),
                        resource=resource,
                        scope=scope,
                        trace_state=draw(texts),
                        flags=draw(numbers),
                        dropped_attributes=draw(numbers),
                        dropped_events=draw(numbers),
                        dropped_links=draw(numbers),
                    )
                )
    return spans


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(spans=requests())
@settings(max_examples=150, deadline=None)
def test_what_was_written_is_read(encoding: otlp.Encoding, spans: list[Span]) -> None:
    found = otlp.read_traces(otlp.write_traces(spans, encoding), encoding)
    assert found.spans == spans
    assert (found.rejected, found.cut) == (0, 0)


@given(spans=requests())
@settings(max_examples=100, deadline=None)
def test_the_reference_library_reads_and_writes_the_same(spans: list[Span]) -> None:
    reference = ExportTraceServiceRequest()
    reference.ParseFromString(otlp.write_traces(spans, "protobuf"))
    assert otlp.read_traces(reference.SerializeToString(), "protobuf").spans == spans


def test_spans_share_their_resource_and_scope() -> None:
    resource, scope = Resource({"service.name": "shop"}), Scope("openai", "1.2")
    spans = [Span(TRACE, f"{n:016x}", "chat", 1, 2, resource=resource, scope=scope) for n in (1, 2)]
    for encoding in ENCODINGS:
        one, two = otlp.read_traces(otlp.write_traces(spans, encoding), encoding).spans
        assert one.resource is two.resource
        assert one.scope is two.scope


def test_the_json_of_the_specification_is_read() -> None:
    body = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
                "newField": [{"deep": {"deeper": [1, None]}}],
                "scopeSpans": [
                    {
                        "scope": {"name": "my.library", "version": "1.0.0"},
                        "spans": [
                            {
                                "traceId": TRACE.upper(),
                                "spanId": SPAN.upper(),
                                "parentSpanId": "",
                                "name": "I'm a server span",
                                "startTimeUnixNano": "1544712660000000000",
                                "endTimeUnixNano": 1544712661000000000,
                                "kind": 2,
                                "status": {"code": "STATUS_CODE_ERROR", "message": None},
                                "flags": 257,
                                "attributes": [
                                    {"key": "text", "value": {"stringValue": ""}},
                                    {"key": "int", "value": {"intValue": "-9223372036854775808"}},
                                    {"key": "number", "value": {"intValue": 7}},
                                    {"key": "false", "value": {"boolValue": False}},
                                    {"key": "nan", "value": {"doubleValue": "NaN"}},
                                    {"key": "whole", "value": {"doubleValue": 2}},
                                    {"key": "bytes", "value": {"bytesValue": "_-8"}},
                                    {"key": "list", "value": {"arrayValue": {"values": [{"intValue": 1}, {}]}}},
                                    {"key": "map", "value": {"kvlistValue": {}}},
                                    {"key": "unset"},
                                ],
                            }
                        ],
                    }
                ],
            }
        ]
    }
    (span,) = otlp.read_traces(json.dumps(body).encode(), "json").spans
    assert (span.trace_id, span.span_id, span.parent_id, span.kind) == (TRACE, SPAN, None, "server")
    assert (span.start, span.end, span.status, span.flags) == (
        1544712660000000000, 1544712661000000000, "error", 257,
    )  # fmt: skip
    nan = span.attributes["nan"]
    assert nan != nan
    assert {key: value for key, value in span.attributes.items() if key != "nan"} == {
        "text": "", "int": -(2**63), "number": 7, "false": False, "whole": 2.0, "bytes": b"\xff\xef", "list": (1, None),
        "map": {}, "unset": None,
    }  # fmt: skip
    assert span.resource.attributes == {"service.name": "my.service"}


def test_a_lone_surrogate_becomes_text_that_can_be_stored() -> None:
    span = {"traceId": TRACE, "spanId": SPAN, "name": "\\ud800 \\ a\ud800b\ud800\U0001f600\udfff"}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    (found,) = otlp.read_traces(body, "json").spans
    assert found.name == "\\ud800 \\ a?b?\U0001f600?"
    odd = Span(TRACE, SPAN, "a\udfff", 1, 2, attributes={"k": "\ud800"})
    for encoding in ENCODINGS:
        (back,) = otlp.read_traces(otlp.write_traces([odd], encoding), encoding).spans
        assert (back.name, back.attributes) == ("a?", {"k": "?"})


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_is_over_a_limit_is_left_out_and_counted(encoding: otlp.Encoding) -> None:
    deep: Any = "core"
    for _ in range(6):
        deep = (deep,)
    wide = Span(
        TRACE, SPAN, "n" * 50, 1, 2,
        attributes={"long": "é" * 100, "bytes": b"b" * 101, "deep": deep, "many": tuple(range(20)), "one": 1, "more": 2},
        events=tuple(Event(n, "e") for n in range(5)),
        links=tuple(Link(TRACE, SPAN) for _ in range(5)),
        dropped_attributes=3, dropped_events=4, dropped_links=5,
    )  # fmt: skip
    other = Span(TRACE, "1" * 16, "second", 1, 2, attributes={"a": 1})
    limits = Limits(spans=2, attributes=5, value_bytes=101, name_bytes=40, events=2, links=3, depth=3, items=10)
    body = otlp.write_traces([wide, other, other, other], encoding)
    found = otlp.read_traces(body, encoding, limits)
    first, second = found.spans
    assert first.name == "n" * 40
    assert first.attributes == {
        "long": "é" * 50, "bytes": b"b" * 101, "deep": ((None,),), "many": tuple(range(10)), "one": 1,
    }  # fmt: skip
    assert (first.dropped_attributes, first.dropped_events, first.dropped_links) == (4, 7, 7)
    assert (len(first.events), len(first.links)) == (2, 3)
    assert second == other
    assert (found.rejected, found.reason, found.cut) == (2, "a request may have 2 spans", 4)
    none = otlp.read_traces(body, encoding, Limits(all_attributes=6))
    assert [len(span.attributes) for span in none.spans] == [6, 0, 0, 0]
    assert [span.dropped_attributes for span in none.spans] == [3, 1, 1, 1]


def test_spans_without_ids_are_rejected_and_the_others_kept() -> None:
    reference = ExportTraceServiceRequest()
    spans = reference.resource_spans.add().scope_spans.add().spans
    for trace_id, span_id in (
        (b"\1" * 16, b"\2" * 8),
        (b"\0" * 16, b"\2" * 8),
        (b"\1" * 15, b"\2" * 8),
        (b"\1" * 16, b""),
    ):
        spans.add(trace_id=trace_id, span_id=span_id, parent_span_id=b"\0" * 8)
    found = otlp.read_traces(reference.SerializeToString(), "protobuf")
    assert [span.parent_id for span in found.spans] == [None]
    assert (found.rejected, "16 bytes" in found.reason) == (3, True)
    said = [{"traceId": TRACE, "spanId": SPAN}, {"traceId": TRACE[:-2] + " a", "spanId": SPAN}, {"traceId": TRACE}]
    found = otlp.read_traces(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": said}]}]}).encode(), "json")
    assert (len(found.spans), found.rejected) == (1, 2)


def test_fields_may_come_in_any_order_and_unknown_ones_are_skipped() -> None:
    reference = ExportTraceServiceRequest()
    group = reference.resource_spans.add()
    group.resource.attributes.add(key="late").value.int_value = 1
    members = group.scope_spans.add()
    members.scope.name = "late"
    members.spans.add(trace_id=b"\1" * 16, span_id=b"\2" * 8)

    scope, span = members.scope.SerializeToString(), members.spans[0].SerializeToString()
    unknown = b"\xf8\x07\x96\x01" + b"\xf9\x07" + b"8" * 8 + b"\xfd\x07" + b"4444" + b"\xfa\x07\x03abc"
    inner = _part(0x12, unknown + span + unknown) + unknown + _part(0x0A, scope)
    body = _part(0x0A, _part(0x12, inner) + unknown + _part(0x0A, group.resource.SerializeToString())) + unknown
    (found,) = otlp.read_traces(body, "protobuf").spans
    assert (found.resource.attributes, found.scope.name) == ({"late": 1}, "late")


SEEDS = {
    encoding: otlp.write_traces(
        [
            Span(
                TRACE, SPAN, "chat", 1, 2, parent_id="1" * 16, kind="client", status="error", status_message="no",
                attributes={"a": 1, "b": (1.5, "x", {"k": True}), "c": b"raw", "d": "text" * 30},
                events=(Event(1, "e", {"k": 1}),), links=(Link(TRACE, SPAN, "s", {"k": 1}, 1, 1),),
                resource=Resource({"service.name": "shop"}, 1, "u"), scope=Scope("s", "1", {"k": 1}), flags=1,
            )
        ]
        * 3,
        encoding,
    )
    for encoding in ENCODINGS
}  # fmt: skip


def _code(read: Callable[[], object]) -> str | None:
    try:
        read()
    except Invalid as error:
        return error.code
    return None


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_mutated_requests_raise_the_one_error_or_none(encoding: otlp.Encoding) -> None:
    rng = random.Random(20261121)
    refused = 0
    for _ in range(6000):
        body = bytearray(SEEDS[encoding])
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(body))
            choice = rng.randrange(4)
            if choice == 0:
                body[at] = rng.randrange(256)
            elif choice == 1:
                del body[at : at + rng.randrange(1, 9)]
            elif choice == 2:
                body[at:at] = rng.randbytes(rng.randrange(1, 9))
            else:
                body[at:at] = body[rng.randrange(len(body)) :][:40]
            if not body:
                break
        code = _code(lambda: otlp.read_traces(bytes(body), encoding))  # noqa: B023
        assert code in (None, "invalid_otlp")
        refused += code is not None
    assert refused > 1000


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(body=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_raise_the_one_error_or_none(encoding: otlp.Encoding, body: bytes) -> None:
    for read in (lambda: otlp.read_traces(body, encoding), lambda: otlp_reply.read(body, encoding == "json", True)):
        assert _code(read) in (None, "invalid_otlp")


def test_every_truncation_is_refused_or_read() -> None:
    body = SEEDS["protobuf"]
    for end in range(1, len(body)):
        with pytest.raises(Invalid):
            otlp.read_traces(body[:end], "protobuf")


def _nested(levels: int) -> bytes:
    value = b""
    for _ in range(levels):
        value = _part(0x2A, _part(0x0A, value))
    return _request(_part(0x4A, _part(0x12, value)))


def _part(tag: int, content: bytes) -> bytes:
    size, head = len(content), b""
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return bytes([tag]) + head + bytes([size]) + content


def _request(inner: bytes) -> bytes:
    ids = _part(0x0A, b"\1" * 16) + _part(0x12, b"\2" * 8)
    return _part(0x0A, _part(0x12, _part(0x12, ids + inner)))


HOSTILE = {
    "empty spans": _part(0x0A, _part(0x12, b"\x12\x00" * 1_000_000)),
    "empty attributes": _request(b"\x4a\x00" * 1_000_000),
    "empty events": _request(b"\x5a\x00" * 1_000_000),
    "empty links": _request(b"\x6a\x00" * 1_000_000),
    "a wide array": _request(_part(0x4A, _part(0x12, _part(0x2A, b"\x0a\x00" * 1_000_000)))),
    "nested values": _nested(2000),
    "resources": b"\x0a\x00" * 1_000_000,
    "scopes": _part(0x0A, b"\x12\x00" * 1_000_000),
    "resources twice": _part(0x0A, b"\x0a\x00" * 1_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_protobuf_takes_linear_time(name: str) -> None:
    body = HOSTILE[name]
    began = time.process_time()
    found = otlp.read_traces(body, "protobuf")
    # Some 0.5 µs a byte; ten times that, since a busy machine is slower, is still far from quadratic.
    assert time.process_time() - began < 1 + len(body) * 5e-6
    kept = sum(len(span.events) + len(span.links) + len(span.attributes) for span in found.spans)
    assert kept <= 4096


def test_hostile_lengths_and_groups_are_refused() -> None:
    for body in (
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a" + b"\xff" * 11,
        b"\x0a\xff\xff\xff\x7f",
        b"\x0b\x0c",
        _request(b"\x39\x01"),
        _request(b"\x39\x01") + _request(b""),  # what it lacks would be the next one's bytes
        _request(_part(0x5A, b"\x09\x01")) + _request(b""),
        _request(_part(0x6A, b"\x35\x01")) + _request(b""),
        _request(_part(0x4A, _part(0x12, b"\x21\x00"))) + _request(b""),
        _request(b"\x85\x01\x01"),
        _request(_part(0x4A, _part(0x12, b"\x21\x00"))),
    ):
        with pytest.raises(Invalid, match="no OTLP"):
            otlp.read_traces(body, "protobuf")


def test_hostile_json_is_refused() -> None:
    def spans(text: str) -> bytes:
        return ('{"resourceSpans":[{"scopeSpans":[{"spans":[' + text + "]}]}]}").encode()

    ids = f'"traceId":"{TRACE}","spanId":"{SPAN}"'
    value = '{"stringValue":"x"}'
    for _ in range(20_000):
        value = '{"arrayValue":{"values":[' + value + "]}}"
    for body in (
        spans("{" + ids + ',"attributes":[{"key":"k","value":' + value + "}]}"),
        b'{"x":' + b"[" * 200_000,
        spans("{},{" * 600_000),
        spans("{" + ids + ',"startTimeUnixNano":"-1"}'),
        spans("{" + ids + ',"startTimeUnixNano":"' + "9" * 10_000 + '"}'),
        spans("{" + ids + ',"startTimeUnixNano":1e300}'),
        spans("{" + ids + ',"attributes":[{"key":"k","value":{"intValue":"1.5"}}]}'),
        spans("{" + ids + ',"attributes":[{"key":"k","value":{"doubleValue":"one"}}]}'),
        spans("{" + ids + ',"attributes":[{"key":"k","value":{"bytesValue":"*"}}]}'),
        b"\xff\xfe",
        b"[]",
        b"",
    ):
        with pytest.raises(Invalid, match="no OTLP"):
            otlp.read_traces(body, "json")


def test_content_types() -> None:
    assert otlp.encoding_of("application/json; charset=utf-8") == "json"
    assert otlp.encoding_of("Application/X-Protobuf") == "protobuf"
    with pytest.raises(Invalid) as raised:
        otlp.encoding_of("text/plain")
    assert raised.value.field == "content-type"


METRICS = [
    Metric("a.sum", "{token}", "Tokens.", "sum", (Number(9, 5, 1, {"k": "v"}), Number(9, 1.5, 1)), "cumulative", True),
    Metric("a.gauge", "By", "Bytes.", "gauge", (Number(9, -5),)),
    Metric(
        "a.histogram", "s", "Seconds.", "histogram",
        (Buckets(9, 3, 4.5, (0.1, 1.0), (1, 1, 1), 1, 0.05, 4.0, {"k": ("a", "b")}),), "delta",
    ),
]  # fmt: skip


def test_the_reference_library_reads_our_metrics_alike_in_both_encodings() -> None:
    resource, scope = Resource({"service.name": "mainstay"}), Scope("mainstay", "1")
    found = ExportMetricsServiceRequest.FromString(otlp.write_metrics(METRICS, resource, scope, "protobuf"))
    text = otlp.write_metrics(METRICS, resource, scope, "json").decode()
    assert json_format.Parse(text, ExportMetricsServiceRequest()) == found
    total, gauge, histogram = found.resource_metrics[0].scope_metrics[0].metrics
    assert (total.name, total.unit, total.sum.is_monotonic, total.sum.aggregation_temporality) == (
        "a.sum", "{token}", True, 2,
    )  # fmt: skip
    assert [(point.as_int, point.as_double) for point in total.sum.data_points] == [(5, 0), (0, 1.5)]
    assert gauge.gauge.data_points[0].as_int == -5
    (point,) = histogram.histogram.data_points
    assert (point.count, point.sum, list(point.bucket_counts), list(point.explicit_bounds), point.min, point.max) == (
        3, 4.5, [1, 1, 1], [0.1, 1.0], 0.05, 4.0,
    )  # fmt: skip
    assert histogram.histogram.aggregation_temporality == 1
