"""Puts a checked bundle: everything in one transaction, each part idempotent, and a list of what changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.artifact import Artifact, Put
from mainstay.core.clock import Clock
from mainstay.core.errors import BadConfig, Invalid, MainstayError
from mainstay.registry import kinds
from mainstay.registry.artifacts import Artifacts
from mainstay.registry.bundle import Checked
from mainstay.registry.channels import Channels
from mainstay.registry.crosscheck import Existing
from mainstay.registry.references import broken
from mainstay.registry.shape import SECRET
from mainstay.registry.snapshot import Looked, sealed
from mainstay.store.behaviour import Bundles, in_order
from mainstay.store.database import Database

State = Literal["added", "changed", "removed", "kept", "unchanged"]

_ORDER = ("provider", "model", "route", "budget", "verdict_type", "team", "key")
_DETAILS = 4
_SOURCE_LIMIT = 1000


class People(Protocol):
    """Teams and keys, which are state and no artifacts. Everything happens in the transaction that is handed in.

    Each change is recorded there with ``by`` and ``why``. Putting is idempotent: a team or key that is as declared stays.
    """

    async def teams(self, connection: AsyncConnection) -> set[str]:
        """The names of all teams."""
        ...

    async def put_team(self, connection: AsyncConnection, team: kinds.Team, *, by: str, why: str) -> Put:
        """Make the team be as declared."""
        ...

    async def put_key(self, connection: AsyncConnection, key: kinds.Key, *, by: str, why: str) -> Put:
        """Make the key be as declared. One without a secret keeps the one it has; a new one gets one made."""
        ...

    async def remove_team(self, connection: AsyncConnection, name: str, *, by: str, why: str) -> bool:
        """Remove the team; False, and nothing done, if it still has keys."""
        ...

    async def remove_key(self, connection: AsyncConnection, team: str, name: str, *, by: str, why: str) -> bool:
        """Revoke and remove the key; False if there is none."""
        ...


class Sealer(Protocol):
    """Encrypts what must not be readable in the database or a Snapshot; ``access.secrets.Vault`` is one."""

    def seal(self, text: str, /) -> str:
        """``text``, unreadable."""
        ...

    def unseal(self, sealed: str, /) -> str:
        """What was sealed. Raises ``MainstayError`` or ``ValueError`` if it cannot be opened."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one entry."""

    state: State
    kind: str
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f": {'; '.join(self.details)}" if self.details else ""
        return f"{self.state:<9} {self.kind} {self.name}{more}"


@dataclass(slots=True)
class Applied:
    """What an ``apply`` did. ``secrets`` has ``(team/name, secret)`` of each key for which a secret was made."""

    lines: list[Line] = field(default_factory=list[Line])
    warnings: list[str] = field(default_factory=list[str])
    secrets: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def changed(self) -> bool:
        """Whether anything is different now."""
        return any(line.state in ("added", "changed", "removed") for line in self.lines)

    def printed(self) -> list[str]:
        """A line for each thing that changed or was kept, and one that counts what did not."""
        shown = [str(line) for line in self.lines if line.state != "unchanged"]
        same = sum(line.state == "unchanged" for line in self.lines)
        return [*shown, f"unchanged {same}"] if same or not shown else shown


class _DryRun(Exception):
    pass


