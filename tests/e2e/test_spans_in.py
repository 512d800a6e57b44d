"""Applications send their spans: OpenTelemetry's own SDK and exporter, three dialects, keys, re-sends, a killed process."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from tests.running import KEY, Server, bundle

OTHER = "ms-test-secret-of-another-team"
PLAIN = "ms-test-secret-of-the-same-team"

GENAI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 100,
    "gen_ai.conversation.id": "conv-1",
    "gen_ai.input.messages": '[{"role":"user","content":"the secret question"}]',
    "gen_ai.output.messages": '[{"role":"assistant","content":"the secret answer"}]',
    "mainstay.tag.feature": "search",
}
OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "claude-sonnet-4-5",
    "llm.provider": "anthropic",
    "llm.token_count.prompt": 50,
    "llm.token_count.completion": 5,
    "llm.cost.total": 0.25,
    "session.id": "conv-1",
    "input.value": "the secret question",
}
LANGFUSE = {
    "langfuse.observation.type": "generation",
    "langfuse.observation.model.name": "gpt-4o-mini",
    "langfuse.observation.usage_details": '{"input": 7, "output": 3}',
    "langfuse.user.id": "ada",
    "langfuse.observation.input": "the secret question",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    keys = [
        {"name": "tests", "team": "tests", "secret": "${TEST_KEY}", "admin": True, "content": True},
        {"name": "plain", "team": "tests", "secret": "${PLAIN_KEY}"},
        {"name": "other", "team": "other", "secret": "${OTHER_KEY}"},
    ]
    made = bundle({}, {"small": {"target": "sim/fast"}}, teams=[{"name": "tests"}, {"name": "other"}], keys=keys)
    made["providers"] = [{"name": "sim", "kind": "sim"}]
    with Server(made, OTHER_KEY=OTHER, PLAIN_KEY=PLAIN) as running:
        yield running


def application(server: Server, key: str, **resource: str) -> TracerProvider:
    """An application with OpenTelemetry's SDK that exports to the server."""
    provider = TracerProvider(resource=Resource({"service.name": "shop", **resource}))
    exporter = OTLPSpanExporter(f"{server.url}/v1/traces", headers={"authorization": f"Bearer {key}"}, timeout=20)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def rows(server: Server, filter: str, key: str = OTHER, source: str = "all") -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{server.url}/api/v1/calls",
        params={"filter": filter, "source": source},
        headers={"x-api-key": key},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + 20
    while not good(seen := look()):
        assert time.monotonic() < end, seen
        time.sleep(0.05)
    return seen


def hexed(number: int, digits: int) -> str:
    return f"{number:0{digits}x}"


def otlp_json(trace: str, span: str, *, attributes: dict[str, str] | None = None, start: int = 0, **more: Any) -> bytes:
    start = start or time.time_ns()
    given = [{"key": name, "value": {"stringValue": value}} for name, value in (attributes or {}).items()]
    one = {
        "traceId": trace, "spanId": span, "name": "step", "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 5_000_000), "attributes": given, **more,
    }  # fmt: skip
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}).encode()


