"""The rows of verdicts, on every database."""

from __future__ import annotations

import random
from dataclasses import replace

from mainstay.core.verdict import Asked, Verdict, latest
from mainstay.store.database import Database
from mainstay.store.verdicts import SqlVerdicts

STORE = SqlVerdicts()


def verdict(ident: str, **more: object) -> Verdict:
    made = Verdict("red", ident, "red", "call", "call_1", "thumbs", "user", 1.0, None, "", 10, 20, "key red/web")
    return replace(made, **more)  # type: ignore[arg-type]


async def test_rows_come_back_as_they_were(database: Database) -> None:
    one = verdict("v1", number=0.1 + 0.2, why="warum", at=2**52, edit="20778/ab")
    two = verdict("v1", origin="blue", number=None, word="kind", matched=True)
    async with database.write() as connection:
        await STORE.add(connection, [one, two])
    async with database.read() as connection:
        assert await STORE.known(connection, "red", ["v1", "v2"]) == {"v1": one}
        assert await STORE.every(connection, ("", ""), 10) == [one]  # the later of its group
        assert await STORE.page(connection, Asked(history=True)) == [(one, True), (two, False)]
        assert await STORE.page(connection, Asked(history=True, after=one.order)) == [(two, False)]


async def test_what_counts_does_not_depend_on_the_order_of_arrival(database: Database) -> None:
    chance = random.Random(7)
    for turn in range(6):
        rows = [
            verdict(
                f"v{turn}-{i}", subject=f"call_{turn}", by=chance.choice(["user", "product"]), at=chance.randrange(4)
            )
            for i in range(8)
        ]
        chance.shuffle(rows)
        async with database.write() as connection:
            for row in rows:  # one by one, as they might arrive
                await STORE.add(connection, [row])
            found = await STORE.current(connection, [f"call_{turn}"])
        assert sorted(one.id for one in found) == sorted(one.id for one in latest(rows))


async def test_what_waits_is_marked_when_its_call_comes(database: Database) -> None:
    rows = [verdict("a", team=""), verdict("b", team="", number=0.0, at=11), verdict("c", about="session")]
    async with database.write() as connection:
        await STORE.add(connection, rows)
        waiting = await STORE.unmatched(connection)
        assert waiting == {("", "call", "call_1"): 2, ("red", "session", "call_1"): 1}
        await STORE.match(connection, [("", "call", "call_1", "blue")])
        assert await STORE.unmatched(connection) == {("red", "session", "call_1"): 1}
        found = await STORE.page(connection, Asked(team="blue", history=True))
    assert [(one.id, one.team, one.matched, counts) for one, counts in found] == [
        ("b", "blue", True, True),
        ("a", "blue", True, False),
    ]


async def test_old_ones_are_swept(database: Database) -> None:
    rows = [verdict(f"v{i}", at=i, subject=f"call_{i}") for i in range(5)]
    async with database.write() as connection:
        await STORE.add(connection, rows)
        assert [one.id for one in await STORE.sweep(connection, 3, 2)] == ["v0", "v1"]
        assert [one.id for one in await STORE.sweep(connection, 3, 2)] == ["v2"]
        assert sorted(await STORE.known(connection, "red", [row.id for row in rows])) == ["v3", "v4"]
