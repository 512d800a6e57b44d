"""What every store of cached answers does, in files or in a server; and what a server does when it is slow, or gone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mainstay.core.clock import FixedClock
from mainstay.core.event import End, Frame
from mainstay.core.usage import Usage
from mainstay.gateway import cache_valkey
from mainstay.gateway.cache import Entry, Shared
from mainstay.gateway.cache_files import Files
from mainstay.gateway.cache_valkey import Server
from tests.gateway.rig import Rig, chat_body
from tests.gateway.test_cache import CACHE, KEYS, MODELS, counted

URL = os.environ.get("TEST_VALKEY", "redis://127.0.0.1:6379/0")
ROUTES: dict[str, Any] = {"r": {"to": "m", "cache": CACHE}, "far": {"to": "c", "cache": CACHE}}


def there() -> bool:
    host, port = URL.split("//")[1].split("/")[0].rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 1):
            return True
    except OSError:
        return False


needs_server = pytest.mark.skipif(not there(), reason=f"no Valkey or Redis answers at {URL}; set TEST_VALKEY")


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


class Stores:
    """Makes stores of one kind, as different processes have them, and runs them."""

    def __init__(self, make: Callable[[], Shared], clock: FixedClock) -> None:
        self._make, self.clock = make, clock
        self._running: list[tuple[Shared, asyncio.Task[None]]] = []

    def one(self) -> Shared:
        made = self._make()
        self._running.append((made, asyncio.ensure_future(made.run(lambda: None))))
        return made

    def entry(self, text: str = "hello", ttl: float = 60.0) -> Entry:
        frames = [Frame(text.encode(), ()), Frame(b"data: [DONE]\n\n", (End(),))]
        about = ("openai", "text/event-stream", "m", "alpha", "stop", Usage(3, 4, cached_input=1))
        return Entry(frames, *about, self.clock.monotonic() + ttl, len(text) + 1024, self.clock.now() + ttl, ttl)

    async def put(self, store: Shared, name: object, entry: Entry, renewed: bool = False) -> Entry:
        """Put, and wait until it is stored."""
        before = store.gauges()["cache_stored"]
        store.put(key(name), entry, renewed)
        await until(lambda: store.gauges()["cache_stored"] > before)
        return entry

    async def close(self) -> None:
        for store, task in self._running:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()


async def until(good: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not good():
            await asyncio.sleep(0.001)


async def get(store: Shared, name: object, held: Entry | None = None) -> Entry | None:
    found = store.get(key(name), held)
    return await found if isinstance(found, Awaitable) else found


def same(one: Entry | None, other: Entry) -> bool:
    names = ("frames", "dialect", "content_type", "model", "provider", "finish", "usage", "size", "expires", "ttl")
    return one is not None and all(getattr(one, name) == getattr(other, name) for name in names)


@pytest_asyncio.fixture(params=["files", pytest.param("server", marks=needs_server)])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stores]:
    clock = FixedClock()
    secret, count = os.urandom(32), iter(range(100))
    monkeypatch.setattr(cache_valkey, "_WAIT", 10.0)  # nothing here is about time

    def make() -> Shared:
        if request.param == "files":
            return Files(tmp_path / "cache", f"gw_{next(count)}", 1 << 26, clock, workers=2)
        return Server(URL, secret, clock)

    stores = Stores(make, clock)
    yield stores
    await stores.close()
    if request.param == "server":
        await cache_valkey.clear(URL, secret)


async def test_one_process_stores_and_another_has_it(stores: Stores) -> None:
    one, other = stores.one(), stores.one()
    assert await get(other, "a") is None
    made = await stores.put(one, "a", stores.entry())
    found = await get(other, "a")
    assert same(found, made)
    assert found is not None
    assert found.until == pytest.approx(made.until)
    assert await get(other, "a", found) is found, "the one in memory is confirmed, and not fetched again"
    assert await get(one, "a", made) is made
    assert await get(other, "b") is None


@pytest.mark.parametrize("size", [0, 10, 1_500_000])
async def test_any_size(stores: Stores, size: int) -> None:
    one, other = stores.one(), stores.one()
    made = await stores.put(one, "a", stores.entry("x" * size + "y"))
    assert same(await get(other, "a"), made)


async def test_a_newer_one_replaces_what_is_held(stores: Stores) -> None:
    one, other = stores.one(), stores.one()
    held = await stores.put(one, "a", stores.entry("0"))
    for count in range(1, 6):
        new = await stores.put(other, "a", stores.entry(str(count)), renewed=True)
        assert same(await get(one, "a", held), new)
        one, other, held = other, one, new


async def test_what_was_removed_is_held_by_nobody(stores: Stores) -> None:
    one, other = stores.one(), stores.one()
    await stores.put(one, "a", stores.entry())
    held = await get(other, "a")
    one.remove(key("a"))
    async with asyncio.timeout(10):
        while await get(other, "a", held) is not None:
            await asyncio.sleep(0.001)


async def test_it_expires(stores: Stores) -> None:
    one, other = stores.one(), stores.one()
    await stores.put(one, "a", stores.entry(ttl=60))
    stores.clock.advance(61)
    assert await get(other, "a") is None


async def test_what_a_process_alone_may_have_is_confirmed_and_not_stored(stores: Stores) -> None:
    """An answer to a key whose content is not to be stored has no time at which it expires elsewhere."""
    one, other = stores.one(), stores.one()
    private = stores.entry("private")
    private.expires = private.ttl = 0.0
    assert await get(one, "a", private) is private
    await stores.put(one, "after", stores.entry())  # stores keep the order
    assert await get(other, "a") is None
    public = await stores.put(other, "a", stores.entry("public"))
    assert same(await get(one, "a", private), public)


async def test_what_waits_at_the_end_is_stored(stores: Stores) -> None:
    one = stores.one()
    made = stores.entry()
    one.put(key("a"), made, renewed=False)
    await stores.close()
    stores._running.clear()
    assert same(await get(stores.one(), "a"), made)


@pytest.mark.parametrize("route", ["r", "far"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_is_answered_by_what_another_process_stored(
    stores: Stores, tmp_path: Path, route: str, stream: bool
) -> None:
    rigs = [Rig(tmp_path / str(n), models=MODELS, routes=ROUTES, keys=KEYS, teams={"t": {}, "s": {}}) for n in range(2)]
    for rig in rigs:
        rig.cache._shared = stores.one()
        rig.targets["alpha"].default = counted(rig)
    body = chat_body("x", route, stream=stream)

    async def stored(rig: Rig, count: int) -> bool:
        shared = rig.cache._shared
        assert shared is not None
        await until(lambda: shared.gauges()["cache_stored"] == count)
        return True

    first = await rigs[0].ask(body)
    await stored(rigs[0], 1)
    others = await asyncio.gather(*[rigs[1].ask(body) for _ in range(10)])
    assert {done.call.cache for done in others} == {"hit"}
    assert {done.raw for done in others} == {first.raw}
    assert len(rigs[1].records) == 10
    stranger = {"authorization": "Bearer ms-secret-stranger"}
    assert (await rigs[1].ask(body, stranger)).call.cache == "miss"
    await stored(rigs[1], 1)
    asked = sum(len(target.asked) for target in rigs[1].targets.values())
    renewed = await rigs[1].ask(body, {"x-mainstay-cache": "refresh"})
    await stored(rigs[1], 2)
    assert sum(len(target.asked) for target in rigs[1].targets.values()) == asked + 1
    for rig in rigs:
        again = await rig.ask(body)
        assert (again.call.cache, again.raw, again.events) == ("hit", renewed.raw, again.events)
    for rig in rigs:
        rig.nothing_held()
        rig.journal.stop()


# ---------------------------------------------------------------- a server that is not as it should be


class Odd:
    """A server that accepts and then says what a test says, or nothing."""

    def __init__(self, says: bytes = b"") -> None:
        self.says, self.connections = says, 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Odd:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"valkey://:secret@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        if self.says:
            while await reader.read(1000):
                writer.write(self.says)
        await reader.read()

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        self._server.close()


@pytest.mark.parametrize("says", [b"", b"-NOAUTH no\r\n", b"\x00\xffnonsense\r\n", b"-OOM command not allowed\r\n"])
async def test_a_server_that_does_not_work_is_a_miss_and_left_alone(
    says: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_valkey, "_WAIT", 0.05)
    clock = FixedClock()
    async with Odd(says) as odd:
        store = Server(odd.url, bytes(32), clock)
        stores = Stores(lambda: store, clock)
        held = stores.entry()
        held.mark = (1, 2)
        assert await get(store, "a") is None
        connections = odd.connections
        assert connections >= 1
        assert store.get(key("a"), None) is None, "without waiting"
        assert store.get(key("a"), held) is held
        stores.one()
        made = stores.entry("new")
        store.put(key("b"), made, renewed=False)
        await until(lambda: store.gauges()["cache_not_stored"] == 1)
        assert store.get(key("b"), made) is made
        assert odd.connections == connections
        assert store.gauges()["cache_store_failing"] == 1
        clock.advance(6)
        assert await get(store, "a", held) is held, "it is asked again, in vain"
        assert odd.connections > connections
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "secret" not in caplog.text
        await stores.close()


@needs_server
async def test_what_could_not_be_stored_is_stored_when_it_can_be(caplog: pytest.LogCaptureFixture) -> None:
    clock, secret = FixedClock(), os.urandom(32)
    store = Server(URL, secret, clock)
    stores = Stores(lambda: store, clock)
    stores.one()
    others = Stores(lambda: Server(URL, secret, clock), clock)
    older = await others.put(others.one(), "a", stores.entry("older"))
    working, store._client = store._client, cache_valkey.client("redis://127.0.0.1:1")
    assert await get(store, "b") is None
    clock.advance(1)
    newer = stores.entry("newer")
    store.put(key("a"), newer, renewed=True)
    await until(lambda: store.gauges()["cache_not_stored"] == 1)
    store._client = working
    clock.advance(6)
    assert await get(store, "a", newer) is newer, "older is what the server has"
    await until(lambda: store.gauges()["cache_stored"] == 1)
    assert store.gauges()["cache_store_failing"] == 0
    found = await get(others.one(), "a")
    assert same(found, newer)
    assert not same(found, older)
    assert [record.message.split("(")[0] for record in caplog.records] == [
        "the cache's server cannot be used ",
        "the cache's server can be used again",
    ]
    await stores.close()
    await others.close()
    await cache_valkey.clear(URL, secret)


@needs_server
async def test_another_installation_finds_nothing_and_nothing_can_be_put_in() -> None:
    clock, mine, theirs = FixedClock(), os.urandom(32), os.urandom(32)
    made, other = Stores(lambda: Server(URL, mine, clock), clock), Stores(lambda: Server(URL, theirs, clock), clock)
    one, stranger = made.one(), other.one()
    await made.put(one, "a", made.entry("private words"))
    raw: Any = cache_valkey.client(URL)
    name = cache_valkey.Names(mine).of(key("a"))
    value = await raw.get(name)
    assert b"private words" not in value
    assert 0 < await raw.pttl(name) <= 60_000
    assert await get(stranger, "a") is None
    await raw.set(cache_valkey.Names(theirs).of(key("a")), value)
    assert await get(stranger, "a") is None, "sealed with another key"
    await raw.set(cache_valkey.Names(mine).of(key("b")), value)
    assert await get(one, "b") is None, "sealed for another name"
    await raw.set(name, value[:-1] + bytes([value[-1] ^ 1]))
    assert await get(one, "a") is None
    assert await cache_valkey.clear(URL, theirs) == 1
    assert await cache_valkey.clear(URL, mine) == 2
    assert await cache_valkey.clear(URL, mine) == 0
    await raw.aclose()
    await made.close()
    await other.close()
