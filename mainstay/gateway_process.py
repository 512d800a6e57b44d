"""The composition root of a gateway process: wires the hot path by hand and runs it. Imports nothing heavier than it needs."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import signal
import socket
import ssl
import sys
from pathlib import Path

import uvloop

from mainstay.access.compactions import Compactions
from mainstay.access.purse import Purse
from mainstay.access.secrets import Vault, master_key
from mainstay.core.clock import Clock
from mainstay.core.errors import MainstayError
from mainstay.core.ids import Ids
from mainstay.edge.door import Door, takes_refused
from mainstay.edge.http import Exchange, HttpLimits, HttpServer
from mainstay.edge.model_api import ModelApi
from mainstay.edge.passing import ControlDoor
from mainstay.edge.responses_socket import ResponsesSockets
from mainstay.edge.socket_connection import SocketLimits
from mainstay.edge.status import status_of
from mainstay.edge.stored_responses import ResponsesApi, StoredResponses
from mainstay.gateway import pipeline
from mainstay.gateway.admit import Admit
from mainstay.gateway.attempt import Attempts
from mainstay.gateway.cache import Cache, Memory, Shared
from mainstay.gateway.cache_files import Files
from mainstay.gateway.content import KeepContent
from mainstay.gateway.count import CountTokens
from mainstay.gateway.history import History, WarmUp
from mainstay.gateway.identify import Identify
from mainstay.gateway.link import Link
from mainstay.gateway.pipeline import Pipeline
from mainstay.gateway.plan import Compiler, Plan
from mainstay.gateway.record import Record
from mainstay.gateway.resolve import Resolve
from mainstay.ledger.journal import Journal
from mainstay.ledger.response_spool import ResponseSpool
from mainstay.ledger.spool import ContentSpool
from mainstay.registry.snapshot import decode
from mainstay.settings import Settings, read
from mainstay.upstream.accounts import Accounts
from mainstay.upstream.http import Egress, Pool
from mainstay.wire.dialects import dialects

log = logging.getLogger("mainstay.gateway")

_PATIENCE = 2.0
"""Seconds that a gateway waits for control before it serves without."""


class Gateway:
    """One gateway process: the door, the pipeline behind it, and the link to control."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings, self.clock = settings, clock
        self.plan: Plan | None = None
        self.ids = Ids(clock)
        self.name = self.ids.make("gw_")
        chance = random.SystemRandom().random
        wires = dialects()
        plain = wires.plain
        vault = Vault(master_key(settings.home, os.environ))
        self.pool = Pool(clock, Egress(clock))
        self.purse = Purse(clock)
        accounts = Accounts(self.pool, wires.by_name, plain, clock)
        self.compiler = Compiler(accounts.answerer, vault.unseal, vault.pepper(), self.purse, clock)
        self.journal = Journal(settings.journal, self.name, on_full=settings.disk_full, clock=clock)
        self.spool = ContentSpool(self.journal.folder)
        self.responses = ResponseSpool(settings.responses, self.name)
        stored = StoredResponses(ControlDoor(settings.admin_socket))
        compactions = Compactions(vault.compaction_key())
        self.memory = Memory(settings.cache_bytes, clock)
        self.shared = _shared_cache(settings, self.name, vault, clock)
        self.link = self._link()
        self.pipeline = Pipeline(
            (
                Record(self.journal, clock, status_of),
                Identify(self._in_force, wires.by_name, plain, clock),
                History(stored.history, self.responses, compactions, self.ids, clock, settings.max_body),
                Resolve(random.random),
                Admit(self.purse, self.link.ask),
                WarmUp(),
                CountTokens(),
                KeepContent(self.spool, wires.by_name),
                Cache(self.memory, clock, self.shared),
                Attempts(self.journal, clock, chance),
            )
        )
        self.models = ModelApi(self.pipeline, wires.by_name, self.journal, self.ids, clock)
        self.sockets = ResponsesSockets(
            self.models, lambda: self.plan, clock, SocketLimits(message=settings.max_body), _on_error
        )
        self.door = Door(
            self.models,
            ResponsesApi(stored, lambda: self.plan, clock.now, "openai-responses"),
            self.sockets,
            ControlDoor(settings.control_socket),
            lambda: self.plan,
            clock.now,
        )
        self.server = HttpServer(
            self.door,
            HttpLimits(connections=settings.connections, body_bytes=settings.max_body),
            clock,
            takes_refused=takes_refused,
            on_error=_on_error,
            room=self.pool.room,
        )

    def _link(self) -> Link:
        return Link(
            self.settings.link_socket,
            self.name,
            self.purse,
            load=self.load,
            digest=lambda: self.plan.digest if self.plan is not None else None,
            stats=self.stats,
        )

    def _in_force(self) -> Plan:
        assert self.plan is not None
        return self.plan

    def load(self, digest: str, document: bytes) -> None:
        """Put a Snapshot in force. Raises, and leaves the last good one, for one that cannot be."""
        plan = self.compiler.compile(decode(document))
        self.plan = plan
        log.info("snapshot %s is in force", digest)

    def stats(self) -> tuple[dict[str, float], dict[str, str]]:
        """The gauges and breaker states of this moment."""
        health = self.compiler.health()
        gauges = {
            "connections": float(len(self.server.connections)),
            "in_flight": float(sum(one.in_flight for one in health.values())),
            "waiting": float(sum(one.gate.waiting for one in health.values())),
            "cache_bytes": float(self.memory.size),
            "cache_entries": float(len(self.memory)),
            "journal_written": float(self.journal.written),
            "journal_dropped": float(self.journal.dropped),
            "journal_full": float(self.journal.full),
            "compiled": float(not pipeline.__file__.endswith(".py")),
            "http_refused": float(self.server.refused),
            "responses_stored": float(self.responses.written),
            "responses_dropped": float(self.responses.dropped),
            "sockets": float(len(self.sockets.open)),
            "upstream_connections": float(self.pool.busy + self.pool.idle),
        }
        if self.shared is not None:
            gauges.update(self.shared.gauges())
        return gauges, {f"{provider}/{model}": one.breaker.state for (provider, model), one in health.items()}

    async def _linked(self) -> None:
        """Give control a moment, so that the first calls find their limits; without it, serve what is on disk."""
        try:
            await asyncio.wait_for(self.link.greeted.wait(), _PATIENCE)
        except TimeoutError:
            log.warning("control is not there; serving what is on disk, within the shares that will come")

    async def run(self, listening: socket.socket, alive: int, ready: int) -> None:
        """Serve until SIGTERM, or until the supervisor is gone; then finish what is in flight."""
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        if alive >= 0:
            loop.add_reader(alive, ending.set)
        try:
            self.load("on disk", self.settings.snapshot.read_bytes())
        except (OSError, MainstayError) as error:
            log.warning("no snapshot on disk can be used yet: %s", error)
        linking = loop.create_task(self.link.run())
        caching = loop.create_task(self.shared.run(self.memory.clear)) if self.shared is not None else None
        await self._linked()
        await self.server.listen(sock=listening, tls=_tls(self.settings))
        gc.collect()
        gc.freeze()  # what was made at the start stays: the collector need not look at it again
        if ready >= 0:
            os.write(ready, b"ready\n")
            os.close(ready)
        await ending.wait()
        if alive >= 0:
            loop.remove_reader(alive)
        self.sockets.drain()
        cut = await self.server.drain(self.settings.drain)
        if cut:
            log.warning("%d connections were cut off at the end of the drain", cut)
        linking.cancel()
        await asyncio.gather(linking, return_exceptions=True)
        await self.pool.close()
        self.journal.stop()
        if self.shared is not None and caching is not None:
            caching.cancel()
            await asyncio.gather(caching, return_exceptions=True)
            await self.shared.close()


