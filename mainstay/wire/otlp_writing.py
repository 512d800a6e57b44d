"""OTLP's requests in protobuf, written: traces and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import pack

from mainstay.wire.otlp_metric import TEMPORALITIES, Buckets, Metric, Point
from mainstay.wire.otlp_protobuf import double, fixed32, fixed64, number, part, text, varint
from mainstay.wire.otlp_span import KINDS, STATUSES, Attributes, Event, Link, Resource, Scope, Span, Value

_INT64 = 1 << 63


def grouped(spans: Iterable[Span]) -> list[tuple[Resource, list[tuple[Scope, list[Span]]]]]:
    """``spans`` by resource and scope, in the order in which these first occur. The same object is the same group."""
    resources: dict[int, tuple[Resource, dict[int, tuple[Scope, list[Span]]]]] = {}
    for span in spans:
        _, scopes = resources.setdefault(id(span.resource), (span.resource, {}))
        scopes.setdefault(id(span.scope), (span.scope, []))[1].append(span)
    return [(resource, list(scopes.values())) for resource, scopes in resources.values()]


def traces(spans: Iterable[Span]) -> bytes:
    """An ``ExportTraceServiceRequest``."""
    return b"".join(
        _of_resource(resource, [(scope, [_span(one) for one in members]) for scope, members in scopes])
        for resource, scopes in grouped(spans)
    )


def metrics(found: Iterable[Metric], resource: Resource, scope: Scope) -> bytes:
    """An ``ExportMetricsServiceRequest``, which differs from one of traces by its innermost messages only."""
    return _of_resource(resource, [(scope, [_metric(one) for one in found])])


def _of_resource(resource: Resource, scopes: list[tuple[Scope, list[bytes]]]) -> bytes:
    described = _attributes(0x0A, resource.attributes) + number(0x10, resource.dropped_attributes)
    return part(
        0x0A,
        part(0x0A, described)
        + b"".join(_of_scope(scope, members) for scope, members in scopes)
        + text(0x1A, resource.schema_url),
    )


def _of_scope(scope: Scope, members: list[bytes]) -> bytes:
    described = (
        text(0x0A, scope.name)
        + text(0x12, scope.version)
        + _attributes(0x1A, scope.attributes)
        + number(0x20, scope.dropped_attributes)
    )
    content = b"".join(part(0x12, one) for one in members)
    return part(0x12, part(0x0A, described) + content + text(0x1A, scope.schema_url))


def _span(span: Span) -> bytes:
    status = text(0x12, span.status_message) + number(0x18, STATUSES.index(span.status))
    return b"".join(
        (
            part(0x0A, bytes.fromhex(span.trace_id)),
            part(0x12, bytes.fromhex(span.span_id)),
            text(0x1A, span.trace_state),
            part(0x22, bytes.fromhex(span.parent_id)) if span.parent_id else b"",
            text(0x2A, span.name),
            number(0x30, KINDS.index(span.kind)),
            b"\x39" + fixed64.pack(span.start),
            b"\x41" + fixed64.pack(span.end),
            _attributes(0x4A, span.attributes),
            number(0x50, span.dropped_attributes),
            *(part(0x5A, _event(event)) for event in span.events),
            number(0x60, span.dropped_events),
            *(part(0x6A, _link(link)) for link in span.links),
            number(0x70, span.dropped_links),
            part(0x7A, status) if status else b"",
            b"\x85\x01" + fixed32.pack(span.flags) if span.flags else b"",
        )
    )


def _event(event: Event) -> bytes:
    return (
        b"\x09"
        + fixed64.pack(event.at)
        + text(0x12, event.name)
        + _attributes(0x1A, event.attributes)
        + number(0x20, event.dropped_attributes)
    )


def _link(link: Link) -> bytes:
    return (
        part(0x0A, bytes.fromhex(link.trace_id))
        + part(0x12, bytes.fromhex(link.span_id))
        + text(0x1A, link.trace_state)
        + _attributes(0x22, link.attributes)
        + number(0x28, link.dropped_attributes)
        + (b"\x35" + fixed32.pack(link.flags) if link.flags else b"")
    )


def _attributes(tag: int, attributes: Attributes) -> bytes:
    return b"".join(part(tag, _pair(key, value)) for key, value in attributes.items())


def _pair(key: str, value: Value) -> bytes:
    return text(0x0A, key) + part(0x12, _value(value))


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return part(0x0A, value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        # Beyond 64 bits there is no number on this wire; its digits are the truth all the same.
        return b"\x18" + varint(value) if -_INT64 <= value < _INT64 else part(0x0A, str(value).encode())
    if isinstance(value, float):
        return b"\x21" + double.pack(value)
    if isinstance(value, bytes):
        return part(0x3A, value)
    if isinstance(value, Mapping):
        return part(0x32, _attributes(0x0A, value))
    if value is None:
        return b""
    return part(0x2A, b"".join(part(0x0A, _value(one)) for one in value))


def _metric(metric: Metric) -> bytes:
    points = b"".join(part(0x0A, _point(one)) for one in metric.points)
    temporality = number(0x10, TEMPORALITIES[metric.temporality])
    if metric.sort == "gauge":
        data = part(0x2A, points)
    elif metric.sort == "sum":
        data = part(0x3A, points + temporality + number(0x18, metric.monotonic))
    else:
        data = part(0x4A, points + temporality)
    return text(0x0A, metric.name) + text(0x12, metric.description) + text(0x1A, metric.unit) + data


def _point(point: Point) -> bytes:
    times = b"\x11" + fixed64.pack(point.start) + b"\x19" + fixed64.pack(point.at)
    if isinstance(point, Buckets):
        least = b"" if point.min is None else b"\x59" + double.pack(point.min)
        most = b"" if point.max is None else b"\x61" + double.pack(point.max)
        return (
            times
            + b"\x21"
            + fixed64.pack(point.count)
            + b"\x29"
            + double.pack(point.sum)
            + part(0x32, pack(f"<{len(point.counts)}Q", *point.counts))
            + part(0x3A, pack(f"<{len(point.bounds)}d", *point.bounds))
            + _attributes(0x4A, point.attributes)
            + least
            + most
        )
    value = b"\x31" + pack("<q", point.value) if isinstance(point.value, int) else b"\x21" + double.pack(point.value)
    return times + value + _attributes(0x3A, point.attributes)
