"""How the command line reaches control: over its local socket; where nothing runs, it opens the home itself."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlencode

from mainstay.core.errors import Conflict, MainstayError
from mainstay.serve import running
from mainstay.settings import Settings


class ApiError(MainstayError):
    """What the control API said; ``problems`` are the mistakes in a bundle, each ``file:line: sentence``."""

    def __init__(self, code: str, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message, code=code)
        self.problems = problems


Send = Callable[[str, str, bytes | None, BinaryIO | None], tuple[int, bytes]]
"""Puts method, target and JSON body to control; the status and body of its reply. The body of a good one goes into the
file, if one is given."""

_FILE_TIMEOUT = 600.0  # seconds until a file's first byte: all the calls of a year may be read for it


class Client:
    """Speaks the control API."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def request(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request; the JSON of its reply. Raises ``ApiError``."""
        return self._ask(method, path, None if body is None else json.dumps(body).encode(), None, query)

    def save(self, path: str, file: BinaryIO, **query: Any) -> None:
        """Write what is at ``path`` into ``file``. Raises ``ApiError``."""
        self._ask("GET", path, None, file, query)

    def _ask(self, method: str, path: str, body: bytes | None, into: BinaryIO | None, query: dict[str, Any]) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        target = path + (f"?{urlencode(given)}" if given else "")
        status, text = self._send(method, target, body, into)
        try:
            value = json.loads(text) if text else None
        except ValueError:
            value = None
        if status >= 400:
            said: dict[str, Any] = cast(dict[str, Any], value).get("error", {}) if isinstance(value, dict) else {}
            message = said.get("message") or f"the control process answered with status {status}"
            raise ApiError(said.get("code", "error"), message, said.get("problems"))
        return value


def over_socket(path: Path, timeout: float = 60.0) -> Send:
    """To the control process that listens at ``path``."""

    def send(method: str, target: str, body: bytes | None, into: BinaryIO | None) -> tuple[int, bytes]:
        connection = _Connection(path, timeout if into is None else _FILE_TIMEOUT)
        try:
            connection.request(method, target, body, {"content-type": "application/json"} if body else {})
            reply = connection.getresponse()
            if into is None or reply.status >= 400:
                return reply.status, reply.read()
            while data := reply.read(1 << 20):
                into.write(data)
            return reply.status, b""
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(
                "control_unavailable",
                f"the control process does not answer ({error or type(error).__name__}); try again in a moment",
            ) from None
        finally:
            connection.close()

    return send


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("control", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def connected(settings: Settings, patience: float = 30.0) -> Generator[Client]:
    """A client for the home: of the control process that runs there, or of one that lives as long as the context.

    ``patience`` is in seconds: control may be starting, or another command may work on the home. Raises ``ApiError``
    where the home is served and its control process does not answer by then.
    """
    settings.prepare()
    with contextlib.ExitStack() as stack:
        yield Client(_reach(settings, stack, patience))


def _reach(settings: Settings, stack: contextlib.ExitStack, patience: float) -> Send:
    """Wait until the socket answers; where nothing runs, open the home itself for as long as ``stack`` lives."""
    until = time.monotonic() + patience
    told_at = time.monotonic() + 1.0
    while not _answers(settings.admin_socket):
        late = time.monotonic() > until
        if not running(settings.run):
            try:
                return stack.enter_context(_own_control(settings))
            except Conflict:  # another command works on the home, or a control process is ending
                if late:
                    raise
        elif late:
            raise ApiError(
                "control_unavailable",
                f"the control process of {settings.home} is not running; model calls go on without it. Its supervisor "
                "writes the reason to its standard error, and starts it again; mainstay doctor says what is known",
            )
        if time.monotonic() > told_at:
            told_at = until
            sys.stderr.write("mainstay: waiting for the control process\n")
        time.sleep(0.05)
    return over_socket(settings.admin_socket)


def _answers(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        return False
    finally:
        probe.close()
    return True


@contextlib.contextmanager
def _own_control(settings: Settings) -> Generator[Send]:
    """Control in a thread of this process: the same program, without gateways and sockets."""
    os.umask(0o077)  # what is written into the home is nobody else's to read
    live = _Live(settings)
    thread = threading.Thread(target=live.run, name="control")
    thread.start()
    live.ready.wait()
    try:
        if live.failed is None:
            yield live.send
    finally:
        live.end()
        thread.join()
    if live.failed is not None:
        raise live.failed


class _Live:
    """A control that lives until ``end``; ``ready`` is set when it answers, or has ``failed``."""

    def __init__(self, settings: Settings) -> None:
        self.ready = threading.Event()
        self.failed: BaseException | None = None
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._app: Any = None

    def run(self) -> None:
        """The thread."""
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:
            self.failed = error
        finally:
            self._loop.close()
            self.ready.set()

    def end(self) -> None:
        """Let it end, after what it has begun."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._ending.set)

    def send(self, method: str, target: str, body: bytes | None, into: BinaryIO | None) -> tuple[int, bytes]:
        """Put a request to it."""
        status, text = asyncio.run_coroutine_threadsafe(self._asked(method, target, body), self._loop).result()
        if into is None or status >= 400:
            return status, text
        into.write(text)
        return status, b""

    async def _live(self) -> None:
        from mainstay.control import Control
        from mainstay.core.clock import Clock
        from mainstay.edge.control_api import control_api

        control = Control(self._settings, os.environ, Clock())
        await control.open()
        try:
            self._app = control_api(control)
            while await control.ingest.turn():
                pass
            self.ready.set()
            await self._ending.wait()
            await control.run()
        finally:
            await control.close()

    async def _asked(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "root_path": "",
            "query_string": query.encode("ascii"),
            "headers": [(b"host", b"control"), (b"content-type", b"application/json")],
            "mainstay.local": True,  # whoever can open the home is an administrator
        }
        status, found, asked = 500, list[bytes](), False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.Event().wait()  # who asks again waits for the caller to go away, which stays
            asked = True
            return {"type": "http.request", "body": body or b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                found.append(message.get("body", b""))

        with contextlib.suppress(Exception):  # it has been answered, and its place logged
            await self._app(scope, receive, send)
        return status, b"".join(found)
