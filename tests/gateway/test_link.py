"""Both ends of the link on a real socket: greeting, snapshots, units, lost connections, bad company."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from mainstay.access.purse import Purse
from mainstay.access.rules import Claim, Rule
from mainstay.access.shares import Shares
from mainstay.core.clock import Clock
from mainstay.core.errors import OverLimit
from mainstay.edge import link as edge_link
from mainstay.edge.link import LinkServer
from mainstay.gateway.link import Link
from mainstay.store.database import Database
from mainstay.store.shares import SqlShares
from mainstay.wire.link import Frames, Hello, Loaded, Need, Snapshot, encode

BUDGET = Rule("team:t:usd:total", "usd", "total", 1_000, "the budget")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


class End:
    """A gateway's end, and what it has loaded."""

    def __init__(self, path: Path, name: str) -> None:
        self.purse = Purse(Clock())
        self.loaded: list[tuple[str, bytes]] = []
        self.refuses = False
        self.link = Link(
            path,
            name,
            self.purse,
            load=self._load,
            digest=lambda: self.loaded[-1][0] if self.loaded else None,
            stats=lambda: ({"in_flight": 3.0}, {"alpha/small": "open"}),
        )
        self.task = asyncio.create_task(self.link.run())

    def _load(self, digest: str, body: bytes) -> None:
        if self.refuses:
            raise ValueError("cannot compile this")
        self.loaded.append((digest, body))

    async def acquire(self, units: int):
        claim = Claim(BUDGET, BUDGET.pool("", 0), units)
        return await self.purse.acquire([claim], self.link.ask)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Control:
    """Control's end."""

    def __init__(self, database: Database, path: Path) -> None:
        self.path = path
        self.current: Snapshot | None = None
        self.shares = Shares(database, SqlShares(), {BUDGET.id: BUDGET}.get, Clock())
        self.server = LinkServer(self.shares, lambda: self.current, Clock())

    async def stop(self) -> None:
        await self.server.close()
        await self.shares.close()


class Home:
    """Everything that must be ended after a test."""

    def __init__(self, database: Database, path: Path) -> None:
        self.database, self.path = database, path
        self.ends: list[End] = []
        self.controls: list[Control] = []

    async def control(self) -> Control:
        control = Control(self.database, self.path)
        self.controls.append(control)
        await control.server.start(self.path)
        return control

    def end(self, name: str = "gateway-a") -> End:
        end = End(self.path, name)
        self.ends.append(end)
        return end


@pytest.fixture
async def home(tmp_path: Path) -> AsyncGenerator[Home]:
    with tempfile.TemporaryDirectory(prefix="ms-") as folder:
        database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
        home = Home(database, Path(folder) / "link.sock")
        yield home
        for end in home.ends:
            await end.stop()
        for control in home.controls:
            await control.stop()
        await database.close()


def ready(control: Control, *names: str) -> Callable[[], bool]:
    return lambda: {one.gateway for one in control.server.gateways()} >= set(names)


async def test_a_gateway_gets_the_snapshot_in_force(home: Home) -> None:
    control = await home.control()
    control.current = Snapshot("d1", b"one")
    end = home.end()
    await until(lambda: [one.snapshot for one in control.server.gateways()] == ["d1"])
    assert end.loaded == [("d1", b"one")]
    assert stat.S_IMODE(os.stat(home.path).st_mode) == 0o600