class Applier:
    """Puts bundles into the control database."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        channels: Channels,
        bundles: Bundles,
        people: People,
        sealer: Sealer,
        clock: Clock,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._channels = channels
        self._bundles = bundles
        self._people = people
        self._sealer = sealer
        self._clock = clock

    async def existing(self, source: str) -> Existing:
        """What a bundle from ``source`` may refer to beside itself: all that others have put in."""
        async with self._database.read() as connection:
            holders = await self._bundles.holders(connection)
            mine = {entry for entry, sources in holders.items() if sources == {source}}
            others = [
                artifact
                for artifact in await self._channels.in_force(connection)
                if (artifact.kind, artifact.name) not in mine
            ]
            teams = {team for team in await self._people.teams(connection) if ("team", team) not in mine}
        return Existing(
            providers={one.name for one in others if one.kind == "provider"},
            models={one.name for one in others if one.kind == "model"},
            routes={one.name: one.body["to"] for one in others if one.kind == "route"},
            teams=teams,
        )

    async def apply(
        self,
        checked: Checked,
        source: str,
        *,
        by: str,
        why: str,
        look: Callable[[kinds.Provider, kinds.Model], Looked] | None = None,
        dry_run: bool = False,
    ) -> Applied:
        """Make what is in force be as the bundle from ``source`` says: all of it, or nothing.

        What an earlier bundle of the same source put in and this one no longer has is removed, unless another source has
        it too. ``look`` adds a warning for each model without a price; ``dry_run`` changes nothing and tells what
        would change. Raises ``BadConfig``.
        """
        bundle = checked.ok()
        if len(source) > _SOURCE_LIMIT:
            raise Invalid(f"the bundle's path is longer than {_SOURCE_LIMIT} characters; move it nearer")
        applied = Applied(warnings=list(checked.warnings))
        try:
            async with self._database.write() as connection:
                await in_order(connection)
                run = _Run(self, connection, applied, by, why)
                await run.put(bundle)
                await run.remove(source, bundle)
                await self._check(connection, checked.filename)
                await self._bundles.replace(connection, source, _entries(bundle), self._clock.now())
                if look is not None:
                    applied.warnings += _unpriced(checked.filename, bundle, look)
                if dry_run:
                    raise _DryRun
        except _DryRun:
            pass
        return applied

    async def _check(self, connection: AsyncConnection, filename: str) -> None:
        problems = broken(await self._channels.in_force(connection))
        if problems:
            raise BadConfig(
                [
                    f"{filename}:1: {sentence}; change whatever put it in first, or keep that here"
                    for sentence in problems
                ]
            )

    async def put_artifact(
        self, connection: AsyncConnection, kind: str, body: Any, current: Artifact | None, by: str, why: str
    ) -> Line:
        """Put one body and point its channel at it."""
        if isinstance(body, kinds.Provider):
            body = self._sealed(body, current)
        artifact = await self._artifacts.put(
            connection, kind, body.name, body, by=by, why=why, parents=(current.digest,) if current else ()
        )
        if await self._channels.move(connection, kind, body.name, artifact.digest, by=by, why=why) is None:
            return Line("unchanged", kind, body.name)
        if current is None:
            return Line("added", kind, body.name)
        return Line("changed", kind, body.name, tuple(differences(current.body, artifact.body)))

    async def remove_entry(self, connection: AsyncConnection, kind: str, name: str, by: str, why: str) -> Line | None:
        """Remove what an earlier bundle put in; None if it is gone already."""
        if kind == "key":
            team, _, key = name.partition(">")
            done = await self._people.remove_key(connection, team, key, by=by, why=why)
            return Line("removed", kind, f"{team}/{key}") if done else None
        if kind == "team":
            if name not in await self._people.teams(connection):
                return None
            if await self._people.remove_team(connection, name, by=by, why=why):
                return Line("removed", kind, name)
            return Line("kept", kind, name, ("it still has keys that this file did not put in",))
        moved = await self._channels.move(connection, kind, name, None, by=by, why=why)
        return None if moved is None else Line("removed", kind, name)

    async def in_force(self, connection: AsyncConnection) -> dict[tuple[str, str], Artifact]:
        """All artifacts in force by kind and name."""
        return {(one.kind, one.name): one for one in await self._channels.in_force(connection)}

    @property
    def people(self) -> People:
        """Teams and keys."""
        return self._people

    @property
    def bundles(self) -> Bundles:
        """Which source put in what."""
        return self._bundles

    def _sealed(self, provider: kinds.Provider, current: Artifact | None) -> kinds.Provider:
        # Sealing the same secret twice gives different strings: what is sealed already is kept, so that nothing changes.
        known: dict[str, str] = {}

        def remember(old: str) -> str:
            try:
                known[self._sealer.unseal(old)] = old
            except (MainstayError, ValueError):  # sealed with a master key that is gone: seal it anew
                return old
            return old

        if current is not None:
            sealed(msgspec.convert(current.body, kinds.Provider), remember)
        return sealed(provider, lambda secret: known.get(secret) or self._sealer.seal(secret))


class _Run:
    """One ``apply`` in its transaction."""

    def __init__(self, applier: Applier, connection: AsyncConnection, applied: Applied, by: str, why: str) -> None:
        self._applier = applier
        self._connection = connection
        self._applied = applied
        self._by = by
        self._why = why

    async def put(self, bundle: kinds.Bundle) -> None:
        current = await self._applier.in_force(self._connection)
        lines, by, why = self._applied.lines, self._by, self._why
        for kind, body in _bodies(bundle):
            there = current.get((kind, body.name))
            lines.append(await self._applier.put_artifact(self._connection, kind, body, there, by, why))
        people = self._applier.people
        for team in bundle.teams:
            put = await people.put_team(self._connection, team, by=by, why=why)
            lines.append(Line(put.state, "team", team.name, put.details))
        for key in bundle.keys:
            put = await people.put_key(self._connection, key, by=by, why=why)
            name = f"{key.team}/{key.name}"
            lines.append(Line(put.state, "key", name, put.details))
            if put.secret is not None:
                self._applied.secrets.append((name, put.secret))

    async def remove(self, source: str, bundle: kinds.Bundle) -> None:
        holders = await self._applier.bundles.holders(self._connection)
        wanted = set(_entries(bundle))
        gone = [entry for entry, sources in holders.items() if sources == {source} and entry not in wanted]
        # keys before their teams, routes before their models, models before their providers
        gone.sort(key=lambda entry: (-_ORDER.index(entry[0]), entry[1]))
        for kind, name in gone:
            line = await self._applier.remove_entry(self._connection, kind, name, self._by, self._why)
            if line is not None:
                self._applied.lines.append(line)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs, as ``price.input 0.15 → 0.2``; of what may be secret only that it does."""
    old, new = dict(_flat(before)), dict(_flat(after))
    found: list[str] = []
    for path in sorted(old.keys() | new.keys()):
        if old.get(path, ...) == new.get(path, ...):
            continue
        if path.partition(".")[0] in SECRET:
            found.append(
                f"{path} changed" if path in old and path in new else f"{path} {'set' if path in new else 'removed'}"
            )
        else:
            found.append(f"{path} {_short(old, path)} → {_short(new, path)}")
    if len(found) > _DETAILS:
        found[_DETAILS - 1 :] = [f"{len(found) - _DETAILS + 1} more"]
    return found