def _shared_cache(settings: Settings, name: str, vault: Vault, clock: Clock) -> Shared | None:
    """Where the exact cache's entries are beside this process's memory; None where there is no such place."""
    if settings.cache_url and settings.cache_bytes:
        from mainstay.gateway.cache_valkey import Server  # most have none, and a gateway is to be small

        return Server(settings.cache_url, vault.cache_key(), clock)
    if not settings.cache_bytes or not settings.cache_disk_bytes:
        return None
    return Files(settings.cache, name, settings.cache_disk_bytes, clock, settings.workers)


def _on_error(exchange: Exchange, error: Exception) -> None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place is not None else "?"
    # Only where and what kind: a message could hold content.
    log.error("%s %s failed: %s at %s", exchange.method, exchange.path[:100], type(error).__name__, where)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def main(arguments: list[str]) -> int:
    """The entry point of ``python -m mainstay gateway``, which only the supervisor calls."""
    parser = argparse.ArgumentParser(prog="mainstay gateway")
    parser.add_argument("--home", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--alive", type=int, default=-1)
    parser.add_argument("--ready", type=int, default=-1)
    given = parser.parse_args(arguments)
    logging.basicConfig(
        level=os.environ.get("MAINSTAY_LOG", "WARNING"),
        format=f"%(asctime)s gateway[{given.number}] %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    settings = read(os.environ, home=given.home)
    gc.set_threshold(50_000, 20, 100)
    listening = socket.socket(fileno=given.fd)

    async def serve() -> None:
        await Gateway(settings, Clock()).run(listening, given.alive, given.ready)

    uvloop.run(serve())
    return 0
