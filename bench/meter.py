"""Reads what processes use from /proc: processor time, resident memory, children."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


def cpu(pids: Iterable[int]) -> float:
    """Seconds of processor time that these processes have used, all their threads, to the nanosecond."""
    total = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total / 1e9


class Memory(NamedTuple):
    """Bytes: resident, of those the process's own share (pages that several hold are divided), and the most it ever had."""

    rss: int
    pss: int
    peak: int


def memory(pid: int) -> Memory:
    """What a process holds now."""
    status = _fields(f"/proc/{pid}/status")
    return Memory(status["VmRSS"], _fields(f"/proc/{pid}/smaps_rollup")["Pss"], status["VmHWM"])


def _fields(path: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that still run."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        found += [int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """``pid`` and everything below it."""
    found = [pid]
    for child in children(pid):
        found += descendants(child)
    return found


def command(pid: int) -> list[str]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def machine() -> dict[str, str]:
    """The machine in words."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    total = _fields("/proc/meminfo")["MemTotal"]
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "memory": f"{total / 2**30:.1f} GiB",
        "system": f"{os.uname().sysname} {'.'.join(os.uname().release.split('.')[:2])}",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
    }
