"""The cache's files: what is stored comes back, nothing is unbounded, and nothing that is wrong with a disk is an error."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core import event
from mainstay.core.clock import FixedClock
from mainstay.core.event import End, Event, Frame, TextDelta
from mainstay.core.usage import Usage
from mainstay.gateway import cache_files
from mainstay.gateway.cache import Entry, Memory
from mainstay.gateway.cache_files import Files, sweep
from mainstay.gateway.cache_format import decoded, encoded
from tests.gateway.rig import Rig, chat_body, settle
from tests.gateway.test_cache import CACHE, MODELS, counted, states

KEY = bytes(range(32))


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def entry(clock: FixedClock, text: str = "hello", ttl: float = 60.0) -> Entry:
    frames = [Frame(text.encode(), ()), Frame(b"data: [DONE]\n\n", (End(),))]
    expires = clock.now() + ttl
    about = ("openai", "text/event-stream", "m", "alpha", "stop", Usage(3, 4, cached_input=1))
    return Entry(frames, *about, clock.monotonic() + ttl, len(text) + 1024, expires, ttl)


class Place:
    """A folder, and gateways that share it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder / "cache", FixedClock()
        self.opened: list[Files] = []

    def files(self, workers: int = 2, limit: int = 64 << 20) -> Files:
        made = Files(self.folder, f"gw_{len(self.opened)}", limit, self.clock, workers)
        self.opened.append(made)
        return made

    async def store(self, files: Files, name: object, text: str = "hello", renewed: bool = False) -> Entry:
        """Put, ask for it once (a single process writes no sooner), and wait until it is done."""
        made = entry(self.clock, text)
        files.put(key(name), made, renewed)
        await found(files, name, made)
        await done(files)
        return made

    @property
    def size(self) -> int:
        return sum(-(-path.stat().st_size // 4096) * 4096 for path in self.folder.iterdir() if len(path.name) == 64)


async def done(files: Files) -> None:
    """Wait until all that was put is written, or is not going to be."""
    await settle()
    async with asyncio.timeout(10):
        while files._taken < files._given:
            await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    for files in place.opened:
        await files.close()


async def found(files: Files, name: object, held: Entry | None = None) -> Entry | None:
    got = files.get(key(name), held)
    return await got if isinstance(got, Awaitable) else got


def same(one: Entry | None, other: Entry) -> bool:
    names = ("frames", "dialect", "content_type", "model", "provider", "finish", "usage", "size", "expires", "ttl")
    return one is not None and all(getattr(one, name) == getattr(other, name) for name in names)


# ---------------------------------------------------------------- the format

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
mappings = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, max_size=3)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(event.Start, texts, texts, st.integers(0, 2**40), st.none() | texts, st.none() | texts),
    st.builds(TextDelta, texts, st.integers(0, 3), st.none() | st.lists(mappings, max_size=2).map(tuple)),
    st.builds(event.ThinkingDelta, texts, st.integers(0, 3)),
    st.builds(event.ThinkingSigned, texts, st.booleans(), st.integers(0, 3)),
    st.builds(event.RefusalDelta, texts, st.integers(0, 3)),
    st.builds(event.ToolStart, st.integers(0, 3), texts, texts, st.integers(0, 3)),
    st.builds(event.ToolDelta, st.integers(0, 3), texts, st.integers(0, 3)),
    st.builds(event.Citation, mappings, st.integers(0, 3)),
    st.builds(
        event.Finish,
        st.sampled_from(["stop", "length", "tool_calls"]),
        st.integers(0, 3),
        st.none() | texts,
        st.none() | texts,
    ),
    st.builds(event.UsageSeen, st.builds(Usage, *[st.integers(0, 99)] * 7, st.booleans())),
    st.builds(event.Failed, texts, texts, st.binary(max_size=20)),
    st.builds(event.Opaque, texts),
    st.just(End()),
)


@given(st.lists(events, min_size=1, max_size=8))
def test_events_come_back_as_they_were(given_events: list[Event]) -> None:
    made = Entry([Frame(None, tuple(given_events))], "", "", "m", "p", None, None, 0.0, 9, 5.0, 4.0)
    got = decoded(KEY, b"".join(encoded(KEY, made)))
    assert same(got, made)
    assert got is not None
    assert [type(one) for one in got.frames[0].events] == [type(one) for one in given_events]


