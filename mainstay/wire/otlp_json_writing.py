"""OTLP's requests in JSON, written: traces and metrics."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import msgspec

from mainstay.wire.otlp_metric import TEMPORALITIES, Buckets, Metric, Point
from mainstay.wire.otlp_span import KINDS, STATUSES, Attributes, Event, Link, Resource, Scope, Span, Value
from mainstay.wire.otlp_writing import grouped

_INT64 = 1 << 63


def traces(spans: Iterable[Span]) -> bytes:
    """An ``ExportTraceServiceRequest``."""
    return _encoded(
        {
            "resourceSpans": [
                {
                    "resource": _resource(resource),
                    "scopeSpans": [
                        {"scope": _scope(scope), "spans": [_span(one) for one in members], **_schema(scope)}
                        for scope, members in scopes
                    ],
                    **_schema(resource),
                }
                for resource, scopes in grouped(spans)
            ]
        }
    )


def metrics(found: Iterable[Metric], resource: Resource, scope: Scope) -> bytes:
    """An ``ExportMetricsServiceRequest``."""
    group = {"scope": _scope(scope), "metrics": [_metric(one) for one in found], **_schema(scope)}
    return _encoded(
        {"resourceMetrics": [{"resource": _resource(resource), "scopeMetrics": [group], **_schema(resource)}]}
    )


def _encoded(found: object) -> bytes:
    try:
        return msgspec.json.encode(found)
    except UnicodeEncodeError:  # half a character, which has no bytes
        return msgspec.json.encode(_mended(found))


def _mended(found: Any) -> Any:
    if isinstance(found, str):
        return found.encode("utf-8", "replace").decode()
    if isinstance(found, dict):
        return {_mended(key): _mended(one) for key, one in found.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(found, list):
        return [_mended(one) for one in found]  # pyright: ignore[reportUnknownVariableType]
    return found


def _given(**fields: object) -> dict[str, object]:
    """The fields that are not at their default, as protobuf's JSON leaves the others out."""
    return {key: value for key, value in fields.items() if value not in (None, "", 0, [])}


def _schema(of: Resource | Scope) -> dict[str, object]:
    return _given(schemaUrl=of.schema_url)


def _resource(resource: Resource) -> dict[str, object]:
    return _given(attributes=_attributes(resource.attributes), droppedAttributesCount=resource.dropped_attributes)


def _scope(scope: Scope) -> dict[str, object]:
    return _given(
        name=scope.name,
        version=scope.version,
        attributes=_attributes(scope.attributes),
        droppedAttributesCount=scope.dropped_attributes,
    )


def _span(span: Span) -> dict[str, object]:
    status = _given(message=span.status_message, code=STATUSES.index(span.status))
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **_given(traceState=span.trace_state, parentSpanId=span.parent_id, name=span.name, kind=KINDS.index(span.kind)),
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        **_given(
            attributes=_attributes(span.attributes),
            droppedAttributesCount=span.dropped_attributes,
            events=[_event(event) for event in span.events],
            droppedEventsCount=span.dropped_events,
            links=[_link(link) for link in span.links],
            droppedLinksCount=span.dropped_links,
            status=status or None,
            flags=span.flags,
        ),
    }


def _event(event: Event) -> dict[str, object]:
    return _given(
        timeUnixNano=str(event.at),
        name=event.name,
        attributes=_attributes(event.attributes),
        droppedAttributesCount=event.dropped_attributes,
    )


def _link(link: Link) -> dict[str, object]:
    return _given(
        traceId=link.trace_id,
        spanId=link.span_id,
        traceState=link.trace_state,
        attributes=_attributes(link.attributes),
        droppedAttributesCount=link.dropped_attributes,
        flags=link.flags,
    )


def _attributes(attributes: Attributes) -> list[object]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, object]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue" if -_INT64 <= value < _INT64 else "stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": _double(value)}
    if isinstance(value, bytes):
        return {"bytesValue": b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _attributes(value)}}
    if value is None:
        return {}
    return {"arrayValue": {"values": [_value(one) for one in value]}}


def _double(value: float) -> float | str:
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _metric(metric: Metric) -> dict[str, object]:
    data: dict[str, object] = {"dataPoints": [_point(one) for one in metric.points]}
    if metric.sort != "gauge":
        data["aggregationTemporality"] = TEMPORALITIES[metric.temporality]
    if metric.sort == "sum":
        data["isMonotonic"] = metric.monotonic
    return {"name": metric.name, "description": metric.description, "unit": metric.unit, metric.sort: data}


def _point(point: Point) -> dict[str, object]:
    found: dict[str, object] = {
        "attributes": _attributes(point.attributes),
        "startTimeUnixNano": str(point.start),
        "timeUnixNano": str(point.at),
    }
    if isinstance(point, Buckets):
        found["count"] = str(point.count)
        found["sum"] = _double(point.sum)
        found["bucketCounts"] = [str(count) for count in point.counts]
        found["explicitBounds"] = list(point.bounds)
        if point.min is not None and point.max is not None:
            found["min"], found["max"] = _double(point.min), _double(point.max)
    elif isinstance(point.value, int):
        found["asInt"] = str(point.value)
    else:
        found["asDouble"] = _double(point.value)
    return found