def send(server: Server, body: bytes, key: str = OTHER, **headers: str) -> httpx.Response:
    given = {
        "x-api-key": key,
        "content-type": "application/json",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return httpx.post(f"{server.url}/v1/traces", content=body, headers=given, trust_env=False, timeout=30)


def test_an_application_with_opentelemetrys_sdk_in_three_dialects(server: Server) -> None:
    provider = application(server, OTHER)
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("checkout", attributes={"cart": 3}) as root:
        with tracer.start_as_current_span("chat gpt-4o", attributes=GENAI):
            pass
        with tracer.start_as_current_span("claude", attributes=OPENINFERENCE):
            pass
        with tracer.start_as_current_span("generation", attributes=LANGFUSE) as failed:
            failed.set_status(StatusCode.ERROR, "the provider was away")
    trace = hexed(root.get_span_context().trace_id, 32)
    provider.shutdown()
    found = {row["name"]: row for row in until(lambda: rows(server, f"trace={trace}"), lambda seen: len(seen) == 4)}
    genai, inference, langfuse = found["chat gpt-4o"], found["claude"], found["generation"]
    assert (genai["kind"], genai["source"], genai["dialect"], genai["service"]) == ("llm", "otlp", "genai", "shop")
    assert (genai["model"], genai["session"], genai["tags"]) == ("gpt-4o", "conv-1", {"feature": "search"})
    assert (genai["usage"]["input"], genai["usage"]["output"]) == (1000, 100)
    assert genai["parent"] == hexed(root.get_span_context().span_id, 16) == found["checkout"]["span"]
    assert (genai["application_cost_usd"], genai["application_cost_source"]) == (0.0035, "price_book")
    assert (inference["application_cost_usd"], inference["application_cost_source"]) == (0.25, "reported")
    assert (langfuse["usage"]["input"], langfuse["user"], langfuse["outcome"]) == (7, "ada", "failed")
    assert langfuse["message"] == "the provider was away"
    assert found["checkout"]["attributes"] == {"cart": "3"}
    assert {row["team"] for row in found.values()} == {"other"}
    assert "secret" not in json.dumps(list(found.values())), "content is never in a row"
    assert all(row["content"] is None and row["cost_usd"] is None for row in found.values())


def test_content_is_kept_where_the_key_says_so(server: Server) -> None:
    provider = application(server, KEY)
    with provider.get_tracer("shop").start_as_current_span("chat", attributes=GENAI) as span:
        pass
    trace = hexed(span.get_span_context().trace_id, 32)
    provider.shutdown()
    (row,) = until(lambda: rows(server, f"trace={trace}", KEY), bool)
    assert "secret" not in json.dumps(row)

    def content() -> dict[str, Any]:
        path = f"{server.url}/api/v1/calls/{row['id']}/content"
        return httpx.get(path, headers={"x-api-key": KEY}, trust_env=False).json()

    kept = until(content, lambda seen: "request" in seen)
    assert kept["request"] == GENAI["gen_ai.input.messages"]
    assert kept["reply"] == GENAI["gen_ai.output.messages"]


def test_a_span_that_is_sent_again_counts_once(server: Server) -> None:
    trace, span = "0a" * 16, "0b" * 8
    body = otlp_json(trace, span)
    for _ in range(3):
        assert send(server, body).json() == {}
    until(lambda: rows(server, f"trace={trace}"), lambda seen: len(seen) == 1)
    assert send(server, body).status_code == 200
    zipped = send(server, gzip.compress(body), content_encoding="gzip")
    assert (zipped.status_code, zipped.json()) == (200, {})
    marker = otlp_json("0c" * 16, "0d" * 8)
    assert send(server, marker).status_code == 200
    until(lambda: rows(server, f"trace={'0c' * 16}"), bool)  # what was sent before it has been taken in too
    assert len(rows(server, f"trace={trace}")) == 1
    assert rows(server, f"trace={trace}", source="gateway") == []


def test_the_same_ids_of_two_teams_are_two_spans_and_nobody_reads_the_others(server: Server) -> None:
    trace = "1a" * 16
    body = otlp_json(trace, "1b" * 8)
    assert send(server, body, OTHER).status_code == send(server, body, PLAIN).status_code == 200
    (mine,) = until(lambda: rows(server, f"trace={trace}", OTHER), bool)
    (theirs,) = until(lambda: rows(server, f"trace={trace}", PLAIN), bool)
    assert (mine["team"], theirs["team"]) == ("other", "tests")
    assert mine["id"] != theirs["id"]
    path = f"{server.url}/api/v1/calls/{theirs['id']}"
    assert httpx.get(path, headers={"x-api-key": OTHER}, trust_env=False).status_code == 404


def test_what_is_wrong_is_said_as_otlp_says_it(server: Server) -> None:
    good = otlp_json("2a" * 16, "2b" * 8)
    nobody = send(server, good, "ms-nobody")
    assert (nobody.status_code, nobody.json()["code"]) == (401, 16)
    assert send(server, b"{").json()["code"] == 3
    bomb = send(server, gzip.compress(bytes(40_000_000)), content_encoding="gzip")
    assert (bomb.status_code, bomb.json()["code"]) == (413, 8)
    assert send(server, good[:20], content_encoding="gzip").status_code == 400
    raw = send(server, b"\xff\xff", content_type="application/x-protobuf")
    assert (raw.status_code, raw.headers["content-type"], raw.content[:2]) == (
        400,
        "application/x-protobuf",
        b"\x08\x03",
    )
    partial = send(server, otlp_json("2a" * 16, "00" * 8)).json()["partialSuccess"]
    assert partial["rejectedSpans"] == "1"
    late = send(server, otlp_json("2a" * 16, "2c" * 8, start=1_000_000_000)).json()["partialSuccess"]
    assert late["rejectedSpans"] == "1"
    assert "clock" in late["errorMessage"]


def test_plain_records_of_an_applications_own_calls(server: Server) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record = {
        "id": "order-7", "at": at, "duration_ms": 12.5, "model": "gpt-4o", "provider": "openai", "cost_usd": 0.125,
        "usage": {"input": 10, "output": 2}, "tags": {"feature": "faq"}, "input": "the secret question",
    }  # fmt: skip
    with httpx.Client(base_url=server.url, headers={"x-api-key": OTHER}, trust_env=False) as client:
        first = client.post("/api/v1/calls", json={"calls": [record]})
        again = client.post("/api/v1/calls", json={"calls": [record]})
        assert (first.status_code, first.json()["new"], again.json()["new"]) == (200, 1, 0), first.text
        assert first.json()["data"] == again.json()["data"]
        wrong = client.post("/api/v1/calls", json={"calls": [{**record, "at": "yesterday"}]})
        assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "calls.0.at")
        (row,) = until(lambda: rows(server, "attribute.id=order-7 and tag.feature=faq"), bool)
        assert row["id"] == first.json()["data"][0]["id"]
        assert (row["source"], row["duration_ms"], row["application_cost_usd"]) == ("api", 12.5, 0.125)
        assert "secret" not in json.dumps(row)


async def test_a_span_is_there_once_though_control_is_killed_right_after_it_was_taken(server: Server) -> None:
    trace = "3a" * 16
    body = otlp_json(trace, "3b" * 8)
    (control,) = server.children("control")
    assert (await asyncio.to_thread(send, server, body)).status_code == 200
    os.kill(control.pid, signal.SIGKILL)
    await asyncio.to_thread(control.wait, 20)

    def again() -> int:
        return send(server, body).status_code

    first = await asyncio.to_thread(again)
    assert first in (200, 503)
    await asyncio.to_thread(
        until, again, lambda status: status == 200
    )  # as an exporter that was told 503 sends it again
    found = await asyncio.to_thread(until, lambda: rows(server, f"trace={trace}"), bool)
    assert len(found) == 1
    marker = otlp_json("3c" * 16, "3d" * 8)
    assert (await asyncio.to_thread(send, server, marker)).status_code == 200
    await asyncio.to_thread(until, lambda: rows(server, f"trace={'3c' * 16}"), bool)
    assert len(rows(server, f"trace={trace}")) == 1


def test_the_gateway_process_knows_nothing_of_it() -> None:
    code = (
        "import sys, mainstay.gateway_process; "
        "print([name for name in sys.modules if 'otlp' in name or name.startswith('mainstay.observe')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
