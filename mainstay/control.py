"""The composition root of the control side: wires registry, access and ledger to the control database and each other."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.access.authenticate import KeyRing
from mainstay.access.keys import Keys, opens
from mainstay.access.rules import Rule, key_owner, named_rule, owner_rules, team_owner
from mainstay.access.secrets import Vault, master_key
from mainstay.access.shares import Shares
from mainstay.core.clock import Clock
from mainstay.core.durable import replace
from mainstay.core.errors import Conflict, MainstayError, Unavailable
from mainstay.core.ids import Ids
from mainstay.edge.link import LinkServer
from mainstay.edge.permissions import Caller
from mainstay.gateway import cache_files
from mainstay.judging import Judging
from mainstay.ledger.content import ContentStore
from mainstay.ledger.counters import Counters
from mainstay.ledger.engine import Engine
from mainstay.ledger.ingest import Ingest
from mainstay.ledger.query import Ledger
from mainstay.ledger.responses import Responses
from mainstay.ledger.upkeep import Upkeep
from mainstay.registry import kinds, prices
from mainstay.registry.apply import Applied, Applier
from mainstay.registry.artifacts import KINDS, Artifacts
from mainstay.registry.bundle import Checked, check
from mainstay.registry.channels import Channels
from mainstay.registry.pricebook import PriceBook
from mainstay.registry.prices import Prices
from mainstay.registry.snapshot import Resolved, ResolvedKey, ResolvedTeam, encode, resolve
from mainstay.settings import Settings
from mainstay.store import behaviour
from mainstay.store.blobs import FolderBlobs
from mainstay.store.database import Database
from mainstay.store.keys import KeyRow, SqlKeys
from mainstay.store.manifest import SqlManifest
from mainstay.store.responses import SqlResponses
from mainstay.store.shares import SqlShares
from mainstay.tracing import Tracing
from mainstay.upstream.providers import PROVIDERS
from mainstay.wire.link import Snapshot

log = logging.getLogger("mainstay.control")

_BODIES: Mapping[str, type[kinds.Body]] = {**KINDS, prices.KIND: PriceBook}
"""Every kind of artifact there is."""

ROWS: Mapping[str, tuple[str, ...]] = {kind: row.needs for kind, row in PROVIDERS.items()}
"""The kinds of provider, each with the fields that it must be given."""

_MINUTE, _HOUR = 60.0, 3600.0
_RESPONSES_KEPT = 30 * 86400.0
"""Seconds after the last turn of a thread of stored responses, as at OpenAI."""


class Control:
    """Everything that the control process owns. ``open`` it, ``run`` it, ``close`` it."""

    def __init__(self, settings: Settings, environment: Mapping[str, str], clock: Clock) -> None:
        self.settings, self.clock = settings, clock
        self.ids = Ids(clock)
        self.vault = Vault(master_key(settings.home, environment))
        self.counters = Counters()
        self.resolved: Resolved | None = None
        self.document = b""
        self.rules: dict[str, Rule] = {}
        self.started = clock.now()
        self.config_error: str | None = None
        self.broken = asyncio.Event()
        """Something that must go on has ended: the process is of no use any more, and should be started again."""
        self._lock = -1
        self._publishing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._book: Prices | None = None
        self._ring: tuple[Resolved | None, KeyRing[Caller]] | None = None

    async def open(self, patience: float = 0.0) -> None:
        """Take the home's lock, open the database and the ledger.

        Raises ``Conflict`` where another control still has the lock after ``patience`` seconds (a command that works on
        the home itself has it for a moment), ``Unavailable`` where the database cannot be reached.
        """
        settings, clock = self.settings, self.clock
        self._lock = await _locked(settings.run / "control.lock", patience)
        try:
            await self._open(settings, clock)
        except BaseException:
            if hasattr(self, "database"):
                await self.database.close()
            os.close(self._lock)
            raise

    async def _open(self, settings: Settings, clock: Clock) -> None:
        self.database = await _database(settings.database_url)
        store = behaviour.Artifacts()
        self.changes = behaviour.Changes(clock)
        self.artifacts = Artifacts(store, _BODIES, clock)
        self.channels = Channels(behaviour.Channels(), store, self.changes)
        self.keys = Keys(SqlKeys(), self.changes, self.vault.pepper(), clock, self.ids)
        self.applier = Applier(
            self.database, self.artifacts, self.channels, behaviour.Bundles(), self.keys, self.vault, clock
        )
        self.shares = Shares(self.database, SqlShares(), self.rules.get, clock)
        manifest = SqlManifest()
        engine = Engine(settings.home / "ledger")
        self.ledger = Ledger(settings.home / "ledger", self.database, manifest, self.ids, engine)
        await self.ledger.open()
        blobs = FolderBlobs(settings.home / "blobs")
        self.content = ContentStore(blobs)
        self.judging = Judging(self, blobs)
        self.responses = Responses(settings.responses, self.database, SqlResponses(), blobs, settings.max_body)
        self.ingest = Ingest(
            settings.journal,
            self.database,
            manifest,
            self.ledger,
            self.counters,
            settle=self.shares.settle,
            recovered=self.shares.recovered,
            content=self.content,
            saw=self.judging.saw,
            clock=clock,
        )
        self.upkeep = Upkeep(
            self.ledger,
            self.ingest,
            self.database,
            manifest,
            owner=self.ids.make("control_"),
            content=self.content,
            clock=clock,
        )
        self.tracing = Tracing(self)
        self.link = LinkServer(self.shares, self.in_force, clock)
        await self.judging.open()
        await self.refresh()
        await self.ingest.start()
        await self._without_journal()

    async def _without_journal(self) -> None:
        """Free the shares of gateways that died and left no journal: what they spent has been settled long ago."""
        for gateway in await self.shares.gateways():
            if not (self.settings.journal / gateway).is_dir():
                async with self.database.write() as connection:
                    await self.shares.recovered(connection, gateway)

    def in_force(self) -> Snapshot | None:
        """The Snapshot for a gateway that connects."""
        return None if self.resolved is None else Snapshot(self.resolved.digest, self.document)

    async def run(self) -> None:
        """Start what goes on by itself: ingest, upkeep, what is told to a collector."""
        self.tracing.run()
        ingesting = asyncio.create_task(self.ingest.run(), name="ingest")
        ingesting.add_done_callback(self._ingest_ended)
        self._tasks.append(ingesting)
        self._tasks.append(asyncio.create_task(self.responses.run(), name="responses"))
        self._tasks.append(asyncio.create_task(self._upkeep(), name="upkeep"))
        self._tasks.append(asyncio.create_task(self.judging.run(), name="verdicts"))
        self._tasks.append(asyncio.create_task(self._sweep_cache(), name="cache"))

    def _ingest_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the journals are taken in by somebody else, or cannot be: %s", error)
            self.broken.set()

    async def close(self) -> None:
        """End in order: the link, then ingest with all that is in the journals, then the stores."""
        await self.link.close()
        await self.tracing.close()
        self.ingest.stop()
        self.responses.stop()
        for task in self._tasks[2:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.shares.close()
        await self.ledger.close()
        await self.database.close()
        os.close(self._lock)

    # behaviour

    async def prices(self) -> Prices:
        """The price book in force; the packaged one until another was put."""
        if self._book is None:
            book: PriceBook | None = None
            async with self.database.read() as connection:
                for artifact in await self.channels.in_force(connection):
                    if artifact.kind == prices.KIND:
                        book = msgspec.convert(artifact.body, PriceBook)
            if book is None:
                book = await asyncio.to_thread(prices.packaged, self.settings.home / "prices")
            ids = {kind: row.price_id for kind, row in PROVIDERS.items() if row.price_id is not None}
            self._book = Prices(book, ids, self.clock)
        return self._book

    async def check(self, text: str | bytes, filename: str, source: str, environment: Mapping[str, str]) -> Checked:
        """Check a bundle against all that other sources have put in."""
        return check(text, filename, environment, await self.applier.existing(source), ROWS)

    async def apply(self, checked: Checked, source: str, by: str, why: str, dry_run: bool = False) -> Applied:
        """Put a checked bundle in force; returns when every connected gateway has it, or after a second."""
        look = (await self.prices()).look
        applied = await self.applier.apply(checked, source, by=by, why=why, look=look, dry_run=dry_run)
        if not dry_run:
            applied.warnings += await self.publish()
        return applied

    async def put_prices(self, book: PriceBook, by: str, why: str) -> bool:
        """Put a price book in force."""
        async with self.database.write() as connection:
            changed = await prices.put(connection, self.artifacts, self.channels, book, by=by, why=why)
        self._book = None
        await self.publish()
        return changed

    async def refresh(self) -> bool:
        """Resolve the Snapshot anew; whether it differs from the last."""
        look = (await self.prices()).look
        async with self.database.read() as connection:
            artifacts = [one for one in await self.channels.in_force(connection) if one.kind in KINDS]
            teams = [_team(row.name, row.body) for row in await self.keys.list_teams(connection)]
            keys = [key for row in await self.keys.list(connection) for key in self._resolved(row)]
        self.judging.in_force(artifacts)
        resolved = resolve(artifacts, look, teams, keys, "")
        if self.resolved is not None and resolved.digest == self.resolved.digest:
            return False
        document = encode(resolved)
        rules = _rules(resolved)
        before = dict(self.rules)
        self.rules.clear()
        self.rules.update(rules)
        self.resolved, self.document = resolved, document
        await asyncio.to_thread(replace, self.settings.snapshot, document)
        changed = [ident for ident, rule in rules.items() if ident in before and before[ident].amount != rule.amount]
        if changed:
            await self.shares.changed(changed)
        return True

    async def publish(self) -> list[str]:
        """Put what the database says in force everywhere; warnings about gateways that have not loaded it in time."""
        async with self._publishing:
            if not await self.refresh():
                return []
            snapshot = self.in_force()
            assert snapshot is not None
            late = await self.link.broadcast(snapshot)
        if not late:
            return []
        return [f"gateway {', '.join(late)} has not loaded the change within a second; look at `mainstay doctor`"]

    def _resolved(self, row: KeyRow) -> list[ResolvedKey]:
        body = msgspec.convert({**row.body, "name": row.name, "team": row.team}, kinds.Key)
        return [
            ResolvedKey(
                id=one.id,
                name=row.name,
                team=row.team,
                hash=one.hash,
                models=body.models,
                limits=body.limits,
                budgets=_listed(body.budget),
                expires=one.until,
                admin=body.admin,
                content=body.content,
                priority=body.priority,
            )
            for one in opens(row, self.clock.now())
        ]

    async def put_team_if_absent(self, connection: AsyncConnection, team: str, by: str, why: str) -> None:
        """Make a team without limits, so that a first key can be made in one step."""
        if team not in await self.keys.teams(connection):
            await self.keys.put_team(connection, kinds.Team(name=team), by=by, why=why)

    def caller(self, secret: str) -> Caller | None:
        """Whose secret this is, for the control API."""
        if self._ring is None or self._ring[0] is not self.resolved:
            keys = self.resolved.keys if self.resolved is not None else []
            entries: dict[str, tuple[Caller, float | None]] = {}
            for key in keys:
                team = None if key.admin else key.team
                entries[key.hash] = (
                    Caller(f"key {key.team}/{key.name}", key.admin, team, key.id, key.team),
                    key.expires,
                )
            self._ring = (self.resolved, KeyRing(entries, self.vault.pepper()))
        return self._ring[1].find(secret, self.clock.now())

    # upkeep

    async def _upkeep(self) -> None:
        swept = 0.0
        while True:
            await asyncio.sleep(10.0)
            try:
                await self.upkeep.compact()
                now = self.clock.now()
                if now - swept > _HOUR:
                    swept = now
                    oldest = int((now - self.settings.retention_days * 86400) * 1e6)
                    await self.upkeep.sweep(oldest)
                    await self.judging.verdicts.sweep(oldest)
                    await self.shares.prune()
                    await self.responses.sweep(now - _RESPONSES_KEPT)
                await (
                    self.publish()
                )  # a rotated key's old secret ends, a price begins: time itself changes what is in force
            except MainstayError as error:
                log.warning("upkeep: %s", error.message)
            except OSError as error:
                log.warning("upkeep: %s", error)

    async def _sweep_cache(self) -> None:
        """Keep the exact cache's files within their bytes and their time: when gateways ask for it, and every minute."""
        folder, swept = self.settings.cache, float("-inf")
        limit = 0 if self.settings.cache_url else self.settings.cache_disk_bytes
        while True:
            if self.clock.monotonic() - swept >= _MINUTE or cache_files.wanted(folder):
                swept = self.clock.monotonic()
                try:
                    await asyncio.to_thread(cache_files.sweep, folder, limit, self.clock.now())
                except OSError as error:
                    log.warning("the cache's files cannot be swept: %s", error)
            await asyncio.sleep(1.0)


