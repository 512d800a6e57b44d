"""A control database with the registry on it, and people and a sealer that tests can look into."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.artifact import Put
from mainstay.core.clock import FixedClock
from mainstay.registry import kinds
from mainstay.registry.apply import Applied, Applier
from mainstay.registry.artifacts import KINDS, Artifacts
from mainstay.registry.bundle import check
from mainstay.registry.channels import Channels
from mainstay.store import behaviour
from mainstay.store.database import Database


@dataclass
class FakePeople:
    """Teams and keys in memory."""

    made: dict[str, kinds.Team] = field(default_factory=dict)
    keys: dict[tuple[str, str], kinds.Key] = field(default_factory=dict)

    async def teams(self, connection: AsyncConnection) -> set[str]:
        return set(self.made)

    async def put_team(self, connection: AsyncConnection, team: kinds.Team, *, by: str, why: str) -> Put:
        old = self.made.get(team.name)
        self.made[team.name] = team
        return Put("added" if old is None else "unchanged" if old == team else "changed")

    async def put_key(self, connection: AsyncConnection, key: kinds.Key, *, by: str, why: str) -> Put:
        old = self.keys.get((key.team, key.name))
        self.keys[key.team, key.name] = key
        secret = "made-secret" if old is None and key.secret is None else None
        return Put("added" if old is None else "unchanged" if old == key else "changed", (), secret)

    async def remove_team(self, connection: AsyncConnection, name: str, *, by: str, why: str) -> bool:
        if any(team == name for team, _ in self.keys):
            return False
        del self.made[name]
        return True

    async def remove_key(self, connection: AsyncConnection, team: str, name: str, *, by: str, why: str) -> bool:
        return self.keys.pop((team, name), None) is not None


@dataclass
class FakeSealer:
    """Gives a different string each time, as encryption does."""

    count: int = 0

    def seal(self, text: str, /) -> str:
        self.count += 1
        return f"sealed:{self.count}:{text[::-1]}"

    def unseal(self, sealed: str, /) -> str:
        if not sealed.startswith("sealed:"):
            raise ValueError(sealed)
        return sealed.split(":", 2)[2][::-1]


@dataclass
class Registry:
    """Everything that an ``apply`` works on."""

    database: Database
    clock: FixedClock
    artifacts: Artifacts
    channels: Channels
    changes: behaviour.Changes
    people: FakePeople
    sealer: FakeSealer
    applier: Applier

    async def apply(self, text: str, source: str = "a.yaml", dry_run: bool = False, **env: str) -> Applied:
        """Check and apply a bundle."""
        checked = check(text, source, env, await self.applier.existing(source))
        return await self.applier.apply(checked, source, by="ada", why="test", dry_run=dry_run)

    async def in_force(self) -> dict[str, object]:
        """What the channels point at, as ``kind/name``: body."""
        async with self.database.read() as connection:
            return {f"{one.kind}/{one.name}": one.body for one in await self.channels.in_force(connection)}

    async def history(self) -> list[str]:
        """What was changed, oldest first."""
        async with self.database.read() as connection:
            assert await self.changes.verify(connection) is None
            return [change.what for change in reversed(await self.changes.page(connection))]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    """A registry on an empty database."""
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path}/control.db")
    clock = FixedClock()
    stored, changes = behaviour.Artifacts(), behaviour.Changes(clock)
    artifacts = Artifacts(stored, KINDS, clock)
    channels = Channels(behaviour.Channels(), stored, changes)
    people, sealer = FakePeople(), FakeSealer()
    applier = Applier(database, artifacts, channels, behaviour.Bundles(), people, sealer, clock)
    yield Registry(database, clock, artifacts, channels, changes, people, sealer, applier)
    await database.close()
