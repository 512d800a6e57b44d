"""How the command line reaches control: over its local socket; where nothing runs, it opens the home itself."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

from mainstay.core.errors import MainstayError
from mainstay.settings import Settings


class ApiError(MainstayError):
    """What the control API said; ``problems`` are the mistakes in a bundle, each ``file:line: sentence``."""

    def __init__(self, code: str, message: str, problems: list[str] | None = None) -> None:
        super().__init__(message, code=code)
        self.problems = problems


class Client:
    """Speaks the control API over a Unix socket."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        self._path, self._timeout = path, timeout

    def request(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request; the JSON of its reply. Raises ``ApiError``."""
        given = {name: value for name, value in query.items() if value is not None}
        target = path + (f"?{urlencode(given)}" if given else "")
        connection = _Connection(self._path, self._timeout)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, target, content, {"content-type": "application/json"} if content else {})
            reply = connection.getresponse()
            text = reply.read()
        except OSError as error:
            raise ApiError("control_unavailable", f"the control process does not answer: {error}") from None
        finally:
            connection.close()
        value = json.loads(text) if text else None
        if reply.status >= 400:
            said: dict[str, Any] = cast(dict[str, Any], value).get("error", {}) if isinstance(value, dict) else {}
            raise ApiError(said.get("code", "error"), said.get("message", text.decode()), said.get("problems"))
        return value


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("control", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def connected(settings: Settings) -> Generator[Client]:
    """A client for the home: of the control process that runs there, or of one that lives as long as the context."""
    settings.prepare()
    if _answers(settings.admin_socket):
        yield Client(settings.admin_socket)
        return
    with _own_control(settings):
        yield Client(settings.admin_socket)


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
def _own_control(settings: Settings) -> Generator[None]:
    """Control in a thread of this process: the same program, without gateways."""
    from mainstay.control import Control
    from mainstay.core.clock import Clock
    from mainstay.edge.control_api import control_api
    from mainstay.edge.unix import serve_app

    loop = asyncio.new_event_loop()
    ready, ending = threading.Event(), asyncio.Event()
    failed: list[BaseException] = []

    async def live() -> None:
        try:
            control = Control(settings, os.environ, Clock())
            await control.open()
            async with serve_app(control_api(control), settings.admin_socket, local=True):
                while await control.ingest.turn():
                    pass
                ready.set()
                await ending.wait()
            await control.run()
            await control.close()
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()), name="control")
    thread.start()
    ready.wait()
    try:
        if failed:
            raise failed[0]
        yield
    finally:
        if not failed:
            loop.call_soon_threadsafe(ending.set)
        thread.join()
        loop.close()
