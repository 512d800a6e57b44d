"""Load of our own, in a process of its own: streams at once (closed loop), and calls at a given rate (open loop).

``python -m bench.load`` reads one JSON object (``Spec``) from its input and prints one: what was counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
import uvloop


class Spec(msgspec.Struct):
    """``streams`` at once, ``rounds`` of each, where ``rate`` is 0; else ``rate`` calls a second for ``seconds``.

    ``body`` may hold ``MARK``, which becomes a number of ten digits, a new one in each call.
    """

    port: int
    path: str
    headers: dict[str, str]
    body: str
    stream: bool
    streams: int = 0
    rounds: int = 1
    rate: float = 0.0
    seconds: float = 0.0
    first: int = 0
    patience: float = 60.0


MARK = "0000000000"
_MOST = 2000  # calls in flight in the open loop


class Caller(asyncio.Protocol):
    """One connection. ``ask`` sends a request; ``done`` is called with the number of events and the time of the first."""

    def __init__(self, done: Callable[[Caller, str], None]) -> None:
        self.asked = self.first = self.last = 0.0
        self.events = 0
        self.busy = False
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._need = 0  # bytes that are left of a plain body; -1: chunked
        self._tail = b""
        self._in_head = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._end("the connection was closed")

    def ask(self, request: bytes) -> None:
        """Send."""
        assert self._transport is not None
        self.asked, self.first, self.events = time.perf_counter(), 0.0, 0
        self.busy, self._in_head, self._head, self._tail = True, True, b"", b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[:end].lower(), self._head[end + 4 :]
            self._in_head = False
            if not head.startswith(b"http/1.1 200"):
                self._end(f"status {head[9:12].decode()}: {data[:300]!r}")
                return
            at = head.find(b"\r\ncontent-length:")
            self._need = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else -1
        if not data:
            return
        if not self.first:
            self.first = time.perf_counter()
        if self._need >= 0:
            self._need -= len(data)
            if self._need == 0:
                self._end("")
            return
        window = self._tail + data
        self.events += (self._tail[-5:] + data).count(b"data: ")
        self._tail = window[-7:]
        if window.endswith(b"\r\n0\r\n\r\n"):
            self._end("")

    def _end(self, error: str) -> None:
        self.busy = False
        self.last = time.perf_counter()
        self._done(self, error)


class Requests:
    """The bytes to send, each call's own."""

    def __init__(self, spec: Spec) -> None:
        body = spec.body.encode()
        lines = [f"POST {spec.path} HTTP/1.1", f"host: 127.0.0.1:{spec.port}"]
        lines += [f"{name}: {value}" for name, value in spec.headers.items()]
        head = ("\r\n".join([*lines, f"content-length: {len(body)}"]) + "\r\n\r\n").encode()
        before, mark, after = (head + body).partition(MARK.encode())
        self._template = (before, after) if mark else None
        self._whole, self._count = head + body, spec.first

    def next(self) -> bytes:
        """The next one."""
        if self._template is None:
            return self._whole
        self._count += 1
        return b"%b%010d%b" % (self._template[0], self._count, self._template[1])


async def closed(spec: Spec) -> dict[str, Any]:
    """``streams`` connections, each with ``rounds`` calls one after the other."""
    loop, requests = asyncio.get_running_loop(), Requests(spec)
    left = {"calls": spec.streams * spec.rounds}
    rounds: dict[Caller, int] = {}
    events, errors = 0, list[str]()
    finished: asyncio.Future[None] = loop.create_future()

    def done(caller: Caller, error: str) -> None:
        nonlocal events
        events += caller.events
        if error:
            errors.append(error)
        left["calls"] -= 1
        rounds[caller] += 1
        if error:
            left["calls"] -= spec.rounds - rounds[caller]
        elif rounds[caller] < spec.rounds:
            caller.ask(requests.next())
        if left["calls"] <= 0 and not finished.done():
            finished.set_result(None)

    callers = [
        (await loop.create_connection(lambda: Caller(done), "127.0.0.1", spec.port))[1] for _ in range(spec.streams)
    ]
    began = time.perf_counter()
    for caller in callers:
        rounds[caller] = 0
        caller.ask(requests.next())
    await asyncio.wait_for(finished, spec.patience)
    return {
        "calls": spec.streams * spec.rounds,
        "events": events,
        "seconds": time.perf_counter() - began,
        "errors": len(errors),
        "error": errors[0] if errors else "",
    }


async def paced(spec: Spec) -> dict[str, Any]:
    """A call every 1/rate seconds, whatever became of the others."""
    loop, requests = asyncio.get_running_loop(), Requests(spec)
    idle: list[Caller] = []
    errors, whole, first = list[str](), list[float](), list[float]()
    flying: set[Caller] = set()
    landed = asyncio.Event()

    def done(caller: Caller, error: str) -> None:
        flying.discard(caller)
        landed.set()
        if error:
            errors.append(error)
            return
        whole.append(caller.last - caller.asked)
        first.append(caller.first - caller.asked)
        idle.append(caller)

    # The connections that the rate needs stand before it begins, so that no call waits for one.
    ready = min(_MOST, 16 + int(spec.rate * (2.0 if spec.stream else 0.2)))
    for _ in range(ready):
        idle.append((await loop.create_connection(lambda: Caller(done), "127.0.0.1", spec.port))[1])
    count = max(1, int(spec.rate * spec.seconds))
    began = time.perf_counter() + 0.05
    skipped = 0
    for i in range(count):
        due = began + i / spec.rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        elif i % 64 == 0:
            await asyncio.sleep(0)
        if len(flying) >= _MOST:
            skipped += 1
            continue
        caller = idle.pop() if idle else None
        if caller is None:
            caller = (await loop.create_connection(lambda: Caller(done), "127.0.0.1", spec.port))[1]
        flying.add(caller)
        caller.ask(requests.next())  # no reply is waited for, so a late start hides nothing
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(spec.patience):
            while flying:
                landed.clear()
                await landed.wait()
    unfinished = len(flying) + skipped
    return {
        "calls": count,
        "errors": len(errors) + unfinished,
        "error": errors[0] if errors else (f"{unfinished} calls were not answered" if unfinished else ""),
        "whole_ms": percentiles(whole),
        "first_ms": percentiles(first),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {f"p{p}": ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] * 1000 for p in (50, 90, 99)}


def main() -> None:
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    print(json.dumps(uvloop.run(paced(spec) if spec.rate else closed(spec))))


if __name__ == "__main__":
    main()
