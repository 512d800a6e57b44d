"""The tables of shares: what is granted and spent adds up, and transactions hold."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mainstay.store.database import Database
from mainstay.store.shares import ShareRow, SqlShares

A, B = "rule-a||2026-11", "rule-b|x|"
store = SqlShares()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database]:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
    yield database
    await database.close()


async def test_grants_and_charges_add_up(database: Database) -> None:
    async with database.write() as connection:
        await store.load(connection, [A, B], 1.0)
        await store.grant(connection, {(A, "g1"): 100, (A, "g2"): 50, (B, "g1"): 7}, 1.0)
        await store.grant(connection, {(A, "g1"): -40}, 2.0)
        await store.spend(connection, "g1", {A: 30}, 3.0)
        await store.spend(connection, "g1", {A: 40, "new||": 5, B: 0}, 4.0)
    async with database.read() as connection:
        found = await store.all(connection, "", 5.0)
        assert found[A].shares == {"g1": ShareRow(60, 70), "g2": ShareRow(50, 0)}
        assert (found[A].taken, found[A].spent, found[A].at) == (120, 70, 4.0)
        assert found["new||"].taken == 5  # spent without a grant counts all the same
        assert list(await store.all(connection, "rule-b|", 5.0)) == [B]
        assert await store.gateways(connection) == ["g1", "g2"]


async def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012 - it is raised in the transaction
        async with database.write() as connection:
            await store.load(connection, [A], 1.0)
            await store.grant(connection, {(A, "g1"): 100}, 1.0)
            raise RuntimeError
    async with database.read() as connection:
        assert await store.all(connection, "", 1.0) == {}


async def test_a_recovered_gateways_money_is_kept_and_its_rates_free_later(database: Database) -> None:
    async with database.write() as connection:
        await store.load(connection, [A, B, "c||"], 1.0)
        await store.grant(connection, {(A, "g1"): 100, (B, "g1"): 7, ("c||", "g1"): 3, (A, "g2"): 1}, 1.0)
        await store.spend(connection, "g1", {A: 30}, 1.0)
        await store.recover(connection, "g1", {A: 30}, {B: 61.0})
    async with database.write() as connection:
        before = await store.load(connection, [A, B, "c||"], 60.9)
        assert (before[A].recovered, before[A].taken) == (30, 31)
        assert before[B].taken == 7
        assert before["c||"].taken == 0
        assert (await store.load(connection, [B], 61.0))[B].taken == 0
        assert await store.of_gateway(connection, "g1") == {}
        assert await store.gateways(connection) == ["g2"]
        await store.drop(connection, [A], 61.0)
        assert list(await store.all(connection, "", 0.0)) == ["c||", B]
        assert (await store.load(connection, [B], 0.0))[B].shares == {}


async def test_many_pools_at_once(database: Database) -> None:
    names = [f"budget:u|user-{number}|" for number in range(2_000)]
    async with database.write() as connection:
        assert len(await store.load(connection, names, 1.0)) == 2_000
        await store.grant(connection, {(name, "g1"): 1 << 61 for name in names}, 1.0)
        assert (await store.load(connection, names, 1.0))[names[-1]].taken == 1 << 61
        await store.drop(connection, names, 1.0)
        assert await store.all(connection, "budget:u|", 1.0) == {}


async def test_a_prefix_is_taken_as_it_is(database: Database) -> None:
    async with database.write() as connection:
        await store.load(connection, ["a_b||", "axb||", "a%||"], 1.0)
        assert list(await store.all(connection, "a_b|", 1.0)) == ["a_b||"]
        assert list(await store.all(connection, "a%", 1.0)) == ["a%||"]
