"""A disk without room: calls are refused and nothing is lost, or served and counted, as the setting says."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.rig import Case, Rig, Shape, made
from tests.provider import Asked, Provider, Wire, chat, messages
from tests.running import Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

SHAPES = {"o": Shape("o", 3)}
BUDGET = {"usd": 10, "per": "total"}


@contextlib.asynccontextmanager
async def running(home: Path | None = None, **env: str) -> AsyncIterator[Rig]:
    """The product with a key that has a budget."""
    async with Provider(chat()) as o, Provider(messages()) as a:
        config = made(SHAPES, {"o": o.url, "g": o.url, "a": a.url})
        config["keys"][0]["budget"] = BUDGET
        with Server(config, home=home, **env) as server:
            async with server.client() as client:
                rig = Rig(server, client, SHAPES)
                rig.providers = {"o": o, "g": o, "a": a}
                yield rig


@contextlib.contextmanager
def no_room(rig: Rig) -> Iterator[None]:
    """No file of the gateway may grow: to it, the disk is full."""
    pid = rig.server.children("gateway")[0].pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def metric(rig: Rig, name: str) -> float:
    text = (await rig.client.get("/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if name in line and line[:1] != "#")


async def test_calls_are_refused_and_nothing_is_lost() -> None:
    async with running() as rig:
        case = rig.take("o")
        first = await case.ask(stream=False)
        first.is_whole()
        go = asyncio.Event()

        async def held(wire: Wire, asked: Asked) -> None:
            await go.wait()
            await chat()(wire, asked)

        case.targets[0].default = held
        flying = [asyncio.ensure_future(case.ask(stream=stream)) for stream in (False, True)]
        async with asyncio.timeout(5):
            while case.asked[0] < 3:
                await asyncio.sleep(0.01)
        with no_room(rig):
            for stream in (False, True):
                for caller in ("openai", "anthropic", "responses"):
                    refused = await case.ask(stream=stream, caller=caller)
                    refused.is_error(503)
                    assert int(refused.headers["retry-after"]) >= 1
            assert case.asked == [3], "nobody is asked what could not be written down"
            go.set()
            await asyncio.sleep(0.3)
            assert not any(one.done() for one in flying), "a reply ends only when its record is written"
        answers = await asyncio.gather(*flying)
        for answer in answers:
            answer.is_whole()
        after = await case.ask(stream=True)
        after.is_whole()
        for answer in (first, *answers, after):
            record = await rig.record(answer.call)
            assert record["outcome"] == "ok"
        async with asyncio.timeout(10):
            while True:
                reply = await rig.client.get("/api/v1/budgets", params={"exact": "true"})
                (budget,) = reply.json()["data"]
                if float(budget["held_usd"]) == 0:
                    break
                await asyncio.sleep(0.1)
        assert float(budget["spent_usd"]) == pytest.approx(4 * (10 * 1e-6 + 60 * 2e-6))


async def test_calls_are_served_and_counted_where_the_setting_says_so() -> None:
    async with running(MAINSTAY_DISK_FULL="serve") as rig:
        case = rig.take("o")
        (await case.ask(stream=False)).is_whole()
        with no_room(rig):
            for stream in (False, True):
                (await case.ask(stream=stream)).is_whole()
        after = await case.ask(stream=True)
        after.is_whole()
        await rig.record(after.call)
        async with asyncio.timeout(10):
            while await metric(rig, "journal_dropped") < 2:
                await asyncio.sleep(0.1)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
        mounted = subprocess.run(mount, capture_output=True, timeout=10)
    except OSError as error:
        pytest.skip(f"cannot mount: {error}")
    if mounted.returncode:
        pytest.skip(f"may not mount a file system of our own: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False, timeout=10)


async def test_a_full_file_system(small: Path) -> None:
    async with running(small / "home") as rig:
        case = rig.take("o")
        calls = [(await case.ask(stream=False)).call]
        filler = small / "filler"
        fill(filler)
        statuses: list[int] = []
        async with asyncio.timeout(30):
            while 503 not in statuses:  # what was set aside beforehand is used first
                answers = await asyncio.gather(*[case.ask(stream=True) for _ in range(50)])
                calls += [answer.call for answer in answers if answer.success]
                statuses += [answer.status for answer in answers]
                assert set(statuses) <= {200, 503}
                fill(filler)
        filler.unlink()
        await served(case)
        for call in (*calls[:3], *calls[-20:]):
            assert (await rig.record(call))["outcome"] == "ok"
        found = {row["id"] for row in await rig.server.until_calls(len(calls))}
        assert set(calls) <= found


def fill(filler: Path) -> None:
    """Use up what is left of the file system."""
    with filler.open("ab", buffering=0) as file:
        for size in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


async def served(case: Case) -> None:
    """Wait until calls pass again."""
    async with asyncio.timeout(15):
        while True:
            try:
                if (await case.ask(stream=False)).success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