def _flat(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in body.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(cast(Mapping[str, Any], value), f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _short(values: Mapping[str, Any], path: str) -> str:
    if path not in values:
        return "(default)"
    value = values[path]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _bodies(bundle: kinds.Bundle) -> Iterable[tuple[str, Any]]:
    for kind, bodies in (
        ("provider", bundle.providers),
        ("model", bundle.models),
        ("route", bundle.routes),
        ("budget", bundle.budgets),
        ("verdict_type", bundle.verdicts),
    ):
        for body in bodies:
            yield kind, body


def _entries(bundle: kinds.Bundle) -> list[tuple[str, str]]:
    artifacts = [(kind, body.name) for kind, body in _bodies(bundle)]
    teams = [("team", team.name) for team in bundle.teams]
    return [*artifacts, *teams, *(("key", f"{key.team}>{key.name}") for key in bundle.keys)]


def _unpriced(filename: str, bundle: kinds.Bundle, look: Callable[[kinds.Provider, kinds.Model], Looked]) -> list[str]:
    providers = {provider.name: provider for provider in bundle.providers}
    found: list[str] = []
    for model in bundle.models:
        provider = providers.get(model.target.partition("/")[0])
        looked = Looked() if provider is None else look(provider, model)
        if provider is not None and looked.price is None and model.max_call_usd is None:
            found.append(
                f'{filename}: model "{model.name}" has no price ({looked.note}); under a budget its calls are refused'
            )
    return found
