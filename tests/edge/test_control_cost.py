"""Cost in the control API and on the command line, through a running installation: it reconciles, and teams see their own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from tests.edge.test_control_api import until
from tests.running import KEY, Server

OTHER = "sk-of-the-other-team-0123456789"
BUNDLE = """\
providers: [{name: sim, kind: sim, sim: {latency: 1ms, tokens_per_second: 100000}}]
models:
  - {name: small, target: sim/s, price: {input: 0.15, output: 0.6}}
  - {name: large, target: sim/l, price: {input: 3, output: 15}}
  - {name: unpriced, target: sim/u}
routes:
  - {name: shared, to: {weighted: {small: 1, large: 1}}}
  - {name: caches, to: small, cache: {ttl: 1h}}
budgets:
  - {name: users, by: user, usd: 0.0002, per: day, soft: true, unpriced: allow}
  - {name: every, by: all, usd: 5, per: total, unpriced: allow}
teams: [{name: tests, budget: {usd: 5, per: month, unpriced: allow}}, {name: other, budget: {usd: 1, per: day}}]
keys:
  - {name: tests, team: tests, secret: "${TEST_KEY}", admin: true}
  - {name: web, team: other, secret: "${OTHER_KEY}"}
"""
CALLS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(BUNDLE, OTHER_KEY=OTHER) as running:
        with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
            for number in range(CALLS):
                key = OTHER if number % 4 == 0 else KEY
                model = "shared" if number % 4 == 0 else ("shared", "caches", "unpriced")[number % 3]
                feature = ("search", '=HYPERLINK("x")')[number % 2]
                body = {"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "the same words"}]}
                headers = {"x-api-key": key, "x-mainstay-user": f"u{number % 5}"}
                headers["x-mainstay-tags"] = f"feature={feature}"
                assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
            asked = client.post("/v1/chat/completions", json={"model": "nothing"}, headers={"x-api-key": KEY})
            assert asked.status_code in (400, 404)
            admin = {"x-api-key": KEY}
            until(
                lambda: client.get("/api/v1/cost", headers=admin).json()["total"]["calls"],
                lambda count: count == CALLS + 1,
            )
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-api-key": KEY}, timeout=30, trust_env=False) as client:
        yield client


def got(client: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
    reply = client.get(path, params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()


def exact(row: dict[str, Any]) -> Decimal:
    return Decimal(row["cost_usd"] or 0)


def test_every_grouping_reconciles_with_calls_metrics_and_exports(http: httpx.Client) -> None:
    rows = json.loads(http.get("/api/v1/calls", params={"limit": 1000}).text, parse_float=Decimal, parse_int=Decimal)[
        "data"
    ]
    whole = sum((row["cost_usd"] or Decimal(0) for row in rows), Decimal(0))
    assert whole > 0
    found = got(http, "/api/v1/cost")
    assert exact(found["total"]) == whole
    assert found["total"]["unpriced_calls"] == sum(row["cost_usd"] is None for row in rows) > 0
    for by in (
        "team",
        "key",
        "user",
        "route",
        "model",
        "provider",
        "operation",
        "dialect",
        "cache",
        "outcome",
        "tag.feature",
    ):
        for limit in (1, 100):
            found = got(http, "/api/v1/cost", by=by, limit=limit)
            parts = [*found["data"], *([found["rest"]] if found["rest"] else [])]
            assert sum(map(exact, parts), Decimal(0)) == exact(found["total"]) == whole, by
            assert sum(row["calls"] for row in parts) == CALLS + 1
    text = http.get("/metrics").text
    counted = [Decimal(line.split()[-1]) for line in text.splitlines() if line.startswith("mainstay_cost_usd_total{")]
    assert sum(counted, Decimal(0)) == whole
    for query in ({}, {"by": "team,tag.feature"}):
        lines = list(csv.DictReader(io.StringIO(http.get("/api/v1/cost/export", params=query).text)))
        assert sum((Decimal(line["cost_usd"]) for line in lines if line["cost_usd"]), Decimal(0)) == whole


def test_unknown_costs_are_null_and_never_zero(http: httpx.Client) -> None:
    found = got(http, "/api/v1/cost", by="model", filter="outcome=ok and not cache=hit")
    rows = {row["group"]["model"]: row for row in found["data"]}
    assert (rows["unpriced"]["cost_usd"], rows["unpriced"]["failed_cost_usd"]) == (None, None)
    assert rows["unpriced"]["unpriced_calls"] == rows["unpriced"]["calls"] > 0
    assert rows["small"]["unpriced_calls"] == 0
    assert got(http, "/api/v1/cost", filter="model=nobody")["total"]["cost_usd"] == "0"  # of no calls it is known


def test_a_teams_key_sees_its_own(server: Server, http: httpx.Client) -> None:
    with httpx.Client(base_url=server.url, headers={"x-api-key": OTHER}, timeout=30, trust_env=False) as other:
        mine = got(http, "/api/v1/cost", by="team", filter="team=other")["total"]
        assert mine["calls"] == 6
        for query in ({}, {"filter": "team=tests or team=other"}):
            found = got(other, "/api/v1/cost", by="team", **query)
            assert found["total"] == mine
            assert [row["group"] for row in found["data"]] == [{"team": "other"}]
        assert {**got(other, "/api/v1/cost/top", by="user")["total"], "failed_cost_usd": "0"} == mine
        quick = got(other, "/api/v1/cost", failed="false")["total"]
        assert {**quick, "failed_cost_usd": "0"} == mine
        assert "failed_cost_usd" not in quick
        assert got(other, "/api/v1/cost/deviation")["total"]["calls"] == 6
        assert len(list(csv.DictReader(io.StringIO(other.get("/api/v1/cost/export").text)))) == 6
        forecast = got(other, "/api/v1/cost/forecast")
        assert [row["rule"] for row in forecast["data"]] == ["team:other:usd:day"]
        assert forecast["all"]["spent_usd"] == mine["cost_usd"]
        assert other.get("/api/v1/cost/savings").status_code == 403  # models' prices are the administrator's
    assert httpx.get(f"{server.url}/api/v1/cost", trust_env=False).status_code == 401


def test_the_window_is_told_and_questions_are_checked(http: httpx.Client) -> None:
    window = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-08T00:00:00.5Z"}
    found = got(http, "/api/v1/cost", **window)
    assert found["window"] == {"since": "2026-01-01T00:00:00.000000Z", "until": "2026-01-08T00:00:00.500000Z"}
    assert found["total"]["calls"] == 0
    before = got(http, "/api/v1/cost/deviation", **window)["before"]
    assert before["since"] == "2025-12-18T00:00:00.000000Z"  # two weeks: one would overlap
    assert got(http, "/api/v1/cost/deviation", **window, before="1d")["before"]["since"].startswith("2025-12-31")
    for path, query, field in (
        ("cost", {"by": "modell"}, "by"),
        ("cost", {"since": "1h", "until": "2h"}, "since"),
        ("cost", {"since": "yesterday"}, "since"),
        ("cost", {"filter": "model="}, "filter"),
        ("cost", {"limit": 0}, "limit"),
        ("cost/top", {"share": 100}, "share"),
        ("cost/deviation", {"before": "0s"}, "before"),
        ("cost/export", {"format": "xlsx"}, "format"),
        ("cost/export", {"by": "x"}, "by"),
    ):
        reply = http.get(f"/api/v1/{path}", params=query)
        assert (reply.status_code, reply.json()["error"]["field"]) == (400, field), reply.text


def test_budgets_have_a_forecast_by_their_own_counters(http: httpx.Client) -> None:
    whole = exact(got(http, "/api/v1/cost")["total"])

    def forecast() -> dict[str, Any]:
        return got(http, "/api/v1/cost/forecast", exact="true")

    def settled(found: dict[str, Any]) -> bool:
        return any(row["rule"] == "budget:every" and Decimal(row["spent_usd"]) == whole for row in found["data"])

    found = until(forecast, settled)
    rows = {(row["rule"], row["scope"]): row for row in found["data"]}
    assert {scope for rule, scope in rows if rule == "budget:users"} == {f"u{n}" for n in range(5)}
    team = rows["team:tests:usd:month", ""]
    assert (team["limit_usd"], team["estimator"], team["state"], team["forecast_usd"]) == (
        "5",
        "too_early",
        "unknown",
        None,
    )
    by_user = {row["group"]["user"]: exact(row) for row in got(http, "/api/v1/cost", by="user")["data"]}
    for number in range(5):
        row = rows["budget:users", f"u{number}"]
        assert Decimal(row["spent_usd"]) == by_user[f"u{number}"]
        assert row["state"] == ("reached" if by_user[f"u{number}"] >= Decimal("0.0002") else "unknown")
    assert Decimal(found["all"]["spent_usd"]) == whole


def test_savings_follow_from_the_rows(http: httpx.Client) -> None:
    found = got(http, "/api/v1/cost/savings")
    hits = http.get("/api/v1/calls", params={"filter": "cache=hit", "limit": 100}).json()["data"]
    assert hits
    tokens_in, tokens_out = (sum(row["usage"][sort] for row in hits) for sort in ("input", "output"))
    made = {one["kind"]: one for one in found["made"]}
    saved = (tokens_in * Decimal("0.15") + tokens_out * Decimal("0.6")) / 10**6
    assert abs(Decimal(made["exact_cache"]["usd"]) - saved) <= Decimal("5e-10")
    assert {row["route"] for row in made["routing"]["data"]} == {"shared"}
    for one in [*found["made"], *found["possible"]]:
        assert one["formula"]
        assert sum((Decimal(row["usd"]) for row in one["data"]), Decimal(0)) == Decimal(one["usd"])


def test_the_command_line_has_the_same_reach(server: Server, http: httpx.Client, tmp_path: Path) -> None:
    whole = exact(got(http, "/api/v1/cost")["total"])
    found = json.loads(server.command("cost", "--by", "team,tag.feature", "--json").stdout)
    assert exact(found["total"]) == whole
    lines = server.command(
        "cost", "--by", "team", "--filter", "cache=off or cache=miss or cache=hit"
    ).stdout.splitlines()
    assert any(line.split()[:2] == ["all", str(whole)] for line in lines), lines
    assert "% of the cost comes from" in server.command("cost", "top", "--by", "user").stdout
    assert "new" in server.command("cost", "deviation").stdout
    assert "all spending" in server.command("cost", "forecast").stdout
    assert "saved, exact cache" in server.command("cost", "savings").stdout
    for name in ("cost.csv", "cost.parquet"):
        target = tmp_path / name
        server.command("cost", "export", "-o", str(target))
        reader = "read_csv" if name.endswith("csv") else "read_parquet"
        sums = duckdb.sql(
            f"SELECT sum(CAST(cost_usd AS DECIMAL(38, 9))), count(*) FROM {reader}('{target}')"
        ).fetchall()
        assert sums == [(whole, CALLS + 1)]
    text = (tmp_path / "cost.csv").read_text()
    assert "=HYPERLINK" in text  # inside the JSON of the tags, which begins with a brace
    for row in csv.reader(io.StringIO(server_export(http, "tag.feature"))):
        assert not any(cell.startswith("=") for cell in row)
    wrong = server.command("cost", "export", "-o", str(tmp_path / "x.csv"), "--by", "nothing", check=False)
    assert wrong.returncode == 1
    assert "there is no dimension" in wrong.stderr
    assert [path.name for path in tmp_path.iterdir() if "x.csv" in path.name] == []  # nothing half is left


def server_export(http: httpx.Client, by: str) -> str:
    return http.get("/api/v1/cost/export", params={"by": by}).text


def test_what_is_not_served_can_be_exported_too(server: Server, tmp_path: Path) -> None:
    with Server(BUNDLE, OTHER_KEY=OTHER) as other:
        home = other.home
        body = {"model": "large", "messages": [{"role": "user", "content": "hello"}]}
        reply = httpx.post(f"{other.url}/v1/chat/completions", json=body, headers={"x-api-key": KEY}, trust_env=False)
        assert reply.status_code == 200
        cost = reply.headers["x-mainstay-cost-usd"]
        other.stop()
        target = tmp_path / "offline.csv"
        other.command("cost", "export", "-o", str(target))
        assert home.is_dir()
        with target.open(newline="") as file:
            assert [Decimal(row["cost_usd"]) for row in csv.DictReader(file)] == [Decimal(cost)]
