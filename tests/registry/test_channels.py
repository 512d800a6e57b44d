"""Moving channels, and putting what they point at."""

from __future__ import annotations

import pytest

from mainstay.core.errors import Invalid, NotFound
from mainstay.registry import kinds
from tests.registry.conftest import Registry

BY = {"by": "ada", "why": "because"}


async def test_a_move_is_recorded_with_who_and_why(registry: Registry) -> None:
    async with registry.database.write() as connection:
        one = await registry.artifacts.put(connection, "route", "r", {"name": "r", "to": "m"}, **BY)
        change = await registry.channels.move(connection, "route", "r", one.digest, **BY)
        assert await registry.channels.move(connection, "route", "r", one.digest, **BY) is None
        removed = await registry.channels.move(connection, "route", "r", None, by="eve", why="gone")
        assert await registry.channels.move(connection, "route", "r", None, by="eve", why="gone") is None
    assert change is not None
    assert (change.what, change.by, change.before) == ("channel:route/r@live", "ada", None)
    assert change.after == {"split": [[one.digest, 1]]}
    assert removed is not None
    assert (removed.by, removed.before, removed.after) == ("eve", change.after, None)


async def test_only_versions_that_were_put_can_be_pointed_at(registry: Registry) -> None:
    async with registry.database.write() as connection:
        one = await registry.artifacts.put(connection, "route", "r", {"name": "r", "to": "m"}, **BY)
        for split in ("0" * 32, ((one.digest, 1), ("0" * 32, 1))):
            with pytest.raises(NotFound):
                await registry.channels.move(connection, "route", "r", split, **BY)
        with pytest.raises(NotFound):
            await registry.channels.move(connection, "route", "r", one.digest, shadow="0" * 32, **BY)
        for weights in ((), ((one.digest, 0),), ((one.digest, -1),), ((one.digest, 1), (one.digest, 1))):
            with pytest.raises(Invalid):
                await registry.channels.move(connection, "route", "r", weights, **BY)


async def test_of_a_split_the_heaviest_is_in_force(registry: Registry) -> None:
    async with registry.database.write() as connection:
        one = await registry.artifacts.put(connection, "route", "r", {"name": "r", "to": "m"}, **BY)
        two = await registry.artifacts.put(connection, "route", "r", {"name": "r", "to": "n"}, **BY)
        await registry.channels.move(connection, "route", "r", ((one.digest, 5), (two.digest, 95)), **BY)
        [found] = await registry.channels.in_force(connection)
    assert found.digest == two.digest


async def test_bodies_are_checked_against_their_kind(registry: Registry) -> None:
    async with registry.database.write() as connection:
        for kind, name, body, says in (
            ("route", "r", {"name": "r"}, "missing required field `to`"),
            ("route", "r", {"name": "r", "to": "m", "retri": {}}, "unknown field `retri`"),
            ("route", "other", {"name": "r", "to": "m"}, "its name is 'r'"),
            ("recipe", "r", {}, "no kind of artifact 'recipe'"),
        ):
            with pytest.raises(Invalid, match=says):
                await registry.artifacts.put(connection, kind, name, body, **BY)
        with pytest.raises(NotFound):
            await registry.artifacts.get(connection, "route", "r", "0" * 32)


async def test_what_stands_at_its_default_has_no_part_in_the_digest(registry: Registry) -> None:
    async with registry.database.write() as connection:
        short = await registry.artifacts.put(connection, "route", "r", {"name": "r", "to": "m"}, **BY)
        long = kinds.Route(name="r", to="m", retry=kinds.Retry(attempts=2), rescue="auto")
        assert (await registry.artifacts.put(connection, "route", "r", long, **BY)).digest == short.digest
        assert (await registry.artifacts.get(connection, "route", "r", short.digest)).body == {"name": "r", "to": "m"}
