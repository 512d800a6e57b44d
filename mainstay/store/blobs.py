"""Content blobs: named bytes within a scope, written whole or not at all. The port, and its folder adapter."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from mainstay.core.errors import Invalid

T = TypeVar("T")

_PART = re.compile(r"[A-Za-z0-9_@=+-][A-Za-z0-9._@=+-]{0,199}", re.ASCII)
_HIDDEN = ".writing"
_ABANDONED_SECONDS = 3600.0
_TRIES = 100


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob: its name, its size in bytes, and when it was written, in seconds since the epoch."""

    name: str
    size: int
    at: float


class Blobs(Protocol):
    """Named bytes. ``scope`` parts what belongs apart (a tenant, a purpose); no method reaches over it.

    Scopes and names are one to eight parts of letters, digits and ``._@=+-``, joined by slashes, no part beginning
    with a dot; all methods raise ``Invalid`` for others, and ``OSError`` when the storage fails.
    """

    async def put(self, scope: str, name: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """Keep ``data`` under ``name``, durably and whole; False if it was there and was to be left alone."""
        ...

    async def get(self, scope: str, name: str) -> bytes | None:
        """The bytes of ``name``; None if there is no such blob."""
        ...

    async def stat(self, scope: str, name: str) -> BlobInfo | None:
        """Size and time of ``name``; None if there is no such blob."""
        ...

    async def list(self, scope: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[BlobInfo]:
        """The blobs whose names begin with ``prefix`` and sort behind ``after``, by name, at most ``limit``."""
        ...

    async def delete(self, scope: str, name: str) -> bool:
        """Delete ``name``; whether it was there."""
        ...


class FolderBlobs:
    """Blobs as files below ``root``, which belongs to this adapter alone.

    A blob is written beside, synced and renamed, so that a reader sees the old bytes or the new ones, also after
    the power went. Links within the folder are not followed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._writing = root / _HIDDEN
        self._writing.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._real = os.path.realpath(root)
        self._clear()

    async def put(self, scope: str, name: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        """See ``Blobs``."""
        return await asyncio.to_thread(self._put, self._path(scope, name), data, only_if_absent)

    async def get(self, scope: str, name: str) -> bytes | None:
        """See ``Blobs``."""
        return await asyncio.to_thread(self._read, self._path(scope, name), _all)

    async def stat(self, scope: str, name: str) -> BlobInfo | None:
        """See ``Blobs``."""
        found = await asyncio.to_thread(self._read, self._path(scope, name), os.fstat)
        return None if found is None else BlobInfo(name, found.st_size, found.st_mtime)

    async def list(self, scope: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[BlobInfo]:
        """See ``Blobs``."""
        folder = self._path(scope)
        if prefix:
            _parts(prefix.removesuffix("/"), "prefix")
        return await asyncio.to_thread(self._list, folder, prefix, after, limit)

    async def delete(self, scope: str, name: str) -> bool:
        """See ``Blobs``."""
        return await asyncio.to_thread(self._delete, self._path(scope), self._path(scope, name))

    def _path(self, scope: str, name: str | None = None) -> Path:
        # A scope ends in a plus, which no part of a name does: scope "a" and name "b/c" never meet scope "a/b".
        parts = _parts(scope, "scope")
        if name is None:
            return self._root.joinpath(*parts[:-1], parts[-1] + "+")
        return self._root.joinpath(*parts[:-1], parts[-1] + "+", *_parts(name, "name"))

    def _inside(self, folder: Path) -> bool:
        real = os.path.realpath(folder)
        return real == self._real + str(folder)[len(str(self._root)) :]

    def _put(self, path: Path, data: bytes, only_if_absent: bool) -> bool:
        if not self._inside(path.parent):
            raise PermissionError(f"a link leads out of the blob folder at {path.parent}")
        hidden = self._writing / secrets.token_hex(16)
        try:
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            for again in range(_TRIES, -1, -1):
                try:
                    _placed(hidden, path, only_if_absent)
                    break
                except FileNotFoundError:  # the last blob beside it was deleted just now, and the folder with it
                    if not again:
                        raise
            return True
        except FileExistsError:
            if not only_if_absent:
                raise
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                hidden.unlink()

    def _read(self, path: Path, what: Callable[[int], T]) -> T | None:
        if not self._inside(path.parent):
            return None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link
                return None
            raise
        try:
            return None if os.path.isdir(fd) else what(fd)
        finally:
            os.close(fd)

    def _list(self, folder: Path, prefix: str, after: str, limit: int) -> list[BlobInfo]:
        if not self._inside(folder):
            return []
        # Of a large scope only the smallest ``limit`` names are held at a time.
        names = (name for name in _walk(folder, "", prefix) if name > after)
        found: list[BlobInfo] = []
        for name in heapq.nsmallest(limit, names):
            with contextlib.suppress(FileNotFoundError):
                status = (folder / name).lstat()
                found.append(BlobInfo(name, status.st_size, status.st_mtime))
        return found

    def _delete(self, folder: Path, path: Path) -> bool:
        if not self._inside(path.parent):
            return False
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            if not path.exists() or path.is_dir():
                return False
            raise
        for parent in path.parents:  # empty folders go with their last blob
            if parent == folder.parent:
                break
            try:
                parent.rmdir()
            except OSError:
                break
        return True

    def _clear(self) -> None:
        # What a killed process left half written; others may be writing at this moment.
        before = time.time() - _ABANDONED_SECONDS
        with os.scandir(self._writing) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)


def _parts(name: str, what: str) -> list[str]:
    parts = name.split("/")
    if len(parts) > 8 or not all(_PART.fullmatch(part) and not part.endswith("+") for part in parts):
        raise Invalid(
            f"{name[:80]!r} is no {what}: write one to eight parts of letters, digits and . _ @ = + -, joined by "
            "slashes, no part beginning with a dot or ending in a plus",
            field=what,
        )
    return parts


def _walk(folder: Path, inner: str, prefix: str) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            name = f"{inner}{entry.name}"
            if entry.name.startswith(".") or entry.name.endswith("+"):
                continue  # not ours, or a scope within this scope's folder
            if entry.is_dir(follow_symlinks=False):
                below = f"{name}/"
                if below.startswith(prefix) or prefix.startswith(below):
                    yield from _walk(folder / entry.name, below, prefix)
            elif entry.is_file(follow_symlinks=False) and name.startswith(prefix):
                yield name


def _all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _placed(hidden: Path, path: Path, only_if_absent: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as error:
        if path.parent.exists():
            raise NotADirectoryError(f"{path.parent.name!r} is a blob, and cannot hold others") from error
        raise FileNotFoundError(path.parent) from error
    if only_if_absent:
        os.link(hidden, path, follow_symlinks=False)
    else:
        os.replace(hidden, path)
    with contextlib.suppress(FileNotFoundError):
        _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