@given(st.binary(max_size=50), st.binary(min_size=1, max_size=50), st.integers(0), st.integers(1, 255))
def test_no_altered_byte_goes_unseen(before: bytes, end: bytes, place: int, flip: int) -> None:
    frames = [*([Frame(before, ())] if before else []), Frame(end, (End(),))]
    made = Entry(frames, "openai", "t", "m", "p", "stop", Usage(1, 2), 0.0, 9, 5.0, 4.0)
    data = b"".join(encoded(KEY, made))
    assert same(decoded(KEY, data), made)
    altered = bytearray(data)
    altered[place % len(data)] ^= flip
    assert decoded(KEY, bytes(altered)) is None
    assert decoded(KEY, data[: place % len(data)]) is None
    assert decoded(KEY, data + b"x") is None
    assert decoded(bytes(32), data) is None


# ---------------------------------------------------------------- one process and several


async def test_another_process_has_it(place: Place) -> None:
    one, other = place.files(), place.files()
    made = await place.store(one, "a")
    got = await found(other, "a")
    assert same(got, made)
    assert got is not None
    assert got.until == pytest.approx(made.until)
    assert await found(other, "a", got) is got
    assert await found(one, "a", made) is made
    assert await found(other, "b") is None


async def test_what_another_stored_since_replaces_what_is_held(place: Place) -> None:
    one, other = place.files(), place.files()
    await place.store(one, "a", "old")
    held = await found(other, "a")
    for text in ("new", "newer", "newest"):
        made = await place.store(one, "a", text, renewed=True)
        got = await found(other, "a", held)
        assert same(got, made)
        held = got
    one.remove(key("a"))
    assert await found(other, "a", held) is None


async def test_from_the_end_of_a_refresh_nobody_gives_the_older(place: Place) -> None:
    """The new one is written later; until then others ask anew."""
    one, other = place.files(), place.files()
    await place.store(one, "a", "old")
    held = await found(other, "a")
    new = entry(place.clock, "new")
    one.put(key("a"), new, renewed=True)
    assert await found(other, "a", held) is None
    assert await found(one, "a", new) is new, "its own process has it all the while"
    await done(one)
    assert same(await found(other, "a"), new)


async def test_a_new_process_has_what_an_earlier_one_stored(place: Place) -> None:
    made = await place.store(place.files(workers=1), "a")
    later = place.files(workers=1)
    running = asyncio.ensure_future(later.run(lambda: None))
    await eventually(lambda: later._listed)
    assert same(await found(later, "a"), made)
    running.cancel()


