"""Content waits in a bounded spool, is stored apart, and is found again by its call."""

from __future__ import annotations

from pathlib import Path

from mainstay.core.ids import Ids
from mainstay.ledger.content import ContentStore
from mainstay.ledger.spool import Content, ContentSpool, reference
from mainstay.store.blobs import FolderBlobs

CALL = Ids().make("call_")


async def test_content_goes_from_the_spool_to_the_store_and_is_found_by_its_call(tmp_path: Path) -> None:
    spool, store = ContentSpool(tmp_path / "gw"), ContentStore(FolderBlobs(tmp_path / "blobs"))
    content = Content(CALL, 5, b"\x00\xff" * 10_000, b"reply", "multipart/form-data", "audio/mpeg")
    assert spool.put(content) == reference(CALL)
    assert await store.get(CALL) is None
    assert await store.collect(tmp_path / "gw") == 1
    assert await store.collect(tmp_path / "gw") == 0
    assert await store.get(CALL) == content
    assert list((tmp_path / "gw" / "content").iterdir()) == []
    assert await store.erase([CALL, Ids().make("call_")]) == 1
    assert await store.get(CALL) is None


async def test_the_spool_is_bounded_until_control_collects(tmp_path: Path) -> None:
    ids = Ids()
    spool, store = (
        ContentSpool(tmp_path / "gw", limit=5000, item_limit=3000),
        ContentStore(FolderBlobs(tmp_path / "blobs")),
    )
    kept = [spool.put(Content(ids.make("call_"), 1, b"x" * 1000, b"")) for _ in range(10)]
    assert sum(one is not None for one in kept) == 4
    assert spool.dropped == 6
    assert spool.put(Content(ids.make("call_"), 1, b"x" * 4000, b"")) is None
    assert await store.collect(tmp_path / "gw") == 4
    assert spool.put(Content(ids.make("call_"), 1, b"x" * 1000, b"")) is not None


async def test_what_is_no_content_is_removed_and_counted(tmp_path: Path) -> None:
    ContentSpool(tmp_path / "gw")
    (tmp_path / "gw" / "content" / CALL).write_bytes(b"nonsense")
    (tmp_path / "gw" / "content" / "no call").write_bytes(b"nonsense")
    store = ContentStore(FolderBlobs(tmp_path / "blobs"))
    assert await store.collect(tmp_path / "gw") == 2
    assert store.unreadable == 2
    assert list((tmp_path / "gw" / "content").iterdir()) == []


async def test_an_id_that_is_none_has_no_content(tmp_path: Path) -> None:
    store = ContentStore(FolderBlobs(tmp_path / "blobs"))
    for call in ("", "../../etc/passwd", "call_/../x", "call_uuuuuuuuuuuuuuuuuuuuuuuuuu", "x" * 500, "çall"):
        assert await store.get(call) is None
        assert await store.erase([call]) == 0


def test_a_disk_that_takes_nothing_drops_and_counts(tmp_path: Path) -> None:
    spool = ContentSpool(tmp_path / "gw")
    (tmp_path / "gw" / "content").rmdir()
    assert spool.put(Content(CALL, 1, b"q", b"a")) is None
    assert spool.dropped == 1
