"""Secrets: their form, their hashes, and what opens what until when."""

from __future__ import annotations

import re

from mainstay.access.authenticate import KeyRing, hash_secret, is_secret, new_secret

PEPPER = "5f" * 32


def test_a_new_secret_has_the_known_form_and_a_checksum() -> None:
    made = {new_secret() for _ in range(50)}
    assert len(made) == 50
    for secret in made:
        assert re.fullmatch(r"ms-[0-9A-Za-z]{38}", secret)
        assert is_secret(secret)
        other = "0" if secret[10] != "0" else "1"
        assert not is_secret(secret[:10] + other + secret[11:])
        assert not is_secret(secret[:-1])
    assert not is_secret("sk-" + new_secret()[3:])


def test_hashes_depend_on_the_pepper() -> None:
    assert hash_secret("s", PEPPER) == hash_secret("s", PEPPER)
    assert hash_secret("s", PEPPER) != hash_secret("s", "60" * 32)
    assert hash_secret("s", "x" * 500) != hash_secret("s", "x" * 501)
    assert len(hash_secret("s", PEPPER)) == 64
    assert "s" * 8 not in hash_secret("s" * 8, PEPPER)


def test_a_ring_finds_what_a_secret_opens_until_it_expires() -> None:
    ring = KeyRing(
        {hash_secret("ever", PEPPER): ("A", None), hash_secret("soon", PEPPER): ("B", 100.0)},
        PEPPER,
    )
    assert len(ring) == 2
    assert ring.find("ever", 1e12) == "A"
    assert ring.find("soon", 99.9) == "B"
    assert ring.find("soon", 100.0) is None
    for wrong in ("", "eve", "ever ", "EVER", "é", "\udc80", "x" * 100_000):
        assert ring.find(wrong, 0.0) is None
