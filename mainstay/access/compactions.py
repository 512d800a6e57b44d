"""Compacted conversations as callers carry them: encrypted, authenticated, and opened for their own team only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import Any

from mainstay.core.errors import Invalid

MARK = "mainstay-compaction-1."
"""What every one of them begins with."""

_NONCE = 12


class Compactions:
    """AES-256-GCM with a key for each team, derived from ``key`` (32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def close(self, team: str, summary: str) -> str:
        """``summary`` as a text that only this installation can read, and only for ``team``."""
        nonce = os.urandom(_NONCE)
        data = summary.encode("utf-8", "surrogatepass")
        sealed = nonce + self._cipher(team).encrypt(nonce, data, MARK.encode())
        return MARK + base64.urlsafe_b64encode(sealed).decode()

    def open(self, team: str, text: str) -> str | None:
        """The summary in ``text``; None where another provider made it.

        Raises ``Invalid`` for one of ours that is another team's, was altered, or is of another installation.
        """
        if not text.startswith(MARK):
            return None
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b64decode(text[len(MARK) :], altchars=b"-_", validate=True)
            data: bytes = self._cipher(team).decrypt(raw[:_NONCE], raw[_NONCE:], MARK.encode())
            return data.decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError, binascii.Error):
            raise Invalid(
                "a compaction item in the input cannot be opened: it was altered, or made for another team or by another "
                "installation; compact the conversation again",
                field="input",
                code="invalid_encrypted_content",
            ) from None

    def _cipher(self, team: str) -> Any:
        # Imported when first needed: a gateway that compacts nothing does not pay for it.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        name = team.encode("utf-8", "surrogatepass")
        return AESGCM(hashlib.blake2b(name, key=self._key, digest_size=32).digest())
