"""What is missing or unhealthy in a home, and what to do about it."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass
from typing import Any

from mainstay.serve import ends, running
from mainstay.settings import Settings

_ROOM = 1024**3
_RECENT = 600.0
"""Seconds for which a process that ended by itself is spoken of."""


@dataclass
class Finding:
    """One thing that was looked at; ``next`` is what to do where it is not good."""

    good: bool
    what: str
    next: str = ""


def examine(settings: Settings, health: dict[str, Any]) -> list[Finding]:
    """Look at the home and at what control says of itself."""
    findings = [*_serving(settings), _disk(settings), _database(health), *_ledger(health["ledger"])]
    home = shlex.quote(str(settings.home))
    if not health["models"]:
        step = f"write a mainstay.yaml and run: mainstay apply mainstay.yaml --home {home}"
        findings.append(Finding(False, "no model is configured", step))
    elif not health["keys"]:
        step = f"mainstay keys create --team TEAM --name NAME --home {home}"
        findings.append(Finding(False, "there is no key, so nobody can call", step))
    error = health["config_error"]
    if error:
        findings.append(
            Finding(False, f"the bundle has mistakes:\n{error}", "correct the file; it is read again by itself")
        )
    findings += _gateways(health)
    return findings


def unreachable(settings: Settings, why: str) -> list[Finding]:
    """What can be said where control cannot be asked."""
    try:
        findings = [*_serving(settings), _disk(settings)]
    except OSError:
        findings = []
    return [*findings, Finding(False, why, "mend that first, then run doctor again")]


def _serving(settings: Settings) -> list[Finding]:
    if not running(settings.run):
        step = f"mainstay serve --home {shlex.quote(str(settings.home))}"
        return [Finding(False, f"nothing is serving from {settings.home}", step)]
    findings = [Finding(True, f"serving from {settings.home}")]
    now = time.time()
    for name, one in sorted(ends(settings.run).items()):
        ago = max(0.0, now - one["at"])
        times = "once" if one["times"] == 1 else f"{one['times']} times"
        if ago < _RECENT:
            what = f"{name} has ended by itself {times}, the last time {ago:.0f} s ago ({one['how']})"
            findings.append(Finding(False, what, "look at what it wrote to the standard error of mainstay serve"))
    return findings


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.home).free
    text = f"{free / 1024**3:.1f} GiB free where {settings.home} is"
    return Finding(free > _ROOM, text, "" if free > _ROOM else "make room: below 1 GiB, calls may soon be refused")


def _database(health: dict[str, Any]) -> Finding:
    good = health["database"] == "ok"
    return Finding(
        good, f"database: {health['database']}", "" if good else "check that it runs and MAINSTAY_DATABASE is right"
    )


def _ledger(ledger: dict[str, Any]) -> list[Finding]:
    findings = [
        Finding(
            ledger["lag_seconds"] < 10,
            f"the ledger is {ledger['lag_seconds']:.1f} s behind; stored {ledger['stored']}, dropped {ledger['dropped']}",
            ""
            if ledger["lag_seconds"] < 10
            else "look at the control process's log: is the disk or the database slow?",
        )
    ]
    if ledger["error"]:
        findings.append(Finding(False, f"the journals cannot be taken in: {ledger['error']}", "make room on the disk"))
    if ledger["lost_segments"]:
        findings.append(
            Finding(
                False,
                f"{ledger['lost_segments']} ledger segments are missing or damaged",
                "restore ledger/ from a backup",
            )
        )
    return findings


def _gateways(health: dict[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    for gateway in health["gateways"]:
        name = f"gateway {gateway['pid']}"
        if not gateway["current"]:
            findings.append(
                Finding(False, f"{name} answers under an old snapshot", "look at its log; restart it if it stays so")
            )
        if gateway["gauges"].get("journal_full"):
            findings.append(Finding(False, f"{name} cannot write its journal", "make room on the disk"))
        for target, state in gateway["breakers"].items():
            if state != "closed":
                findings.append(
                    Finding(
                        False,
                        f"{name}: {target} is failing ({state})",
                        f"mainstay calls 'outcome!=ok' shows why {target} fails",
                    )
                )
        how = (
            "compiled"
            if gateway["gauges"].get("compiled")
            else "interpreted: install with a C compiler for half the cost"
        )
        findings.append(Finding(True, f"{name} is connected ({how})"))
    return findings
