"""The cache of several gateway processes: one upstream call for all of them, refreshed for all, and there after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.provider import Asked, Provider, Wire, chat, messages
from tests.running import Server, bundle, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = "ms-test-secret-of-another-team"


class Bench:
    """Three gateways; ``only`` lets one of them answer."""

    def __init__(self, server: Server, alpha: Provider, beta: Provider) -> None:
        self.server, self.alpha, self.beta = server, alpha, beta

    @property
    def asked(self) -> int:
        return len(self.alpha.asked) + len(self.beta.asked)

    @property
    def folder(self) -> Path:
        return self.server.home / "cache"

    @property
    def entries(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if len(path.name) == 64)

    async def ask(self, text: str, model: str = "near", **more: Any) -> httpx.Response:
        """Ask on a connection of its own."""
        headers = more.pop("headers", {})
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 9, **more}
        async with self.server.client() as client:
            return await client.post("/v1/chat/completions", json=body, headers=headers)

    async def stored(self, text: str, *, entries: int = 1, **more: Any) -> httpx.Response:
        """Ask, and wait until the answer is in a file: a single gateway writes it when it is asked for again."""
        before = set(self.entries)
        reply = await self.ask(text, **more)
        assert (reply.status_code, reply.headers["x-mainstay-cache"]) == (200, "miss")
        if len(self.server.children("gateway")) == 1:
            await self.ask(text, **{**more, "headers": {}})
        await eventually(lambda: set(self.entries) - before, lambda new: len(new) == entries)
        return reply

    @contextlib.contextmanager
    def only(self, number: int) -> Iterator[None]:
        """Nobody but this gateway takes connections meanwhile."""
        gateways = sorted(self.server.children("gateway"), key=lambda process: process.pid)
        others = [process for index, process in enumerate(gateways) if index != number]
        try:
            for process in others:
                process.send_signal(signal.SIGSTOP)
                while process.status() != psutil.STATUS_STOPPED:
                    pass
            yield
        finally:
            for process in others:
                process.send_signal(signal.SIGCONT)

    async def each(self, text: str, **more: Any) -> list[httpx.Response]:
        """The answers of all three gateways."""
        replies: list[httpx.Response] = []
        for number in range(3):
            with self.only(number):
                replies.append(await self.ask(text, **more))
        return replies


def numbered() -> Any:
    """Says which request it is that it answers."""
    count = 0

    async def answer(wire: Wire, asked: Asked) -> None:
        nonlocal count
        count += 1
        await chat([f"answer {count} ", "end"])(wire, asked)

    return answer


def configured(alpha: Provider, beta: Provider, ttl: str = "10m") -> dict[str, Any]:
    price = {"input": 1, "output": 10}
    models = {"m": {"target": "alpha/m", "price": price}, "c": {"target": "beta/c", "price": price}}
    cache = {"ttl": ttl}
    routes = [{"name": "near", "to": "m", "cache": cache}, {"name": "far", "to": "c", "cache": cache}]
    made = bundle({"alpha": f"openai@{alpha.url}/v1", "beta": f"anthropic@{beta.url}"}, models, routes=routes)
    made["teams"].append({"name": "others"})
    made["keys"].append({"name": "other", "team": "others", "secret": OTHER})
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    async with Provider(numbered()) as alpha, Provider(messages(["one ", "two"])) as beta:
        with Server(configured(alpha, beta), workers=3) as server:
            yield Bench(server, alpha, beta)


def states(replies: list[httpx.Response]) -> list[str]:
    assert {reply.status_code for reply in replies} == {200}
    return [reply.headers["x-mainstay-cache"] for reply in replies]


def content(reply: httpx.Response) -> str:
    """A reply without our own comment, which tells of the call."""
    return "\n".join(line for line in reply.text.split("\n") if not line.startswith(": "))


async def test_one_upstream_call_for_all_processes(bench: Bench) -> None:
    before = bench.asked
    first = await bench.stored("once")
    replies = [await bench.ask("once") for _ in range(11)]
    assert Counter(states(replies)) == {"hit": 11}
    assert {reply.content for reply in replies} == {first.content}
    assert bench.asked == before + 1
    assert states(await bench.each("once")) == ["hit"] * 3
    assert bench.asked == before + 1


@pytest.mark.parametrize("model", ["near", "far"])
@pytest.mark.parametrize("stream", [True, False])
async def test_another_processes_reply_is_replayed_byte_for_byte(bench: Bench, model: str, stream: bool) -> None:
    with bench.only(0):
        first = await bench.stored("bytes", model=model, stream=stream)
    with bench.only(1):
        again = await bench.ask("bytes", model=model, stream=stream)
        from_memory = await bench.ask("bytes", model=model, stream=stream)
    assert states([again, from_memory]) == ["hit", "hit"]
    assert content(again) == content(from_memory)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-mainstay-model"] == first.headers["x-mainstay-model"]
    assert again.headers["x-mainstay-provider"] == first.headers["x-mainstay-provider"]
    if model == "near":
        assert content(again) == content(first)
    else:  # written anew from its events, under an id and a time of its own
        assert "one " in again.text
        assert again.text.count("data:") == first.text.count("data:")


async def test_a_refresh_is_seen_by_all(bench: Bench) -> None:
    await bench.stored("renew")
    old = await bench.each("renew")
    assert states(old) == ["hit"] * 3, "all have it in memory now"
    for number in range(3):
        (path,) = [path for path in bench.entries if old[0].json()["choices"][0]["message"]["content"] in text_of(path)]
        with bench.only(number):
            new = await bench.ask("renew", headers={"x-mainstay-cache": "refresh"})
            assert states([new]) == ["miss"]
            await eventually(lambda path=path, new=new: answer_of(new) in text_of(path), bool)
        replies = await bench.each("renew")
        assert states(replies) == ["hit"] * 3
        assert {answer_of(reply) for reply in replies} == {answer_of(new)}
        old = replies


def answer_of(reply: httpx.Response) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def text_of(path: Path) -> str:
    return path.read_bytes().decode("latin-1") if path.exists() else ""


async def test_nobody_reads_anothers_entry(bench: Bench) -> None:
    await bench.stored("private")
    other = {"authorization": f"Bearer {OTHER}"}
    before = bench.asked
    assert states([await bench.ask("private", headers=other)]) == ["miss"]
    assert bench.asked == before + 1
    # Not even by renaming a file to what the other's would be called.
    own = bench.entries[0]
    with bench.only(0):
        before_entries = set(bench.entries)
        reply = await bench.ask("private too", headers=other)
        await eventually(lambda: set(bench.entries) - before_entries, bool)
    (theirs,) = set(bench.entries) - before_entries
    theirs.write_bytes(own.read_bytes())
    with bench.only(1):
        again = await bench.ask("private too", headers=other)
    assert states([again]) == ["miss"]
    assert answer_of(again) != answer_of(reply)


@pytest.mark.parametrize("damage", ["torn", "altered", "empty", "foreign", "folder", "pipe"])
async def test_what_is_no_entry_is_a_miss_and_removed(bench: Bench, damage: str) -> None:
    before = set(bench.entries)
    with bench.only(0):
        await bench.stored(damage)
    (path,) = set(bench.entries) - before
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        altered = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
        path.write_bytes({"torn": data[:-7], "altered": altered, "empty": b"", "foreign": b"x" * 4000}[damage])
    asked = bench.asked
    with bench.only(1):
        replies = [await bench.ask(damage), await bench.ask(damage)]
        assert states(replies) == ["miss", "hit"]
    assert bench.asked == asked + 1
    if damage == "folder":
        path.rmdir()
        return
    await eventually(lambda: path.is_file() and path.stat().st_size >= len(data) - 7, bool)
    with bench.only(2):
        assert states([await bench.ask(damage)]) == ["hit"]


async def test_files_are_nobody_elses_to_read(bench: Bench) -> None:
    await bench.stored("modes")
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in bench.entries} == {0o600}


async def test_the_command_empties_it_everywhere(bench: Bench) -> None:
    await bench.stored("cleared")
    assert states(await bench.each("cleared")) == ["hit"] * 3
    count = len(bench.entries)
    assert bench.server.command("cache", "clear").stdout == f"removed {count} entries\n"
    assert bench.entries == []
    assert states(await bench.each("cleared"))[0] == "miss"


async def metric(server: Server, name: str) -> float:
    async with server.client() as client:
        text = (await client.get("/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if name in line and line[:1] != "#")


async def metric_becomes(server: Server, name: str, value: float) -> None:
    """Wait until gateways have told so: they do each second."""
    async with asyncio.timeout(10):
        while await metric(server, name) != value:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_restart_forgets_nothing(tmp_path: Path, stream: bool) -> None:
    async with Provider(numbered()) as alpha, Provider(messages()) as beta:
        config = configured(alpha, beta)
        with Server(config, home=tmp_path) as server:
            first, second = [await Bench(server, alpha, beta).ask("kept", stream=stream) for _ in range(2)]
            assert states([first, second]) == ["miss", "hit"]
        with Server(config, home=tmp_path) as server:
            bench = Bench(server, alpha, beta)
            again = await bench.ask("kept", stream=stream)
            assert states([first, again]) == ["miss", "hit"]
            assert content(again) == content(first)
            assert bench.asked == 1
            server.command("cache", "clear")
            while states([await bench.ask("kept", stream=stream)]) == ["hit"]:  # until it looks, within a second
                pass
            assert bench.asked == 2


async def test_without_room_on_disk_it_goes_on_in_memory() -> None:
    async with Provider(chat(["long " * 1000])) as alpha, Provider(messages()) as beta:
        with Server(configured(alpha, beta), MAINSTAY_DISK_FULL="serve") as server:
            bench = Bench(server, alpha, beta)
            await bench.stored("before")
            (gateway,) = server.children("gateway")
            before = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
            # No file grows beyond this: there is room for the log, not for an answer.
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (4000, before[1]))
            for number in range(3):
                assert states([await bench.ask(f"full {number}") for _ in range(3)]) == ["miss", "hit", "hit"]
            assert states([await bench.ask("before")]) == ["hit"]
            await eventually(lambda: server.log.read_text().count("cache's files cannot be written"), bool)
            await metric_becomes(server, "mainstay_gateway_cache_store_failing", 1)
            await metric_becomes(server, "mainstay_gateway_cache_not_stored_total", 3)
            assert server.log.read_text().count("cache's files cannot be written") == 1
            assert [path.name for path in bench.folder.iterdir() if path.name.startswith(".")] == []
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, before)
            await bench.stored("after")
            await metric_becomes(server, "mainstay_gateway_cache_store_failing", 0)


async def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    async with Provider(numbered()) as alpha, Provider(messages()) as beta:
        with Server(configured(alpha, beta), home=tmp_path) as server:
            bench = Bench(server, alpha, beta)
            assert states([await bench.ask("hello") for _ in range(3)]) == ["miss", "hit", "hit"]
            await metric_becomes(server, "mainstay_gateway_cache_store_failing", 1)
            assert "the cache goes on in memory" in server.log.read_text()


async def test_what_has_expired_is_removed() -> None:
    async with Provider(numbered()) as alpha, Provider(messages()) as beta:
        with Server(configured(alpha, beta, ttl="2s"), workers=3) as server:
            bench = Bench(server, alpha, beta)
            await bench.stored("soon over")
            (path,) = bench.entries
            assert states([await bench.ask("soon over")]) == ["hit"]
            (bench.folder / "sweep").touch()
            await eventually(lambda: (bench.folder / "sweep").exists(), lambda there: not there)
            while path.exists():
                (bench.folder / "sweep").touch()
                await eventually(lambda: (bench.folder / "sweep").exists(), lambda there: not there)
            assert bench.asked == 1
            assert states([await bench.ask("soon over")]) == ["miss"]


async def test_it_can_be_left_in_memory_alone(tmp_path: Path) -> None:
    async with Provider(numbered()) as alpha, Provider(messages()) as beta:
        with Server(configured(alpha, beta), home=tmp_path, MAINSTAY_CACHE_DISK_BYTES="0") as server:
            bench = Bench(server, alpha, beta)
            assert states([await bench.ask("hello") for _ in range(3)]) == ["miss", "hit", "hit"]
            assert not bench.folder.exists()
