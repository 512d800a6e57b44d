"""What a receiver of OTLP answers: checked against the reference library, and read back."""

from __future__ import annotations

import json

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from mainstay.core.errors import Invalid
from mainstay.wire import otlp_reply
from mainstay.wire.otlp_reply import Reply


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("rejected", "message"), [(0, ""), (0, "a warning"), (300, "too many, été \ud800")])
def test_a_success_is_read_back(as_json: bool, rejected: int, message: str) -> None:
    body = otlp_reply.success(as_json, rejected, message)
    assert otlp_reply.read(body, as_json, ok=True) == Reply(rejected, message.replace("\ud800", "?"))


def test_the_reference_library_reads_our_replies() -> None:
    partial = ExportTraceServiceResponse.FromString(otlp_reply.success(False, 300, "too many")).partial_success
    assert (partial.rejected_spans, partial.error_message) == (300, "too many")
    assert not ExportTraceServiceResponse.FromString(otlp_reply.success(False)).HasField("partial_success")
    assert json.loads(otlp_reply.success(True)) == {}
    said = json.loads(otlp_reply.success(True, 3, "no"))
    assert said == {"partialSuccess": {"rejectedSpans": "3", "errorMessage": "no"}}
    status = Status.FromString(otlp_reply.failure(False, 400, "no spans"))
    assert (status.code, status.message) == (3, "no spans")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("status", "code"), [(400, 3), (401, 16), (429, 8), (503, 14), (418, 9), (599, 13)])
def test_a_failure_is_read_back(as_json: bool, status: int, code: int) -> None:
    body = otlp_reply.failure(as_json, status, "why")
    assert otlp_reply.read(body, as_json, ok=False) == Reply(0, "why", code)


def test_a_collectors_own_replies_are_read() -> None:
    assert otlp_reply.read(b"", True, ok=True) == Reply()
    metrics = b'{"partialSuccess":{"rejectedDataPoints":"4","errorMessage":null},"other":1}'
    assert otlp_reply.read(metrics, True, ok=True) == Reply(4)
    detailed = Status(code=8, message="slow down")
    detailed.details.add().type_url = "type.googleapis.com/google.rpc.RetryInfo"
    assert otlp_reply.read(detailed.SerializeToString(), False, ok=False) == Reply(0, "slow down", 8)
    for body in (b"nonsense", b"[" * 100_000, b'{"partialSuccess":{"rejectedSpans":"x"}}'):
        with pytest.raises(Invalid):
            otlp_reply.read(body, True, ok=True)
    with pytest.raises(Invalid):
        otlp_reply.read(b"\x0a\x7f", False, ok=True)


def test_what_may_be_sent_again() -> None:
    assert [status for status in (200, 400, 408, 429, 500, 502, 503, 504) if otlp_reply.retryable(status)] == [
        429, 502, 503, 504,
    ]  # fmt: skip