async def eventually(good: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not good():
            await asyncio.sleep(0.001)


async def test_a_single_process_asks_the_disk_for_nothing_that_it_knows(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = place.files(workers=1)
    running = asyncio.ensure_future(files.run(lambda: None))
    await eventually(lambda: files._listed)
    made = await place.store(files, "a")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a system call")

    monkeypatch.setattr(cache_files.os, "open", never)
    monkeypatch.setattr(cache_files.os, "stat", never)
    assert await found(files, "a", made) is made
    assert [await found(files, f"never {n}") for n in range(100)] == [None] * 100
    monkeypatch.undo()
    assert same(await found(files, "a"), made)
    running.cancel()


async def test_a_single_process_writes_what_is_asked_for_twice(place: Place) -> None:
    files = place.files(workers=1)
    made = entry(place.clock)
    files.put(key("a"), made, False)
    await done(files)
    assert place.size == 0
    for _ in range(3):
        assert await found(files, "a", made) is made
    await done(files)
    assert files.gauges()["cache_stored"] == 1
    again = entry(place.clock, "newer")
    files.put(key("a"), again, True)  # the older one is not to be found by a later process
    await done(files)
    assert place.size == 0


async def test_large_ones_are_read_in_a_thread(place: Place) -> None:
    one, other = place.files(), place.files()
    made = await place.store(one, "a", "x" * 1_000_000)
    assert isinstance(pending := other.get(key("a"), None), Awaitable)
    assert same(await pending, made)
    (place.folder / key("a").hex()).write_bytes(b"x" * 400_000)
    assert await found(other, "a") is None
    assert not (place.folder / key("a").hex()).exists()


async def test_a_large_one_of_another_process_is_a_hit_and_its_callers_wait_together(tmp_path: Path) -> None:
    rigs = [Rig(tmp_path / str(n), models=MODELS, routes={"r": {"to": "m", "cache": CACHE}}) for n in range(2)]
    place = Place(tmp_path)
    for rig in rigs:
        rig.cache._shared = place.files()
        rig.targets["alpha"].default = counted(rig)
    body = chat_body("x", "r", stream=True)
    rigs[0].targets["alpha"].default = lambda ask: [b'data: {"choices":[]}\n\n' * 20_000, b"data: [DONE]\n\n"]
    first = await rigs[0].ask(body)
    await done(place.opened[0])
    replies = await asyncio.gather(*[rigs[1].ask(body) for _ in range(20)])
    assert {one.call.cache for one in replies} == {"hit"}
    assert {one.raw for one in replies} == {first.raw}
    assert rigs[1].targets["alpha"].asked == []
    (place.folder / os.listdir(place.folder)[0]).write_bytes(b"x" * 300_000)
    rigs[1].memory.clear()
    replies = await asyncio.gather(*[rigs[1].ask(body) for _ in range(20)])
    assert [one.call.cache for one in replies] == ["miss"] + ["hit"] * 19, "what is torn is asked for once"
    for rig in rigs:
        rig.nothing_held()
        rig.journal.stop()
    for files in place.opened:
        await files.close()


async def test_once_a_refresh_was_answered_no_other_process_gives_what_it_had(tmp_path: Path) -> None:
    rigs = [Rig(tmp_path / str(n), models=MODELS, routes={"r": {"to": "m", "cache": CACHE}}) for n in range(2)]
    place = Place(tmp_path)
    for rig in rigs:
        rig.cache._shared = place.files()
    body = chat_body(model="r")
    await rigs[0].ask(body)
    await done(place.opened[0])
    assert await states(rigs[1], body, body) == ["hit", "hit"]
    await rigs[0].ask(body, {"x-mainstay-cache": "refresh"})
    assert await states(rigs[1], body) == ["miss"], "the new one is not written yet"
    for files in place.opened:
        await done(files)
    assert await states(rigs[0], body) == await states(rigs[1], body) == ["hit"]
    for rig in rigs:
        rig.nothing_held()
        rig.journal.stop()
    for files in place.opened:
        await files.close()


async def test_a_reply_does_not_wait_for_its_file(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models=MODELS, routes={"r": {"to": "m", "cache": CACHE}})
    place = Place(tmp_path)
    rig.cache._shared = files = place.files()
    seen: list[bool] = []
    handed = files._hand_over

    def handing() -> None:
        seen.append(rig.journal.waiting)
        handed()

    files._hand_over = handing  # type: ignore[method-assign]
    await rig.ask(chat_body(model="r"))
    assert seen == [], "not before the reply's end"
    await done(files)
    assert seen == [False], "and its last bytes had gone"
    assert await states(rig, chat_body(model="r")) == ["hit"]
    rig.journal.stop()
    await files.close()


async def test_a_key_whose_content_is_not_stored_is_answered_from_memory(tmp_path: Path) -> None:
    keys = {"k": {}, "private": {"content": False}}
    rig = Rig(tmp_path, models=MODELS, routes={"r": {"to": "m", "cache": CACHE}}, keys=keys)
    place = Place(tmp_path)
    rig.cache._shared = files = place.files()
    private = {"authorization": "Bearer ms-secret-private"}
    assert await states(rig, chat_body(model="r"), chat_body(model="r"), headers=private) == ["miss", "hit"]
    await done(files)
    assert os.listdir(place.folder) == []
    await rig.ask(chat_body("of the other", "r"))
    await done(files)
    (own,) = os.listdir(place.folder)
    await rig.ask(chat_body("of the other", "r"), {**private, "x-mainstay-cache": "refresh"})
    await done(files)
    assert os.listdir(place.folder) == [], f"{own} is older than what was refreshed"
    assert await states(rig, chat_body("of the other", "r")) == ["hit"]
    rig.journal.stop()
    await files.close()


# ---------------------------------------------------------------- time


async def test_it_expires_by_the_wall_clock(place: Place) -> None:
    one, other = place.files(), place.files()
    await place.store(one, "a")
    place.clock.advance(59.9)
    held = await found(other, "a")
    assert held is not None
    assert held.until - place.clock.monotonic() == pytest.approx(0.1)
    place.clock.advance(0.2)
    assert await found(other, "a") is None
    assert not (place.folder / key("a").hex()).exists()


async def test_a_clock_that_was_put_back_makes_nothing_live_longer(place: Place) -> None:
    files = place.files()
    await place.store(files, "a")
    place.clock.advance(-3600)
    assert await found(files, "a") is None


# ---------------------------------------------------------------- bounds


async def test_the_folder_stays_within_its_bytes(place: Place) -> None:
    """Whatever is written between sweeps, in whatever order."""
    limit, chance = 1 << 20, random.Random(1)
    writers = [place.files(workers=2, limit=limit) for _ in range(2)]
    for turn in range(400):
        place.clock.advance(0.01)
        await place.store(chance.choice(writers), turn, "x" * chance.choice((10, 5_000, 20_000)))
        assert place.size <= limit
        if cache_files.wanted(place.folder) and chance.random() < 0.3:
            assert sweep(place.folder, limit, place.clock.now()) <= limit * 3 // 4
    stored = sum(writer.gauges()["cache_stored"] for writer in writers)
    assert stored + sum(writer.gauges()["cache_not_stored"] for writer in writers) == 400
    assert stored > 200
    assert not any(writer.gauges()["cache_store_failing"] for writer in writers)


async def test_without_a_sweep_writing_ends(place: Place) -> None:
    """Control may be dead for long."""
    files = place.files(workers=1, limit=1 << 20)
    for turn in range(100):
        await place.store(files, turn, "x" * 3000)
    assert place.size == (1 << 20) // 8
    assert files.gauges()["cache_not_stored"] == 100 - 32
    assert cache_files.wanted(place.folder)
    sweep(place.folder, 1 << 20, place.clock.now())
    assert not cache_files.wanted(place.folder)
    await place.store(files, "after", "x")
    assert await found(files, "after") is not None


async def test_what_finds_no_room_leaves_nothing_older_behind(place: Place) -> None:
    one, other = place.files(limit=1 << 20), place.files(limit=1 << 20)
    await place.store(one, "a", "old")
    held = await found(other, "a")
    made = await place.store(one, "a", "x" * 100_000)
    assert await found(other, "a", held) is None
    assert await found(one, "a", made) is made, "its own process has it in memory"
    newer = await place.store(other, "a", "newer")
    assert same(await found(one, "a", made), newer)


async def test_a_disk_that_hangs_takes_no_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "_BACKLOG", 10_000)
    files = place.files()
    made = [entry(place.clock, "x" * 4000) for _ in range(10)]
    for number, one in enumerate(made):  # within one turn of the loop, so that nothing is written meanwhile
        files.put(key(number), one, renewed=False)
    assert files.gauges()["cache_not_stored"] == 8
    await done(files)
    assert [await found(files, number, one) is one for number, one in enumerate(made)] == [True] * 10


async def test_a_sweep_removes_what_has_expired_first_and_what_was_left_behind(place: Place) -> None:
    files = place.files()
    await place.store(files, "old")
    place.clock.advance(30)
    await place.store(files, "young")
    left = place.folder / ".gw_9.1"
    left.write_bytes(b"half")
    os.utime(left, (place.clock.now() - 61,) * 2)
    mine = place.folder / ".gw_9.2"
    mine.write_bytes(b"being written")
    os.utime(mine, (place.clock.now(),) * 2)
    place.clock.advance(32)
    os.utime(mine, (place.clock.now(),) * 2)
    assert sweep(place.folder, 1 << 20, place.clock.now()) == 2 * 4096
    names = {path.name for path in place.folder.iterdir()}
    assert names == {key("young").hex(), mine.name, cache_files.SWEPT}
    assert sweep(place.folder, 0, place.clock.now()) == 0
    assert sweep(place.folder / "absent", 0, 0) == 0


async def test_emptied_is_forgotten_by_memory_as_well(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "_POLL", 0.01)
    memory = Memory(1 << 20, place.clock)
    files = place.files(workers=1)
    running = asyncio.ensure_future(files.run(memory.clear))
    memory.put(key("a"), await place.store(files, "a"))
    assert cache_files.clear(place.folder) == 1
    await eventually(lambda: len(memory) == 0)
    assert await found(files, "a") is None
    running.cancel()


# ---------------------------------------------------------------- what may be wrong with a disk


async def test_what_is_on_the_way_when_the_process_ends_is_stored(place: Place) -> None:
    files = place.files()
    made = entry(place.clock)
    files.put(key("a"), made, renewed=False)
    await files.close()
    assert same(await found(place.files(), "a"), made)


@pytest.mark.parametrize("broken", ["open", "writev", "rename", "utime"])
async def test_trouble_is_told_once_and_is_over_when_it_is(
    place: Place, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = place.files(), place.files()
    await place.store(one, "a", "old")
    held = await found(other, "a")

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache_files.os, broken, fails)
        made = [await place.store(one, "a", "new"), await place.store(one, "b", "new")]
        assert one.gauges() == {"cache_store_failing": 1, "cache_stored": 1, "cache_not_stored": 2}
    assert await found(one, "a", made[0]) is made[0]
    assert await found(other, "a", held) is None, "the older one is gone all the same"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    await place.store(one, "c")
    assert one.gauges()["cache_store_failing"] == 0
    assert [path.name for path in place.folder.iterdir() if path.name.startswith(".")] == []


async def test_what_cannot_be_written_ends_no_thread(place: Place) -> None:
    files = place.files()
    odd = entry(place.clock)
    odd.frames = [Frame(None, (TextDelta("\ud800"), End()))]
    files.put(key("odd"), odd, renewed=False)
    made = await place.store(files, "a")
    assert same(await found(files, "a"), made)
    assert files.gauges()["cache_not_stored"] == 1
