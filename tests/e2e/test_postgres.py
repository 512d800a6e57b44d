"""The same program on PostgreSQL: applied, served, raced for a budget, and its control process killed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import httpx
import pytest

from tests.running import KEY, Server, eventually

ADDRESS = "postgres@127.0.0.1:5432"

BUNDLE = """\
providers: [{name: sim, kind: sim, sim: {latency: 5ms, tokens_per_second: 100000, tokens: 10}}]
models: [{name: chat, target: sim/m, price: {input: 0, output: 0, request: 0.01}}]
teams: [{name: tests}]
keys:
  - {name: tests, team: tests, secret: "${TEST_KEY}", admin: true}
  - {name: poor, team: tests, secret: "ms-test-secret-of-the-poor", budget: {usd: 0.2, per: total}}
"""


async def _admin(statement: str) -> None:
    connection = await asyncpg.connect(f"postgresql://{ADDRESS}/postgres", timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a database of its own, dropped afterwards."""
    name = f"mainstay_test_{secrets.token_hex(6)}"
    try:
        asyncio.run(_admin(f"CREATE DATABASE {name}"))
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        pytest.skip(f"no PostgreSQL at {ADDRESS}: {type(error).__name__}")
    yield f"postgresql+asyncpg://{ADDRESS}/{name}"
    asyncio.run(_admin(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[Server]:
    with Server(BUNDLE, workers=2, MAINSTAY_DATABASE=database) as running:
        yield running


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client(limits=httpx.Limits(max_connections=32)) as client:
        yield client


async def ask(http: httpx.AsyncClient, key: str = KEY) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
    return await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})


async def test_a_budget_is_not_overspent_by_a_race(server: Server, http: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(*(ask(http, "ms-test-secret-of-the-poor") for _ in range(60)))
    passed = [one for one in replies if one.status_code == 200]
    refused = [one for one in replies if one.status_code == 429]
    assert len(passed) + len(refused) == 60, {one.status_code for one in replies}
    assert 0 < len(passed) <= 20
    assert all("retry-after" in one.headers for one in refused)
    calls = await server.until_calls(60, "key=poor")
    assert {one["id"] for one in calls} == {one.headers["x-mainstay-call"] for one in replies}

    def budget() -> dict[str, str]:
        found = httpx.get(f"{server.url}/api/v1/budgets?exact=true", headers={"x-api-key": KEY}, trust_env=False)
        return next(one for one in found.json()["data"] if "poor" in one["rule"])

    seen = await eventually(budget, lambda one: float(one["held_usd"]) == 0 and float(one["spent_usd"]) > 0)
    assert float(seen["spent_usd"]) == pytest.approx(len(passed) * 0.01)


async def test_keys_live_and_die_as_on_sqlite(server: Server, http: httpx.AsyncClient) -> None:
    secret = server.command("keys", "create", "--team", "tests", "--name", "made").stdout.strip()
    assert (await ask(http, secret)).status_code == 200
    assert "made" in server.command("keys", "list").stdout
    server.command("keys", "revoke", "--team", "tests", "--name", "made")
    assert {(await ask(http, secret)).status_code for _ in range(8)} == {401}
    assert (await http.get("/api/v1/changes/verify")).json() == {"intact": True}
    assert server.command("apply", str(server.config)).stdout == "unchanged 5\n"
    assert not (server.home / "mainstay.db").exists()


async def test_control_is_killed_and_comes_back(server: Server, http: httpx.AsyncClient) -> None:
    before = {one["id"] for one in server.calls()}
    (control,) = server.children("control")
    control.kill()
    asked = {(await ask(http)).headers["x-mainstay-call"] for _ in range(10)}
    calls = await server.until_calls(len(before) + 10, seconds=30)
    assert {one["id"] for one in calls} == before | asked
    await eventually(
        lambda: server.command("doctor", check=False).stdout, lambda out: out.count("is connected") == 2, 30
    )


async def test_a_restart_finds_everything_there(server: Server) -> None:
    calls = {one["id"] for one in server.calls()}
    assert server.stop() == 0
    assert {one["id"] for one in server.calls()} == calls  # the command line opens the database itself
    server.start()
    async with server.client() as http:
        assert (await ask(http, "ms-test-secret-of-the-poor")).status_code == 429  # what is spent is spent
        assert (await ask(http)).status_code == 200
