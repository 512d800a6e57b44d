"""Artifacts, channels, changes, snapshots: what should happen, as immutable values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


def canonical(body: Any) -> bytes:
    """``body`` as JSON in one fixed form: keys sorted, no spaces, UTF-8, no NaN. Equal values have equal bytes."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(body: Any) -> str:
    """The content address of ``body``: the first 32 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical(body)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One immutable version of anything that shapes behaviour, addressed by its content."""

    kind: str
    name: str
    digest: str
    body: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    author: str = ""
    why: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Channel:
    """A mutable name for an artifact: ``kind/name@label`` points at digests, by share of traffic.

    ``split`` is a tuple of ``(digest, weight)``; ``shadow`` receives copies and never answers.
    """

    kind: str
    name: str
    label: str
    split: tuple[tuple[str, int], ...]
    shadow: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Who changed what from what to what, and why; ``hash`` chains it to the change before it."""

    seq: int
    at: float
    by: str
    why: str
    what: str  # such as channel:route/chat@live, key:support/support-web
    before: Any
    after: Any
    previous: str
    hash: str


def chained(seq: int, at: float, by: str, why: str, what: str, before: Any, after: Any, previous: str) -> Change:
    """A ``Change`` whose hash covers all its fields and the hash of the one before it."""
    content = [seq, at, by, why, what, before, after, previous]
    return Change(seq, at, by, why, what, before, after, previous, hashlib.sha256(canonical(content)).hexdigest())


class Put(NamedTuple):
    """What came of putting a team or key: ``details`` say what changed, without secrets.

    ``secret`` is that of a key for which one was made, to be printed once.
    """

    state: Literal["added", "changed", "unchanged"]
    details: tuple[str, ...] = ()
    secret: str | None = None
