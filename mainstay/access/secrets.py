"""The master key of an installation, and what is sealed with it: providers' keys, and the pepper of key hashes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainstay.core.errors import BadConfig

FILE = "secret.key"
"""The master key's file in the home folder."""

VARIABLE = "MAINSTAY_SECRET_KEY"
"""The environment variable that has the master key instead, where several machines share one database."""

MARK = "sealed:1:"
"""What every sealed text begins with."""

SHORTEST = 32
"""Characters of a master key, at least."""

_NONCE = 12


def master_key(home: Path, environment: Mapping[str, str]) -> str:
    """The master key: from the environment, else from the home folder, where the first start makes one (mode 0600).

    Raises ``BadConfig`` for a key that is too short, or a file that others can read or nobody.
    """
    given = environment.get(VARIABLE)
    if given:
        if len(given) < SHORTEST:
            raise BadConfig([f"{VARIABLE} has {len(given)} characters; use at least {SHORTEST} random ones"])
        return given
    path = home / FILE
    if not path.exists():
        _make(path)
    try:
        if path.stat().st_mode & 0o077:
            raise BadConfig([f"{path}: others may read the master key; run chmod 600 on it"])
        key = path.read_text().strip()
    except OSError as error:
        raise BadConfig([f"{path}: the master key cannot be read: {error.strerror}"]) from None
    if len(key) < SHORTEST:
        raise BadConfig([f"{path}: the master key is incomplete; restore the file from a backup"])
    return key


def _make(path: Path) -> None:
    """Write a new key beside ``path`` and link it there whole: of two processes that do this at once, one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(draft)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Vault:
    """Seals and opens short texts with AES-256-GCM.

    Equal texts have equal seals, so that a sealed body keeps its digest: the nonce is a keyed hash of the text. That
    tells a reader of the database which secrets are equal, and nothing else.
    """

    def __init__(self, master: str) -> None:
        self._master = master.encode()
        self._nonce_key = self._derived(b"nonce")
        self._cipher: Any = None

    def pepper(self) -> str:
        """The key of key hashes, 64 hex digits; it follows from the master key and is stored nowhere in the clear."""
        return self._derived(b"pepper").hex()

    def compaction_key(self) -> bytes:
        """The key of compacted conversations, which callers keep for us: 32 bytes that follow from the master key."""
        return self._derived(b"compaction")

    def cache_key(self) -> bytes:
        """The key of cached answers in a server that others may use too: 32 bytes that follow from the master key."""
        return self._derived(b"cache")

    def seal(self, text: str) -> str:
        """``text`` made unreadable."""
        data = text.encode("utf-8", "surrogatepass")
        nonce = hashlib.blake2b(data, key=self._nonce_key, digest_size=_NONCE).digest()
        return MARK + base64.urlsafe_b64encode(nonce + self._aes().encrypt(nonce, data, MARK.encode())).decode()

    def unseal(self, sealed: str) -> str:
        """The text in ``sealed``. Raises ``BadConfig`` if it was sealed with another master key, or altered."""
        from cryptography.exceptions import InvalidTag

        try:
            if not sealed.startswith(MARK):
                raise ValueError
            raw = base64.b64decode(sealed[len(MARK) :], altchars=b"-_", validate=True)
            data: bytes = self._aes().decrypt(raw[:_NONCE], raw[_NONCE:], MARK.encode())
            return data.decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError, binascii.Error):
            raise BadConfig(
                [f"a stored secret cannot be opened: restore the {FILE} or {VARIABLE} under which it was stored"]
            ) from None

    def _aes(self) -> Any:
        if self._cipher is None:
            # Imported when first needed: a gateway without sealed keys does not pay for it.
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(self._derived(b"seal"))
        return self._cipher

    def _derived(self, purpose: bytes) -> bytes:
        key = hashlib.blake2b(self._master, digest_size=64).digest()
        return hashlib.blake2b(key=key, person=purpose, digest_size=32).digest()
