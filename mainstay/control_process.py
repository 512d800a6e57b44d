"""The control process: opens everything, puts the bundle in force, serves the control API, and ends in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shlex
import signal
import sys
from pathlib import Path

import uvloop

from mainstay.control import Control
from mainstay.core.clock import Clock
from mainstay.core.errors import BadConfig, MainstayError
from mainstay.edge.control_api import control_api
from mainstay.edge.unix import serve_app
from mainstay.registry.apply import Applied
from mainstay.settings import Settings, read

log = logging.getLogger("mainstay.control")

_PATIENCE = 15.0
"""Seconds that it waits for another that works on the home: a command, or a control process that is ending."""

_LOOK = 1.0
"""Seconds between two looks at the bundle file."""


class ControlProcess:
    """Runs one ``Control`` with its sockets, its bundle file and its signals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control = Control(settings, os.environ, Clock())
        self._hangup = asyncio.Event()
        self._ending = asyncio.Event()
        self._seen: tuple[int, int, int] | None = None

    async def run(self, alive: int, ready: int) -> int:
        """Serve until SIGTERM, or until the supervisor is gone. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        if alive >= 0:
            loop.add_reader(alive, self._ending.set)
        control, settings = self._control, self._settings
        try:
            await control.open(_PATIENCE)
            said = await self._first_bundle()
        except BadConfig as error:
            print("\n".join(error.problems), file=sys.stderr)
            return 1
        except MainstayError as error:
            print(f"mainstay: {error.message}", file=sys.stderr)
            return 1
        app = control_api(control)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(serve_app(app, settings.admin_socket, local=True))
            await stack.enter_async_context(serve_app(app, settings.control_socket, local=False))
            await control.link.start(settings.link_socket)
            await control.run()
            if ready >= 0:
                os.write(ready, b"ready\n" + said.encode())
                os.close(ready)
            watching = asyncio.create_task(self._watch())
            ends = [asyncio.create_task(event.wait()) for event in (self._ending, control.broken)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in (*ends, watching):
                task.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            if alive >= 0:
                loop.remove_reader(alive)
        await control.close()
        return 1 if control.broken.is_set() else 0

    async def _first_bundle(self) -> str:
        """Put the bundle in force at the start; without a usable one, what was in force before goes on."""
        path = self._settings.config
        if path is None:
            return self._next_step()
        try:
            applied = await self._apply(path)
            secrets = [f"the secret of key {name}, told this once: {secret}" for name, secret in applied.secrets]
            return "\n".join([*(f"warning: {warning}" for warning in applied.warnings), *secrets])
        except BadConfig as error:
            resolved = self._control.resolved
            if resolved is None or not (resolved.models or resolved.keys):
                raise
            self._failed(error)
            return "\n".join(["the bundle has mistakes; the last good one is in force:", *error.problems])

    def _next_step(self) -> str:
        """What somebody who begins does next; empty where everything is there."""
        resolved, home = self._control.resolved, shlex.quote(str(self._settings.home))
        if resolved is None or not resolved.models:
            return (
                "Nothing is configured yet. Write a mainstay.yaml (its reference: mainstay schema --reference), then run:\n"
                f"  mainstay apply mainstay.yaml --home {home}"
            )
        if not resolved.keys:
            return f"There is no key yet. Make one:\n  mainstay keys create --team TEAM --name NAME --home {home}"
        return ""

    async def _apply(self, path: Path) -> Applied:
        self._seen = _stamp(path)
        control = self._control
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise BadConfig([f"{path}:1: cannot be read: {error.strerror}; check the path"]) from None
        source = str(path.resolve())
        checked = await control.check(content, str(path), source, os.environ)
        applied = await control.apply(checked, source, by=f"file {path.name}", why="the bundle's file")
        control.config_error = None
        return applied

    def _failed(self, error: MainstayError) -> None:
        self._control.config_error = error.message
        log.error("the bundle has mistakes, the last good one stays in force:\n%s", error.message)

    async def _watch(self) -> None:
        """Put the bundle in force again when its file changes, or on SIGHUP."""
        path = self._settings.config
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hangup.wait(), _LOOK)
            hangup = self._hangup.is_set()
            self._hangup.clear()
            if path is None:
                continue
            stamp = _stamp(path)
            if not hangup and stamp == self._seen:
                continue
            try:
                _tell(path, await self._apply(path))
            except MainstayError as error:
                self._failed(error)
            except Exception as error:  # the watch goes on; a message could hold a secret
                log.error("the bundle cannot be put in force: %s", type(error).__name__)


def _tell(path: Path, applied: Applied) -> None:
    """Say what a bundle that was read again has changed; no secret, since this may be kept as a log."""
    said = [f"warning: {warning}" for warning in applied.warnings]
    for name, _ in applied.secrets:
        team, _, key = name.partition("/")
        said.append(f"key {name} got a secret; to have one told: mainstay keys rotate --team {team} --name {key}")
    changed = applied.printed() if applied.changed else ["nothing has changed"]
    print("\n  ".join([f"mainstay: {path.name} was read again", *changed, *said]), file=sys.stderr, flush=True)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def main(arguments: list[str]) -> int:
    """The entry point of ``python -m mainstay control``, which only the supervisor calls."""
    parser = argparse.ArgumentParser(prog="mainstay control")
    parser.add_argument("--home", required=True)
    parser.add_argument("--alive", type=int, default=-1)
    parser.add_argument("--ready", type=int, default=-1)
    given = parser.parse_args(arguments)
    os.umask(0o077)
    logging.basicConfig(
        level=os.environ.get("MAINSTAY_LOG", "WARNING"),
        format="%(asctime)s control %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    settings = read(os.environ, home=given.home)

    async def serve() -> int:
        return await ControlProcess(settings).run(given.alive, given.ready)

    return uvloop.run(serve())
