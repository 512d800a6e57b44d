"""OTLP over HTTP: traces in and out, metrics out, in protobuf and in JSON.

Compression is the caller's. Reading raises ``Invalid`` with the code ``invalid_otlp``, and nothing else, whatever the
bytes are; its time is linear in them, its memory bounded by ``Limits``. What is left out for a limit is counted:
rejected spans in ``Decoded`` (tell their sender by ``success``), attributes, events and links in the span.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from mainstay.core.errors import Invalid
from mainstay.wire import otlp_json, otlp_json_writing, otlp_reading, otlp_writing
from mainstay.wire.otlp_metric import Metric
from mainstay.wire.otlp_protobuf import CODE
from mainstay.wire.otlp_span import Decoded, Limits, Resource, Scope, Span

Encoding = Literal["protobuf", "json"]

CONTENT_TYPES: dict[Encoding, str] = {"protobuf": "application/x-protobuf", "json": "application/json"}
"""What to say of a body, by its encoding."""

BODY_LIMIT = 16 * 1024 * 1024
"""Bytes that one request may have once it is unpacked; who unpacks it stops there."""

LIMITS = Limits()


def encoding_of(content_type: str) -> Encoding:
    """The encoding that a content type names. Raises ``Invalid`` for one that OTLP does not have."""
    named = content_type.partition(";")[0].strip().lower()
    for encoding, name in CONTENT_TYPES.items():
        if named == name:
            return encoding
    raise Invalid(
        "The content type of an OTLP request is application/x-protobuf or application/json.",
        field="content-type",
        code=CODE,
    )


def read_traces(body: bytes, encoding: Encoding, limits: Limits = LIMITS) -> Decoded:
    """The spans of an ``ExportTraceServiceRequest``. Raises ``Invalid`` for a body that is none."""
    return (otlp_reading if encoding == "protobuf" else otlp_json).read(body, limits)


def write_traces(spans: Iterable[Span], encoding: Encoding) -> bytes:
    """An ``ExportTraceServiceRequest`` of ``spans``, grouped by their resources and scopes (as objects)."""
    return (otlp_writing if encoding == "protobuf" else otlp_json_writing).traces(spans)


def write_metrics(metrics: Iterable[Metric], resource: Resource, scope: Scope, encoding: Encoding) -> bytes:
    """An ``ExportMetricsServiceRequest`` of ``metrics``."""
    return (otlp_writing if encoding == "protobuf" else otlp_json_writing).metrics(metrics, resource, scope)
