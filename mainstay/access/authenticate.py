"""Secrets of keys: made, hashed, and found again in about a microsecond."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Mapping
from typing import Generic, TypeVar

PREFIX = "ms-"
"""What every secret that we make begins with, so that scanners for leaked secrets can know them."""

LONGEST = 1024
"""Characters of the longest secret that is looked at."""

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM, _CHECK = 32, 6

E = TypeVar("E")


def new_secret() -> str:
    """``ms-``, 32 random base62 characters (190 bits) and a checksum of 6."""
    body = "".join(secrets.choice(_BASE62) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def is_secret(text: str) -> bool:
    """Whether ``text`` is a secret that ``new_secret`` may have made; false for one that is mistyped or cut."""
    body = text[len(PREFIX) :]
    return text.startswith(PREFIX) and len(body) == _RANDOM + _CHECK and _checksum(body[:_RANDOM]) == body[_RANDOM:]


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        value, digit = divmod(value, 62)
        digits = _BASE62[digit] + digits
    return digits


def hash_secret(secret: str, pepper: str) -> str:
    """What is stored of a secret: BLAKE2b keyed with the installation's pepper, 64 hex digits.

    A secret of 190 random bits needs no slow hash. One that a person chose is protected by the pepper, which is not in
    the database.
    """
    return _keyed(pepper, secret).hexdigest()


def _keyed(pepper: str, secret: str) -> hashlib.blake2b:
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), key=_key(pepper), digest_size=32)


def _key(pepper: str) -> bytes:
    key = pepper.encode()
    return key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(key).digest()


def secret(headers: Mapping[str, str]) -> str:
    """The secret that the request shows; empty where it shows none."""
    shown = headers.get("authorization", "")
    if shown[:7].lower() == "bearer ":
        return shown[7:].strip()
    return headers.get("x-api-key", "").strip() or headers.get("api-key", "").strip()


class KeyRing(Generic[E]):
    """Finds what a secret opens. Immutable: a new Snapshot makes a new one.

    ``entries`` has, by the hash of the secret, what it opens and until when (seconds since the epoch, None for ever).

    There is nothing to time: a presented secret is first hashed with a key that the caller does not know, and the look-up
    compares hashes. How many of their first bytes agree says nothing about the secret, since without the pepper no
    caller can choose or predict the hash of what it presents.
    """

    __slots__ = ("_copy", "_entries")

    def __init__(self, entries: Mapping[str, tuple[E, float | None]], pepper: str) -> None:
        self._copy = hashlib.blake2b(key=_key(pepper), digest_size=32).copy
        self._entries = {
            bytes.fromhex(known): (entry, float("inf") if until is None else until)
            for known, (entry, until) in entries.items()
        }

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, secret: str, now: float) -> E | None:
        """What ``secret`` opens at ``now``; None for one that is unknown, expired or revoked."""
        if len(secret) > LONGEST:
            return None
        hashed = self._copy()
        hashed.update(secret.encode("utf-8", "surrogatepass"))
        found = self._entries.get(hashed.digest())
        if found is None or now >= found[1]:
            return None
        return found[0]
