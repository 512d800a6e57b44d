"""A trace read back: an application's spans around a call through the gateway, as a tree, and what it all cost."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.e2e.test_spans_in import OTHER, hexed, otlp_json, send, until
from tests.running import KEY, Server, bundle

LLM = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 100,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = bundle(
        {},
        {
            "bad": {"target": "down/broken"},
            "good": {"target": "sim/fine", "price": {"input": 1, "output": 2}},
        },
        routes=[{"name": "support", "to": {"fallback": ["bad", "good"]}}],
        teams=[{"name": "tests"}, {"name": "other"}],
    )
    made["keys"].append({"name": "other", "team": "other", "secret": "${OTHER_KEY}"})
    down = {"faults": [{"kind": "not_found", "rate": 1.0}]}
    made["providers"] = [{"name": "sim", "kind": "sim"}, {"name": "down", "kind": "sim", "sim": down}]
    with Server(made, OTHER_KEY=OTHER) as running:
        yield running


def get(server: Server, path: str, key: str = OTHER, **query: str) -> httpx.Response:
    return httpx.get(f"{server.url}{path}", params=query, headers={"x-api-key": key}, trust_env=False, timeout=30)


def ask(server: Server, **headers: str) -> str:
    """One call through the gateway with the other team's key; its id."""
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
    given = {"authorization": f"Bearer {OTHER}", **headers}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=given, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-mainstay-call"]


def tree(server: Server, trace: str, nodes: int) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        return get(server, f"/api/v1/traces/{trace}").json()

    return until(look, lambda seen: len(seen.get("nodes", ())) >= nodes)


def test_an_applications_spans_and_the_call_below_them_are_one_tree(server: Server) -> None:
    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"{server.url}/v1/traces", headers={"x-api-key": OTHER})
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("answer a customer") as root:
        own = tracer.start_as_current_span("chat gpt-4o", attributes=LLM)  # its tokens are those of the call
        with own, tracer.start_as_current_span("POST"):
            headers: dict[str, str] = {}
            TraceContextTextMapPropagator().inject(headers)
            call = ask(server, **headers)
        with tracer.start_as_current_span("chat elsewhere", attributes=LLM):  # one that did not come through us
            pass
    provider.shutdown()
    trace = hexed(root.get_span_context().trace_id, 32)
    found = tree(server, trace, 7)
    shape = [(node["depth"], node["kind"], node["name"]) for node in found["nodes"]]
    assert shape == [
        (0, "other", "answer a customer"),
        (1, "llm", "chat gpt-4o"),
        (2, "other", "POST"),
        (3, "call", "chat support"),
        (4, "attempt", "bad broken"),
        (4, "attempt", "good fine"),
        (1, "llm", "chat elsewhere"),
    ]
    nodes = {node["name"]: node for node in found["nodes"]}
    assert nodes["POST"]["children"] == [call]
    assert nodes["chat support"]["parent"] == nodes["POST"]["id"]
    assert (nodes["bad broken"]["outcome"], nodes["good fine"]["outcome"]) == ("failed", "ok")
    assert 0 <= nodes["chat gpt-4o"]["offset_ms"] <= nodes["chat support"]["offset_ms"] + 1 <= found["duration_ms"] + 1
    # What the application tells of its own call counts; what it tells of ours does not, since that has been counted.
    assert (nodes["chat gpt-4o"]["counted"], nodes["chat elsewhere"]["counted"]) == (False, True)
    assert found["application_cost_usd"] == 0.0035
    assert found["cost_usd"] == nodes["chat support"]["cost_usd"] > 0
    assert (found["calls"], found["spans"]) == (1, 4)
    (row,) = get(server, "/api/v1/calls", filter=f"trace={trace}").json()["data"]
    assert row["id"] == call, "calls are those of the gateway unless others are asked for"
    (cost,) = get(server, "/api/v1/spans/costs", filter=f"trace={trace}").json()["data"]
    assert cost == {"cost_usd": 0.0035, "spans": 1, "covered_usd": 0.0035, "covered": 1}
    assert get(server, f"/api/v1/traces/{call}").json()["trace"] == trace
    assert get(server, f"/api/v1/traces/{trace}", KEY).status_code == 200, "an administrator sees all"
    budget = get(server, "/api/v1/budgets", KEY, exact="true")
    assert budget.status_code == 200

    printed = server.command("trace", trace).stdout
    assert "└─ other POST" in printed
    assert "   └─ call chat support" in printed
    assert "counted below" in printed
    assert json.loads(server.command("trace", call, "--json").stdout)["trace"] == trace


def test_a_span_that_names_its_call_is_its_parent_without_a_common_trace(server: Server) -> None:
    call = ask(server)
    trace = secrets.token_hex(16)
    body = otlp_json(trace, secrets.token_hex(8), attributes={"mainstay.call.id": call, **{"llm.cost.total": "9"}})
    assert send(server, body).json() == {}
    found = tree(server, trace, 4)
    assert [(node["depth"], node["kind"]) for node in found["nodes"]][:2] == [(0, "other"), (1, "call")]
    assert found["nodes"][0]["counted"] is False
    (cost,) = get(server, "/api/v1/spans/costs", filter=f"trace={trace}").json()["data"]
    assert (cost["cost_usd"], cost["covered_usd"]) == (0, 9)
    alone = get(server, f"/api/v1/traces/{call}").json()
    assert [node["kind"] for node in alone["nodes"]] == ["call", "attempt", "attempt"]


def test_a_team_cannot_read_another_teams_trace(server: Server) -> None:
    trace = secrets.token_hex(16)
    assert send(server, otlp_json(trace, secrets.token_hex(8)), KEY).json() == {}
    until(lambda: get(server, f"/api/v1/traces/{trace}", KEY).status_code, lambda status: status == 200)
    refused = get(server, f"/api/v1/traces/{trace}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "trace_not_found")
    (costs,) = get(server, "/api/v1/spans/costs", filter=f"trace={trace}").json()["data"]
    assert costs["spans"] == 0
    assert get(server, "/api/v1/traces/nonsense").status_code == 404


def test_parents_in_a_circle_and_parents_that_are_not_there(server: Server) -> None:
    trace, one, other, third = secrets.token_hex(16), "a1" * 8, "a2" * 8, "a3" * 8
    now = time.time_ns()
    for span, parent in ((one, other), (other, one), (third, "a9" * 8)):
        assert send(server, otlp_json(trace, span, start=now, parentSpanId=parent)).json() == {}
    found = tree(server, trace, 3)
    assert sorted(node["depth"] for node in found["nodes"]) == [0, 0, 1]
    assert [node["missing_parent"] for node in found["nodes"] if "missing_parent" in node] == ["a9" * 8]
