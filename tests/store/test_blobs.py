"""Blobs in a folder: whole or not at all, never outside their scope."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.store.blobs import Blobs, FolderBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "root")


async def test_what_was_put_is_got_and_replaced_and_deleted(blobs: Blobs) -> None:
    assert await blobs.get("team/a", "x/y.bin") is None
    assert await blobs.put("team/a", "x/y.bin", b"\x00one")
    assert await blobs.get("team/a", "x/y.bin") == b"\x00one"
    assert await blobs.put("team/a", "x/y.bin", b"two")
    assert await blobs.get("team/a", "x/y.bin") == b"two"
    assert not await blobs.put("team/a", "x/y.bin", b"three", only_if_absent=True)
    assert await blobs.get("team/a", "x/y.bin") == b"two"
    info = await blobs.stat("team/a", "x/y.bin")
    assert info is not None
    assert (info.name, info.size) == ("x/y.bin", 3)
    assert abs(info.at - time.time()) < 60
    assert await blobs.delete("team/a", "x/y.bin")
    assert not await blobs.delete("team/a", "x/y.bin")
    assert await blobs.stat("team/a", "x/y.bin") is None
    assert await blobs.put("team/a", "x/y.bin", b"", only_if_absent=True)
    assert await blobs.get("team/a", "x/y.bin") == b""


async def test_scopes_do_not_meet(blobs: Blobs) -> None:
    await blobs.put("a", "b/c", b"1")
    await blobs.put("a/b", "c", b"2")
    await blobs.put("a/b", "d", b"3")
    assert [blob.name for blob in await blobs.list("a")] == ["b/c"]
    assert [blob.name for blob in await blobs.list("a/b")] == ["c", "d"]
    assert await blobs.get("a", "b/d") is None
    assert await blobs.get("a", "b") is None
    assert await blobs.list("b") == []


async def test_lists_are_in_order_and_go_on_after_a_name(blobs: Blobs) -> None:
    names = [f"{day}/{number:02d}" for day in ("d1", "d2") for number in range(10)] + ["d10", "zz-top"]
    for name in reversed(names):
        await blobs.put("s", name, name.encode())
    names.sort()
    found: list[str] = []
    while page := await blobs.list("s", after=found[-1] if found else "", limit=7):
        assert len(page) <= 7
        found += [blob.name for blob in page]
    assert found == names
    assert [blob.name for blob in await blobs.list("s", "d1/")] == [f"d1/{n:02d}" for n in range(10)]
    assert [blob.name for blob in await blobs.list("s", "d1")] == [*(f"d1/{n:02d}" for n in range(10)), "d10"]
    assert [blob.name for blob in await blobs.list("s", "d2/0", after="d2/07")] == ["d2/08", "d2/09"]
    assert await blobs.list("s", "none") == []


BAD = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "a/../b",
    ".hidden",
    "a/.b",
    "a\\b",
    "a\0",
    "a b",
    "ä",
    "a+",
    "a+/b",
    "x" * 201,
    "/".join("abcdefghi"),
    "~",
    "%2e%2e",
    "a\n",
]


@pytest.mark.parametrize("name", BAD)
async def test_names_that_could_lead_astray_are_refused(blobs: Blobs, tmp_path: Path, name: str) -> None:
    for work in (
        blobs.put("s", name, b"x"),
        blobs.put(name, "n", b"x"),
        blobs.get("s", name),
        blobs.get(name, "n"),
        blobs.stat("s", name),
        blobs.delete("s", name),
        blobs.list(name),
    ):
        with pytest.raises(Invalid):
            await work
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@given(st.text(alphabet=st.sampled_from("ab./\\~%\0+-"), max_size=12))
def test_no_name_leads_out_of_its_scope(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("blobs") / "root"
    blobs = FolderBlobs(root)
    try:
        asyncio.run(blobs.put("s", name, b"x"))
    except Invalid:
        return
    files = [path for path in root.parent.rglob("*") if path.is_file()]
    assert files == [root / "s+" / name]


async def test_links_are_not_followed(blobs: Blobs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    await blobs.put("s", "kept", b"x")
    scope = tmp_path / "root" / "s+"
    (scope / "file").symlink_to(outside / "secret")
    (scope / "folder").symlink_to(outside)
    assert await blobs.get("s", "file") is None
    assert await blobs.get("s", "folder/secret") is None
    assert await blobs.stat("s", "folder/secret") is None
    assert not await blobs.delete("s", "folder/secret")
    assert [blob.name for blob in await blobs.list("s")] == ["kept"]
    with pytest.raises(PermissionError):
        await blobs.put("s", "folder/new", b"x")
    await blobs.put("s", "file", b"mine")  # replaces the link, not what it points to
    assert (outside / "secret").read_bytes() == b"secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_a_write_that_fails_leaves_the_old_bytes_and_no_rest(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put("s", "n", b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await blobs.put("s", "n", b"new")
    monkeypatch.undo()
    assert await blobs.get("s", "n") == b"old"
    assert list((tmp_path / "root" / ".writing").iterdir()) == []


async def test_of_many_at_once_with_only_if_absent_one_wins(blobs: Blobs) -> None:
    won = await asyncio.gather(*(blobs.put("s", "n/x", b"%d" % n, only_if_absent=True) for n in range(12)))
    assert sum(won) == 1
    assert await blobs.get("s", "n/x") == b"%d" % won.index(True)


async def test_puts_and_deletes_beside_each_other_do_not_fail(blobs: Blobs) -> None:
    async def churn(name: str) -> None:
        for _ in range(30):
            await blobs.put("s", f"deep/er/{name}", b"x")
            await blobs.delete("s", f"deep/er/{name}")

    await asyncio.gather(*(churn(f"n{n}") for n in range(6)))
    assert await blobs.list("s") == []


async def test_a_name_below_a_blob_is_refused(blobs: Blobs) -> None:
    await blobs.put("s", "a", b"x")
    for only_if_absent in (False, True):
        with pytest.raises(NotADirectoryError):
            await blobs.put("s", "a/b", b"x", only_if_absent=only_if_absent)
    assert await blobs.get("s", "a/b") is None
    assert await blobs.get("s", "a") == b"x"


async def test_what_a_killed_process_left_is_removed_after_a_while(tmp_path: Path) -> None:
    FolderBlobs(tmp_path / "root")
    old, new = tmp_path / "root" / ".writing" / "old", tmp_path / "root" / ".writing" / "new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    FolderBlobs(tmp_path / "root")
    assert not old.exists()
    assert new.exists()
