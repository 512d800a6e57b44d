"""Stored responses: taken out of the spool once, found by their team alone, continued, listed, forgotten."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mainstay.core.clock import FixedClock
from mainstay.core.errors import NotFound, TooLarge
from mainstay.core.ids import Ids
from mainstay.ledger.response_spool import ResponseSpool, StoredResponse, framed
from mainstay.ledger.responses import Responses
from mainstay.store.blobs import FolderBlobs
from mainstay.store.database import Database
from mainstay.store.responses import SqlResponses

IDS = Ids(FixedClock())
_numbers = itertools.count(1)


def message(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def stored(text: str, after: StoredResponse | None = None, **more: Any) -> StoredResponse:
    """A response to ``text``, which continues ``after``."""
    key, number = IDS.make("call_"), next(_numbers)
    output = [{**message("assistant", f"re: {text}"), "id": f"msg_{number}"}]
    given: dict[str, Any] = {
        "key": key,
        "team": "a",
        "id": f"resp_{number}",
        "at": 1000.0,
        "root": after.root if after is not None else key,
        "previous": after.key if after is not None else None,
        "response": b"",
        "input": msgspec.json.encode(text),
        **more,
    }
    given["response"] = given["response"] or msgspec.json.encode({"id": given["id"], "output": output})
    return StoredResponse(**given)


class Place:
    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder / "responses"
        self.blobs = FolderBlobs(folder / "blobs")
        self.database = database
        self.spool = ResponseSpool(self.folder, "gw_1")
        self.responses = self.opened()

    def opened(self, **more: Any) -> Responses:
        return Responses(self.folder, self.database, SqlResponses(), self.blobs, **more)

    async def texts(self, identifier: str, team: str = "a") -> list[str]:
        history = await self.responses.history(team, identifier)
        return [item["content"][0]["text"] for item in history.items]

    async def kept(self) -> int:
        return len(await self.blobs.list("responses"))


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
    yield Place(tmp_path, database)
    await database.close()


async def test_a_response_is_found_at_once(place: Place) -> None:
    one = stored("one")
    assert place.spool.put(one)
    assert await place.responses.response("a", one.id) == one.response
    assert not list(place.folder.iterdir())
    with pytest.raises(NotFound):
        await place.responses.response("b", one.id)
    for wrong in ("resp_unknown", "", "x" * 10_000, "../../etc"):
        with pytest.raises(NotFound):
            await place.responses.response("a", wrong)


async def test_a_thread_with_a_fork(place: Place) -> None:
    one = stored("one")
    two = stored("two", one)
    three, fork = stored("three", two), stored("fork", one)
    for response in (fork, three, two, one):  # in whatever order
        place.spool.put(response)
    assert await place.texts(three.id) == ["one", "re: one", "two", "re: two", "three", "re: three"]
    assert await place.texts(fork.id) == ["one", "re: one", "fork", "re: fork"]
    history = await place.responses.history("a", fork.id)
    assert (history.key, history.root) == (fork.key, one.key)


async def test_what_came_before_and_was_not_stored(place: Place) -> None:
    earlier = msgspec.json.encode([message("user", "zero"), message("assistant", "re: zero")])
    one = stored("one", earlier=earlier)
    place.spool.put(one)
    assert await place.texts(one.id) == ["zero", "re: zero", "one", "re: one"]
    items = await place.responses.input_items("a", one.id)
    assert [item["content"][0]["text"] for item in items] == ["zero", "re: zero", "one"]
    assert len({item["id"] for item in items}) == 3
    assert await place.responses.input_items("a", one.id) == items


async def test_an_upstream_that_gives_one_id_twice_makes_no_circle(place: Place) -> None:
    one = stored("one", id="resp_same")
    two = stored("two", one, id="resp_same")
    for response in (one, two):
        place.spool.put(response)
    assert await place.texts("resp_same") == ["one", "re: one", "two", "re: two"]
    await place.responses.delete("a", "resp_same")
    with pytest.raises(NotFound):
        await place.responses.response("a", "resp_same")


async def test_two_teams_may_have_the_same_id(place: Place) -> None:
    for team in ("a", "b"):
        place.spool.put(stored(f"of {team}", id="resp_same", team=team))
    for team in ("a", "b"):
        assert (await place.texts("resp_same", team))[0] == f"of {team}"
    await place.responses.delete("a", "resp_same")
    assert (await place.texts("resp_same", "b"))[0] == "of b"


async def test_deleted_is_deleted(place: Place) -> None:
    one = stored("one")
    two = stored("two", one)
    for response in (one, two):
        place.spool.put(response)
    with pytest.raises(NotFound):
        await place.responses.delete("b", one.id)
    await place.responses.delete("a", one.id)
    assert await place.kept() == 1
    with pytest.raises(NotFound):
        await place.responses.delete("a", one.id)
    with pytest.raises(NotFound, match="deleted"):
        await place.responses.history("a", two.id)


async def test_a_response_that_waits_is_deleted_too(place: Place) -> None:
    one = stored("one")
    place.spool.put(one)
    await place.responses.delete("a", one.id)
    assert await place.responses.collect() == 0
    assert await place.kept() == 0


async def test_killed_between_storing_and_removing_it_is_stored_once(place: Place) -> None:
    one = stored("one")
    place.spool.put(one)
    (path,) = place.folder.iterdir()
    data = path.read_bytes()
    assert await place.responses.collect() == 1
    path.write_bytes(data)
    again = place.opened()
    assert await again.collect() == 1
    assert await again.response("a", one.id) == one.response
    assert await again.sweep(2000.0) == 1


async def test_a_gateway_killed_while_it_writes(place: Place) -> None:
    one, two = stored("one"), stored("two")
    place.spool.put(one)
    place.spool.put(two)
    (path,) = place.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert await place.responses.collect() == 1
    with pytest.raises(NotFound):
        await place.responses.response("a", two.id)
    assert not list(place.folder.iterdir())


async def test_gateway_and_control_never_wait_for_each_other(place: Place) -> None:
    one, two, three, four = (stored(f"{n}") for n in range(4))
    place.spool.put(one)
    (path,) = place.folder.iterdir()
    with path.open("rb") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        place.spool.put(two)  # control is at the file
        assert len(list(place.folder.iterdir())) == 2
        assert await place.responses.collect() == 1  # a gateway is at the other
    place.spool.put(three)
    assert await place.responses.collect() == 2
    place.spool.put(four)  # the file that was open is gone
    assert await place.responses.collect() == 1
    for response in (one, two, three, four):
        assert await place.responses.response("a", response.id) == response.response


async def test_a_store_that_is_away_loses_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before, one = stored("before"), stored("one")
    place.spool.put(before)
    await place.responses.collect()
    place.spool.put(one)

    async def full(*_: Any, **__: Any) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(place.blobs, "put", full)
        with pytest.raises(OSError):
            await place.responses.collect()
        assert await place.responses.response("a", before.id) == before.response
        with pytest.raises(OSError):  # it may be among those that wait
            await place.responses.response("a", one.id)
    assert await place.responses.response("a", one.id) == one.response


async def test_what_is_no_response_is_left_out(place: Place) -> None:
    (place.folder / "junk").write_bytes(b"junk")
    (place.folder / "framed junk").write_bytes(framed(b"junk"))
    good = stored("good")
    place.spool.put(stored("x", response=b"not JSON"))
    place.spool.put(good)
    place.spool.put(stored("x", id="r" * 300))
    place.spool.put(stored("x", key="../../etc"))
    assert await place.responses.collect() == 1
    assert place.responses.unreadable == 4
    assert not list(place.folder.iterdir())
    assert await place.responses.response("a", good.id) == good.response


async def test_a_thread_is_kept_while_it_goes_on(place: Place) -> None:
    old = stored("old", at=100.0)
    young = stored("young", old, at=900.0)
    other = stored("other", at=100.0)
    for response in (old, young, other):
        place.spool.put(response)
    await place.responses.collect()
    assert await place.responses.sweep(500.0) == 1
    assert await place.texts(young.id) == ["old", "re: old", "young", "re: young"]
    with pytest.raises(NotFound):
        await place.responses.response("a", other.id)
    assert await place.responses.sweep(1000.0) == 2
    assert await place.kept() == 0


async def test_a_person_is_erased(place: Place) -> None:
    ada, bob = stored("by ada", user="ada"), stored("by bob", user="bob")
    for response in (ada, bob):
        place.spool.put(response)
    assert await place.responses.erase("ada") == 1
    with pytest.raises(NotFound):
        await place.responses.response("a", ada.id)
    assert await place.responses.response("a", bob.id) == bob.response
    assert await place.kept() == 1


async def test_a_conversation_has_a_limit(place: Place) -> None:
    small = place.opened(limit=2000)
    one = stored("x" * 600)
    two = stored("y" * 600, one)
    for response in (one, two):
        place.spool.put(response)
    assert (await small.history("a", one.id)).items
    with pytest.raises(TooLarge, match="shorter"):
        await small.history("a", two.id)


async def test_many_are_taken_in_at_once(place: Place) -> None:
    made = [stored(f"number {n}") for n in range(150)]
    for response in made:
        place.spool.put(response)
    assert await place.responses.collect() == 150
    assert await place.responses.response("a", made[77].id) == made[77].response


async def test_the_spool_is_bounded(place: Place) -> None:
    spool = ResponseSpool(place.folder, "gw_2", limit=3000, item_limit=2000)
    assert not spool.put(stored("x" * 3000))
    assert spool.put(stored("x" * 400))
    assert spool.put(stored("x" * 400))
    assert not spool.put(stored("x" * 400))
    assert (spool.written, spool.dropped) == (2, 2)
    assert await place.responses.collect() == 2
    assert spool.put(stored("x" * 400))  # what control took away makes room


async def test_a_long_absence_makes_many_files(place: Place) -> None:
    spool = ResponseSpool(place.folder, "gw_2", file_bytes=1000)
    made = [stored("x" * 400) for _ in range(5)]
    for response in made:
        assert spool.put(response)
    assert len(list(place.folder.iterdir())) == 5
    assert await place.responses.collect() == 5


def test_a_spool_that_cannot_be_written_drops_and_counts(tmp_path: Path) -> None:
    spool = ResponseSpool(tmp_path / "spool", "gw_1")
    (tmp_path / "spool").rmdir()
    assert not spool.put(stored("x"))
    assert spool.dropped == 1


async def test_a_disk_that_is_full_leaves_no_half(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (stored(f"{n}") for n in range(3))
    assert place.spool.put(one)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 20:
            return write(fd, data[:20])
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        assert not place.spool.put(two)
    assert place.spool.put(three)
    assert await place.responses.collect() == 2
