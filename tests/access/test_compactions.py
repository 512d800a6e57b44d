"""Compacted conversations open for their own team, on their own installation, and not otherwise."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.access.compactions import MARK, Compactions
from mainstay.access.secrets import Vault
from mainstay.core.errors import Invalid

OURS = Compactions(Vault("a" * 40).compaction_key())
TEXTS = st.text(st.characters(), max_size=200)


@given(TEXTS, TEXTS)
def test_what_was_closed_opens(team: str, summary: str) -> None:
    closed = OURS.close(team, summary)
    assert closed.startswith(MARK)
    assert closed.isascii()
    assert OURS.open(team, closed) == summary
    assert closed != OURS.close(team, summary)


@given(TEXTS, TEXTS, TEXTS)
def test_another_team_opens_nothing(team: str, other: str, summary: str) -> None:
    if team != other:
        with pytest.raises(Invalid) as refused:
            OURS.open(other, OURS.close(team, summary))
        assert refused.value.code == "invalid_encrypted_content"


CLOSED = OURS.close("team", "the summary")
SEALED = base64.urlsafe_b64decode(CLOSED[len(MARK) :])


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_what_was_altered_does_not_open(at: int, change: int) -> None:
    altered = bytearray(SEALED)
    altered[at] ^= change
    with pytest.raises(Invalid):
        OURS.open("team", MARK + base64.urlsafe_b64encode(altered).decode())


@pytest.mark.parametrize(
    "text",
    ["", "*", "AAAA", CLOSED[len(MARK) : -8], CLOSED[len(MARK) :] + "AAAA"],
    ids=["empty", "odd", "short", "cut", "lengthened"],
)
def test_what_was_cut_or_lengthened_does_not_open(text: str) -> None:
    with pytest.raises(Invalid):
        OURS.open("team", MARK + text)


def test_another_installation_opens_nothing() -> None:
    with pytest.raises(Invalid):
        Compactions(Vault("b" * 40).compaction_key()).open("team", OURS.close("team", "x"))


def test_what_others_made_is_left_to_them() -> None:
    assert OURS.open("team", "gAAAAABo") is None


def test_the_key_is_neither_the_pepper_nor_a_constant() -> None:
    vault = Vault("a" * 40)
    assert vault.compaction_key() == Vault("a" * 40).compaction_key()
    assert vault.compaction_key().hex() != vault.pepper()
