"""Calls leave for a collector: a real HTTP server that decodes with the reference protobuf library, killed and restarted."""

from __future__ import annotations

import gzip
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.running import KEY, Server, bundle


class Collector:
    """What a collector was told, over all its lives; ``answer`` is the status and the headers of its replies."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.metrics: set[str] = set()
        self.headers: dict[str, str] = {}
        self.requests: list[float] = []
        self.answer: tuple[int, dict[str, str]] = 200, {}
        self.port = 0

    @contextmanager
    def running(self) -> Generator[None]:
        """Listen, at the same port every time."""
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                told.take(self.path, gzip.decompress(body), dict(self.headers.items()))
                status, headers = told.answer
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        ThreadingHTTPServer.allow_reuse_address = True
        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as listening:
            self.port = listening.server_address[1]
            thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield
            finally:
                listening.shutdown()
                thread.join()

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.requests.append(time.monotonic())
        if self.answer[0] != 200:
            return
        if path.endswith("/v1/metrics"):
            metrics = ExportMetricsServiceRequest.FromString(body)
            self.metrics |= {
                metric.name
                for resource in metrics.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }
            return
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {one.key: one.value for one in span.attributes}
                    self.spans.append(
                        {
                            "trace": span.trace_id.hex(),
                            "span": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "name": span.name,
                            "values": values,
                            "call": values["mainstay.call.id"].string_value,
                        }
                    )

    @property
    def calls(self) -> set[str]:
        return {span["call"] for span in self.spans}


def until(look: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not good(seen := look()):
        assert time.monotonic() < end, seen
        time.sleep(0.05)
    return seen


def ask(server: Server, **headers: str) -> str:
    body = {"model": "good", "messages": [{"role": "user", "content": "the secret question"}]}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {KEY}", **headers},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["x-mainstay-call"]


def health(server: Server) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/api/v1/health", headers={"x-api-key": KEY}, trust_env=False, timeout=30)
    return answer.json()["spans"]["out"]


def rehearsed() -> dict[str, Any]:
    made = bundle({}, {"good": {"target": "sim/fine", "price": {"input": 1, "output": 2}}})
    made["providers"] = [{"name": "sim", "kind": "sim"}]
    made["keys"][0]["content"] = True
    return made


@pytest.fixture
def collector() -> Collector:
    return Collector()


def test_a_collector_that_is_killed_and_restarted_is_told_every_call(collector: Collector) -> None:
    with collector.running():
        pass  # its port is known, and it is not there
    with Server(
        rehearsed(),
        MAINSTAY_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}/base",
        MAINSTAY_OTLP_HEADERS="x-token=a%20secret",
        MAINSTAY_OTLP_METRICS_SECONDS="1",
        MAINSTAY_OTLP_NAMES="both",
    ) as server:
        trace, parent = "4a" * 16, "4b" * 8
        first = ask(server, traceparent=f"00-{trace}-{parent}-01")
        until(lambda: health(server), lambda out: out["failed_requests"] >= 1 and out["error"])
        with collector.running():
            until(lambda: collector.calls, lambda calls: first in calls)
            until(lambda: collector.metrics, lambda names: "gen_ai.client.inference.duration" in names)
        second = ask(server)  # it is away again
        failed = health(server)["failed_requests"]
        until(lambda: health(server), lambda out: out["failed_requests"] > failed)
        (control,) = server.children("control")
        control.send_signal(signal.SIGKILL)  # and so are we
        control.wait(20)
        third = ask(server)
        with collector.running():
            until(lambda: collector.calls, lambda calls: {first, second, third} <= calls)
            out = until(lambda: health(server), lambda seen: seen["sent"] >= 4)
        assert (out["dropped"], out["error"]) == (0, None)
    told = Counter((span["trace"], span["span"]) for span in collector.spans)
    assert len(told) == 6, "a call and its attempt, three times"
    assert told[trace, next(span["span"] for span in collector.spans if span["call"] == first)] == 1, "not told again"
    call, attempt = (span for span in collector.spans if span["call"] == first)
    assert (call["trace"], call["parent"]) == (trace, parent)
    assert attempt["parent"] == call["span"]
    assert {"gen_ai.provider.name", "gen_ai.system", "gen_ai.usage.input_tokens"} <= attempt["values"].keys()
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} <= collector.metrics
    assert collector.headers["x-token"] == "a secret"
    assert "secret question" not in str(collector.spans)


def test_a_collector_says_when_to_come_again_and_what_it_refuses_is_counted(collector: Collector) -> None:
    with (
        collector.running(),
        Server(rehearsed(), OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}") as server,
    ):
        collector.answer = 429, {"retry-after": "3"}
        call = ask(server)
        until(lambda: len(collector.requests), lambda seen: seen >= 2)
        assert collector.requests[1] - collector.requests[0] >= 3
        collector.answer = 200, {}
        until(lambda: collector.calls, lambda calls: call in calls)
        collector.answer = 400, {}
        ask(server)
        out = until(lambda: health(server), lambda seen: seen["dropped"] > 0)
        assert out["dropped"] == 2, "the call and its attempt"
        metrics = httpx.get(f"{server.url}/metrics", trust_env=False).text
        assert "mainstay_otlp_spans_dropped_total 2" in metrics
        collector.answer = 200, {}
        later = ask(server)
        until(lambda: collector.calls, lambda calls: later in calls)


def test_content_is_told_only_where_the_setting_says_so(collector: Collector) -> None:
    with (
        collector.running(),
        Server(
            rehearsed(), MAINSTAY_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}", MAINSTAY_OTLP_CONTENT="1"
        ) as server,
    ):
        call = ask(server)
        until(lambda: collector.calls, lambda calls: call in calls)
    attempt = collector.spans[-1]["values"]
    assert "the secret question" in json.loads(attempt["gen_ai.input.messages"].string_value)["messages"][0]["content"]
    assert "gen_ai.output.messages" in attempt
