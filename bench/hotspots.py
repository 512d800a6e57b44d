"""Where a gateway's own time goes under load: its functions by self time, sampled from outside by py-spy.

``python -m bench.hotspots [--only NAME] [--seconds 8]`` needs nginx, wrk and py-spy (`pip install py-spy`), and says so
where one is missing. Sampling takes nothing from the process but a moment's halt per sample; a profiler inside it
would make calls of small functions look dear. Samples are of time passed, not of processor time: on a busy machine a
write looks dearer than it is, since the process that it wakes may take the core.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import cases, servers
from bench.cases import CASES, Case, Size
from bench.servers import Server


def py_spy() -> str | None:
    """The program: beside this Python, or anywhere on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def sampled(program: str, pid: int, seconds: float, native: bool) -> list[tuple[tuple[str, ...], int]]:
    """The stacks that were seen, outermost first, and how often. Raises ``RuntimeError`` where it is not allowed to look."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "stacks")
        command = [program, "record", "--pid", str(pid), "--duration", str(max(1, int(seconds))), "--rate", "500"]
        command += ["--format", "raw", "--output", str(output), "--nonblocking", "--function"]
        done = subprocess.run([*command, *(["--native"] if native else [])], capture_output=True, text=True)
        if done.returncode or not output.exists():
            raise RuntimeError(f"py-spy could not look into the process: {done.stderr.strip()[-300:]}")
        found: list[tuple[tuple[str, ...], int]] = []
        for line in output.read_text().split("\n"):
            stack, _, count = line.rpartition(" ")
            if count.isdigit():  # with threads that come and go, a name may be unreadable
                found.append((tuple(stack.split(";")), int(count)))
    return found


def under_load(case: Case, server: Server, size: Size, stop: threading.Event) -> int:
    """Load until ``stop``; how many requests, or events, there were."""
    count = 0
    while not stop.is_set():
        if case.stream:
            cases.generate(cases.spec_of(case, server, size))
            count += size.streams * size.events
        else:
            count += cases.wrk(case, server, size, size.seconds)[0]
    return count


def table(stacks: list[tuple[tuple[str, ...], int]], micros: float, most: int) -> str:
    """Functions by self time, in microseconds of a request or event."""
    own: collections.Counter[str] = collections.Counter()
    whole: collections.Counter[str] = collections.Counter()
    for stack, count in stacks:
        own[stack[-1]] += count
        for name in set(stack):
            whole[name] += count
    total = sum(own.values()) or 1
    lines = ["| function | self, % | self, µs | with what it calls, µs |", "|---|---:|---:|---:|"]
    for name, count in own.most_common(most):
        share = count / total
        lines.append(f"| {name} | {share * 100:.1f} | {share * micros:.2f} | {whole[name] / total * micros:.2f} |")
    return "\n".join(lines)


def profile(case: Case, program: str, seconds: float, native: bool, most: int) -> str:
    """Start everything, load it, sample it; the table."""
    size = Size(seconds=1.0)
    with contextlib.ExitStack() as stack:
        if case.stream:
            upstream = stack.enter_context(servers.stream_upstream(size.events, 0.0 if case.flood else size.gap))
        else:
            upstream = stack.enter_context(servers.plain_upstream())
        server = stack.enter_context(servers.mainstay(upstream.port))
        cases.measure(case, server, size, warm=True)
        clean = cases.measure(case, server, Size(settle=False), warm=False)
        stop = threading.Event()
        load = threading.Thread(target=under_load, args=(case, server, size, stop))
        load.start()
        try:
            time.sleep(0.5)
            stacks = sampled(program, server.serving[0], seconds, native)
        finally:
            stop.set()
            load.join()
    unit = "event" if case.stream else "request"
    return f"{case.name}: {clean.micros:.1f} µs per {unit} when nobody looks\n\n{table(stacks, clean.micros, most)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hotspots", description=__doc__)
    parser.add_argument("--only", default="plain, 200 bytes, everything on", help="the case, or a part of its name")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--most", type=int, default=45, help="rows")
    parser.add_argument("--native", action="store_true", help="functions in C as well")
    given = parser.parse_args()
    program = py_spy()
    missing = [name for name, found in (("wrk", shutil.which("wrk")), ("nginx", servers.nginx_program())) if not found]
    missing += [] if program else ["py-spy"]
    if missing or program is None:
        print(f"left out: {', '.join(missing)} is not installed")
        return 0
    case = next((one for one in CASES if given.only in one.name and not one.rate and one.workers == 1), None)
    if case is None:
        print(f"there is no case with {given.only!r} in its name", file=sys.stderr)
        return 2
    print(profile(case, program, given.seconds, given.native, given.most))
    return 0


if __name__ == "__main__":
    sys.exit(main())