async def test_a_broadcast_waits_for_all_and_names_laggards(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    control = await home.control()
    ends = [home.end("gateway-a"), home.end("gateway-b")]
    await until(ready(control, "gateway-a", "gateway-b"))
    control.current = Snapshot("d1", b"one")
    assert await control.server.broadcast(control.current, timeout=10) == []
    assert [end.loaded[-1] for end in ends] == [("d1", b"one")] * 2

    ends[1].refuses = True
    control.current = Snapshot("d2", b"two")
    assert await control.server.broadcast(control.current, timeout=0.3) == ["gateway-b"]
    assert ends[1].loaded == [("d1", b"one")]
    assert "the last good one stays" in caplog.text


async def test_a_gateway_that_has_the_snapshot_already_is_not_sent_it(home: Home) -> None:
    control = await home.control()
    control.current = Snapshot("d1", b"one")
    end = home.end()
    await until(lambda: bool(end.loaded))
    await control.stop()
    again = await home.control()
    again.current = Snapshot("d1", b"one")
    await until(lambda: [one.snapshot for one in again.server.gateways()] == ["d1"])
    assert end.loaded == [("d1", b"one")]


async def test_units_come_on_request_and_back_from_others(home: Home) -> None:
    control = await home.control()
    one, two = home.end("gateway-a"), home.end("gateway-b")
    await until(ready(control, "gateway-a", "gateway-b"))
    await until(lambda: one.link.connected and two.link.connected)
    hold = await one.acquire(300)  # and an eighth of the rest
    other = await two.acquire(690)  # needs what the first has idle
    with pytest.raises(OverLimit, match="used up or held"):
        await two.acquire(20)
    hold.release()
    assert (await two.acquire(300)).open
    other.release()
    status = await control.shares.status(exact=True)
    assert [(one.spent, one.held) for one in status] == [(0, 300)]


async def test_control_may_come_later_and_go(home: Home) -> None:
    end = home.end()
    with pytest.raises(OverLimit, match="does not answer"):
        await end.acquire(1)
    control = await home.control()
    await until(lambda: end.link.connected)
    hold = await end.acquire(100)
    await control.stop()
    await until(lambda: not end.link.connected)
    assert (await end.acquire(50)).open  # from the eighth beside the first
    with pytest.raises(OverLimit, match="does not answer"):
        await end.acquire(900)
    hold.settle(nano=100)
    again = await home.control()
    await until(lambda: end.link.connected)
    assert (await end.acquire(850)).open
    assert [one.held for one in await again.shares.status()] == [1_000]  # the 100 too, until the journal is read


async def test_stats_and_idle_units_travel(home: Home) -> None:
    control = await home.control()
    end = home.end()
    await until(lambda: end.link.connected)
    end.link.tick()
    await until(lambda: any(one.gauges for one in control.server.gateways()))
    info = control.server.gateways()[0]
    assert info.gauges["in_flight"] == 3.0
    assert info.breakers == {"alpha/small": "open"}
    assert info.pid == os.getpid()


async def test_a_gateway_that_does_not_read_is_cut_off_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_link, "MOST_WAITING", 1_000_000)
    control = await home.control()
    reader, writer = await asyncio.open_unix_connection(home.path, limit=1)
    writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
    writer.write(encode(Hello("deaf", 1)))
    end = home.end("gateway-a")
    await until(ready(control, "deaf", "gateway-a"))
    await until(lambda: end.link.connected)
    for number in range(4):
        control.current = Snapshot(f"d{number}", os.urandom(2_000_000))
        await control.server.broadcast(control.current, timeout=0.05)
    await until(lambda: [one.gateway for one in control.server.gateways()] == ["gateway-a"])
    await until(lambda: bool(end.loaded) and end.loaded[-1][0] == "d3")
    writer.close()
    del reader


async def test_a_silent_gateway_delays_others_by_the_reclaim_at_most(home: Home) -> None:
    control = await home.control()
    reader, writer = await asyncio.open_unix_connection(home.path)
    writer.write(encode(Hello("silent", 1)) + encode(Need(1, {BUDGET.pool("", 0): 600})))
    frames, got = Frames(), []
    while not got:
        got = frames.feed(await reader.read(65536))
    end = home.end()
    await until(lambda: end.link.connected)
    start = asyncio.get_running_loop().time()
    with pytest.raises(OverLimit):
        await end.acquire(400)  # the silent one has 650
    assert asyncio.get_running_loop().time() - start < 1.5
    assert (await end.acquire(300)).open
    assert control.server.gateways()
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x03abc",
        encode(Loaded("x")),
        encode(Hello("", 1)),
        encode(Snapshot("d", b"")),
    ],
    ids=["too long", "no message", "no hello", "no name", "control's message"],
)
async def test_what_cannot_be_understood_ends_the_connection(home: Home, sent: bytes) -> None:
    control = await home.control()
    reader, writer = await asyncio.open_unix_connection(home.path)
    writer.write(sent)
    async with asyncio.timeout(10):
        with _any_end():
            assert await reader.read() == b""
    assert control.server.gateways() == []
    writer.close()


class _any_end:
    """The peer closed, by the book or by a reset."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, ConnectionError)


async def test_a_second_connection_of_a_gateway_replaces_the_first(home: Home) -> None:
    control = await home.control()
    first_reader, first = await asyncio.open_unix_connection(home.path)
    first.write(encode(Hello("twice", 1)))
    await until(ready(control, "twice"))
    _, second = await asyncio.open_unix_connection(home.path)
    second.write(encode(Hello("twice", 2)))
    with _any_end():
        assert await first_reader.read() == b""
    await until(lambda: [one.pid for one in control.server.gateways()] == [2])
    first.close()
    second.close()


async def test_a_path_that_is_too_long_is_named(home: Home) -> None:
    control = Control(home.database, home.path)
    with pytest.raises(ValueError, match="too long for a socket's address"):
        await control.server.start("/tmp/" + "x" * 120)
