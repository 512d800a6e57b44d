"""A house to attack: the packaged product with two teams, and an upstream that remembers what reached it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from tests.provider import Behaviour, Provider
from tests.running import Server

T = TypeVar("T")

ADMIN, RED, BLUE = "ms-test-secret-of-the-admin", "ms-test-secret-of-team-red", "ms-test-secret-of-team-blue"
UPSTREAM_KEY = "canary-upstream-key-7f3a9c51d2"


class Upstream:
    """A ``Provider`` in a thread of its own, so that plain tests can use it."""

    def __init__(self, default: Behaviour) -> None:
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._begun = threading.Event()
        self.provider = Provider(default)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def live() -> None:
            async with self.provider:
                self._begun.set()
                await self._ending.wait()

        self._loop.run_until_complete(live())
        self._loop.close()

    def __enter__(self) -> Upstream:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()


class House:
    """One running product and its upstream."""

    def __init__(self, server: Server, upstream: Upstream) -> None:
        self.server, self.upstream = server, upstream
        self.http = httpx.Client(base_url=server.url, timeout=30, trust_env=False)

    def ask(self, method: str, path: str, key: str | None = ADMIN, **more: Any) -> httpx.Response:
        """One request to the control API."""
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        return self.http.request(method, path, headers={**headers, **more.pop("headers", {})}, **more)

    def chat(
        self, key: str = RED, model: str = "chat", headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """One plain chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
        return self.http.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}", **(headers or {})}
        )

    def body(self, body: bytes | str, path: str = "/v1/chat/completions", key: str = RED) -> httpx.Response:
        """One model call with just this body."""
        content = body.encode() if isinstance(body, str) else body
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return self.http.post(path, content=content, headers=headers)

    def raw(self, request: bytes, timeout: float = 10.0) -> bytes:
        """All that comes back on a connection on which just these bytes were sent."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=timeout) as connection:
            connection.sendall(request)
            found = b""
            try:
                while data := connection.recv(65536):
                    found += data
            except (TimeoutError, ConnectionError):
                pass
            return found

    def get(self, target: str, *lines: str, key: str | None = ADMIN, method: str = "GET", host: str = "x") -> bytes:
        """A request with the target just as given, which no HTTP library would send; the whole reply."""
        head = [f"{method} {target} HTTP/1.1", f"host: {host}", "connection: close"]
        if key is not None:
            head.append(f"authorization: Bearer {key}")
        return self.raw("\r\n".join([*head, *lines, "", ""]).encode("latin-1"))


def status(reply: bytes) -> int:
    """The status of a raw reply."""
    assert reply.startswith(b"HTTP/1.1 "), reply[:200]
    return int(reply[9:12])


def until(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 10.0) -> T:
    """Look until it is good; what was seen last, if it never was, fails the test."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.02)


def the_bundle(upstream: str) -> dict[str, Any]:
    """Two teams that know nothing of each other, and an administrator."""
    return {
        "providers": [
            {
                "name": "up",
                "wire": "openai",
                "base_url": f"{upstream}/v1",
                "api_key": UPSTREAM_KEY,
                "headers": {"x-upstream-secret": f"{UPSTREAM_KEY}-header"},
            }
        ],
        "models": [
            {"name": "chat", "target": "up/m", "price": {"input": 1, "output": 2}},
            {"name": "dear", "target": "up/dear", "price": {"input": 100, "output": 200}},
        ],
        "teams": [{"name": "house"}, {"name": "red"}, {"name": "blue"}],
        "keys": [
            {"name": "admin", "team": "house", "secret": ADMIN, "admin": True},
            {"name": "web", "team": "red", "secret": RED, "models": ["chat"]},
            {"name": "web", "team": "blue", "secret": BLUE},
        ],
    }


def lines_of(text: str) -> list[Any]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]
