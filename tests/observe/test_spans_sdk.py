"""A real OpenTelemetry SDK exports over HTTP: what it sends is read, and becomes the record that it should."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from mainstay.observe.spans import record_of
from mainstay.wire import otlp, otlp_reply
from mainstay.wire.otlp_span import Span


@contextmanager
def receiver(status: int, reply: bytes) -> Iterator[tuple[str, list[Span]]]:
    """A server that reads what it gets, and answers ``reply``."""
    spans: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            spans.extend(otlp.read_traces(body, otlp.encoding_of(self.headers["content-type"])).spans)
            self.send_response(status)
            self.send_header("content-type", otlp.CONTENT_TYPES["protobuf"])
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_what_an_application_exports_becomes_records(compression: Compression) -> None:
    with receiver(200, otlp_reply.success(False)) as (url, spans):
        provider = TracerProvider(resource=Resource.create({"service.name": "shop", "k8s.labels": ["a", "b"]}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(url, compression=compression, timeout=10)))
        tracer = provider.get_tracer("my.instrumentation", "1.2", schema_url="https://opentelemetry.io/schemas/1.37.0")
        with tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}) as outer:
            said = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.usage.input_tokens": 2**40,
                "gen_ai.response.finish_reasons": ["stop", "length"],
                "gen_ai.response.time_to_first_chunk": 0.5,
                "negative": -1,
                "empty": "",
                "flag": False,
            }
            link = Link(outer.get_span_context(), {"why": "test"})
            with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, links=[link], attributes=said) as inner:
                inner.add_event("gen_ai.user.message", {"content": "Grüße 😀"})
                inner.record_exception(ValueError("no"))
                inner.set_status(Status(StatusCode.ERROR, "it failed"))
        provider.shutdown()
    chat, agent = spans
    assert (chat.trace_id, chat.span_id) == (
        f"{outer.get_span_context().trace_id:032x}",
        f"{inner.get_span_context().span_id:016x}",
    )
    assert (chat.parent_id, agent.parent_id, chat.kind) == (agent.span_id, None, "client")
    assert agent.start <= chat.start <= chat.end <= agent.end
    assert (chat.scope.name, chat.scope.version) == ("my.instrumentation", "1.2")
    assert chat.scope.schema_url == "https://opentelemetry.io/schemas/1.37.0"
    assert (chat.resource.attributes["service.name"], chat.resource.attributes["k8s.labels"]) == ("shop", ("a", "b"))
    assert (chat.links[0].span_id, chat.links[0].attributes) == (agent.span_id, {"why": "test"})
    record = record_of(chat)
    assert (record.kind, record.service, record.model, record.provider) == ("llm", "shop", "gpt-4o", "openai")
    assert (record.ok, record.error, record.message) == (False, "ValueError", "it failed")
    assert (record.finish, record.first_token_ms) == (("stop", "length"), 500)
    assert record.usage is not None
    assert record.usage.input == 2**40
    assert record.content is not None
    assert "Grüße 😀" in (record.content.input or "")
    assert {"negative": -1, "empty": "", "flag": False}.items() <= record.attributes.items()
    assert record_of(agent).kind == "agent"


def test_the_exporter_understands_our_refusal(caplog: pytest.LogCaptureFixture) -> None:
    with receiver(400, otlp_reply.failure(False, 400, "no such thing")) as (url, spans):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(url, timeout=10)))
        provider.get_tracer("t").start_span("one").end()
        provider.shutdown()
    assert len(spans) == 1  # a 400 is not sent again
    assert "400" in caplog.text