async def _locked(path: Path, patience: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Conflict(
                    f"another process works on this home already ({path} is locked); use another --home"
                ) from None
        await asyncio.sleep(0.02)


async def _database(url: str) -> Database:
    """The database. Its address may hold a password, so that no error's own words are shown."""
    try:
        return await Database.open(url)
    except ModuleNotFoundError as error:
        raise Unavailable(f"the module {error.name} is missing; run: pip install 'mainstay[postgres]'") from None
    except MainstayError:
        raise
    except Exception as error:
        what = type(getattr(error, "orig", None) or error).__name__
        raise Unavailable(
            f"the control database cannot be opened ({what}); check that it runs, and that MAINSTAY_DATABASE is right",
            code="database_unavailable",
        ) from error


def _listed(budget: kinds.Budget | list[kinds.Budget] | None) -> list[kinds.Budget]:
    return [] if budget is None else budget if isinstance(budget, list) else [budget]


def _team(name: str, body: Mapping[str, object]) -> ResolvedTeam:
    team = msgspec.convert({**body, "name": name}, kinds.Team)
    return ResolvedTeam(name=name, models=team.models, limits=team.limits, budgets=_listed(team.budget))


def _rules(resolved: Resolved) -> dict[str, Rule]:
    """Every rule of the Snapshot by its id: what a pool's capacity is."""
    rules = [
        *(
            rule
            for key in resolved.keys
            for rule in owner_rules(key_owner(key.team, key.name), key.limits, key.budgets)
        ),
        *(rule for team in resolved.teams for rule in owner_rules(team_owner(team.name), team.limits, team.budgets)),
        *(named_rule(one.body).rule for one in resolved.budgets),
    ]
    return {rule.id: rule for rule in rules}
