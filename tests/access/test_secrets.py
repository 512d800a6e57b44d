"""The master key and what is sealed with it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mainstay.access.secrets import FILE, VARIABLE, Vault, master_key
from mainstay.core.errors import BadConfig


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    key = master_key(home, {})
    assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600
    assert master_key(home, {}) == key
    assert [path.name for path in home.iterdir()] == [FILE]
    assert master_key(tmp_path / "other", {}) != key


def test_the_environment_comes_first_and_must_be_long_enough(tmp_path: Path) -> None:
    assert master_key(tmp_path, {VARIABLE: "k" * 32}) == "k" * 32
    assert not (tmp_path / FILE).exists()
    with pytest.raises(BadConfig, match="at least 32"):
        master_key(tmp_path, {VARIABLE: "short"})


def test_a_key_that_others_can_read_or_that_is_cut_is_refused(tmp_path: Path) -> None:
    master_key(tmp_path, {})
    os.chmod(tmp_path / FILE, 0o644)
    with pytest.raises(BadConfig, match="chmod 600"):
        master_key(tmp_path, {})
    os.chmod(tmp_path / FILE, 0o600)
    (tmp_path / FILE).write_text("abc")
    with pytest.raises(BadConfig, match="restore the file"):
        master_key(tmp_path, {})


def test_two_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from mainstay.access.secrets import master_key; " + (
        "print(master_key(Path(sys.argv[1]), {}))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=60)[0].strip() for process in started}
    assert len(said) == 1
    assert said == {master_key(tmp_path, {})}


def test_what_is_sealed_can_be_opened_with_the_same_key_only() -> None:
    vault = Vault("k" * 40)
    for text in ("", "sk-secret", "ü" * 1_000):
        sealed = vault.seal(text)
        assert vault.unseal(sealed) == text
        assert vault.seal(text) == sealed  # so that a body keeps its digest
        assert text not in sealed or not text
    with pytest.raises(BadConfig, match="cannot be opened"):
        Vault("l" * 40).unseal(sealed)
    for broken in ("", "plain", sealed[:-4], sealed[:-6] + "AAAAA=", "sealed:1:", "sealed:1:!!!"):
        with pytest.raises(BadConfig, match="cannot be opened"):
            vault.unseal(broken)


def test_the_pepper_follows_from_the_master_key() -> None:
    assert Vault("k" * 40).pepper() == Vault("k" * 40).pepper()
    assert Vault("k" * 40).pepper() != Vault("l" * 40).pepper()


def test_a_gateways_imports_stay_small() -> None:
    code = (
        "import sys, mainstay.access.purse, mainstay.access.authenticate, mainstay.access.secrets, "
        "mainstay.gateway.link\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('sqlalchemy', 'cryptography', 'pydantic', 'fastapi', 'yaml', 'duckdb', 'typer')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
