"""``python -m bench``: runs every case, prints the tables, and writes ``bench/out/bench.json`` and ``bench/out/bench.md``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import cases, footprint, meter, peers, report, servers
from bench.cases import CASES, Case, Size
from bench.report import Line
from bench.servers import Server

MEGABYTE = 1_000_000


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run. ``rounds`` of each case, of each server in turn."""

    def __init__(self, rounds: int, size: Size, chosen: list[Case], litellm: Path | None) -> None:
        self.rounds, self.size, self.chosen, self.litellm = rounds, size, chosen, litellm
        self.lines: list[Line] = []
        self.facts: dict[str, str] = {}
        self.left_out: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """All cases, grouped by what must be started for them."""
        stands: dict[tuple[int, bool, float], list[Case]] = {}
        for case in self.chosen:
            gap = 0.0 if case.flood or not case.stream else self.size.gap
            stands.setdefault((case.workers, case.stream, gap), []).append(case)
        for (workers, stream, gap), mine in stands.items():
            self._stand(mine, stream, workers, gap)

    def _stand(self, mine: list[Case], stream: bool, workers: int, gap: float) -> None:
        size = self.size
        with contextlib.ExitStack() as stack:
            if stream:
                upstream = stack.enter_context(servers.stream_upstream(size.events, gap))
            else:
                upstream = stack.enter_context(servers.plain_upstream())
            nginx = stack.enter_context(servers.nginx_proxy(upstream.port, buffering=not stream, workers=workers))
            ours = stack.enter_context(servers.mainstay(upstream.port, workers))
            before = sum(meter.memory(pid).rss for pid in ours.serving) / len(ours.serving)
            others = self._peers(stack, upstream) if workers == 1 and any(case.peers for case in mine) else []
            for case in mine:
                say(f"{case.name} …")
                compared = [nginx, ours, *(others if case.peers else [])]
                try:
                    if case.rate:
                        self._open(case, [upstream, *compared])
                    else:
                        self._closed(case, compared)
                except (cases.Failed, subprocess.SubprocessError, OSError) as failure:
                    self.failures.append(f"{case.name}: {failure}")
                    say(f"  failed: {failure}")
            if not stream or not all(case.flood for case in mine):
                self._memory("stream" if stream else "plain", ours, before, others)

    def _peers(self, stack: contextlib.ExitStack, upstream: Server) -> list[Server]:
        if self.litellm is None:
            return []
        try:
            return [stack.enter_context(servers.litellm(upstream.port, self.litellm))]
        except FileNotFoundError:
            note = f"LiteLLM: not installed in {self.litellm.name}/ (make it with `python -m bench.peers`)"
        except RuntimeError as error:
            note = f"LiteLLM: it did not start ({str(error)[-300:]})"
        if note not in self.left_out:
            self.left_out.append(note)
        return []

    def _closed(self, case: Case, compared: list[Server]) -> None:
        nginx, *others = compared
        first = Line(case, nginx.name)
        lines = {server.name: Line(case, server.name) for server in others}
        for number in range(self.rounds):
            beside = cases.measure(case, nginx, self.size, number == 0)
            first.rounds.append(beside)
            say(f"  {nginx.name}: {beside.micros:.1f} µs, {beside.per_second:,.0f}/s")
            for server in others:
                if server.name not in lines:
                    continue
                try:
                    one = cases.measure(case, server, self.size, number == 0)
                except cases.Failed as failure:
                    self.failures.append(f"{case.name}, {server.name}: {failure}")
                    del lines[server.name]
                    continue
                lines[server.name].rounds.append(one)
                lines[server.name].against.append(beside)
                say(f"  {server.name}: {one.micros:.1f} µs, {one.per_second:,.0f}/s")
        self.lines += [first, *lines.values()]

    def _open(self, case: Case, compared: list[Server]) -> None:
        lines = [Line(case, "direct" if i == 0 else server.name) for i, server in enumerate(compared)]
        if self.size.warm:
            for server in compared:
                cases.latency(case, server, self.size)
        for _ in range(self.rounds):
            for server, line in zip(compared, lines, strict=True):
                found = cases.latency(case, server, self.size)
                line.percentiles.append(found)
                if line is not lines[0]:
                    direct = lines[0].percentiles[-1]
                    line.added.append({name: value - direct[name] for name, value in found.items()})
        self.lines += lines

    def _memory(self, after: str, ours: Server, before: float, others: list[Server]) -> None:
        held = [meter.memory(pid) for pid in ours.serving]
        workers = "" if len(held) == 1 else f", each of {len(held)} workers"
        most = max(held, key=lambda one: one.rss)
        self.facts[f"resident memory of a gateway after the {after} cases{workers}"] = (
            f"{most.rss / 2**20:.0f} MiB (its own share {most.pss / 2**20:.0f}, at most {most.peak / 2**20:.0f}, "
            f"before any call {before / 2**20:.0f})"
        )
        if len(held) == 1:
            behind = max((meter.memory(pid).rss for pid in ours.behind), default=0)
            self.facts[f"resident memory of control after the {after} cases"] = f"{behind / 2**20:.0f} MiB"
        for other in others:
            total = sum(meter.memory(pid).pss for pid in other.serving)
            self.facts[f"memory of {other.name} after the {after} cases"] = f"{total / 2**20:.0f} MiB"

    def footprint(self, install: bool) -> None:
        """Import time and size on disk."""
        took = footprint.import_seconds(self.rounds + 2)
        self.facts["time until a gateway process is imported"] = (
            f"{took['gateway']:.2f} s ({took['python']:.2f} s of it Python's own start)"
        )
        if not install:
            self.left_out.append("the size of an installation: not asked for")
        else:
            say("a base installation …")
            try:
                self.facts["size of a base installation"] = f"{footprint.installed_bytes() / MEGABYTE:.0f} MB"
            except subprocess.CalledProcessError:
                self.left_out.append("the size of an installation: pip could not install one here")
        if self.litellm is not None and (size := footprint.folder_bytes(self.litellm)) is not None:
            version = peers.installed_version(self.litellm, "litellm")
            self.facts[f"size of LiteLLM {version} with its proxy"] = f"{size / MEGABYTE:.0f} MB"

    def tables(self, machine: dict[str, str]) -> str:
        """Everything as Markdown."""
        parts = ["; ".join(f"{name}: {value}" for name, value in machine.items())]
        for group, unit in (("plain", "request"), ("stream", "event")):
            lines = [line for line in self.lines if line.case.group == group]
            if lines:
                parts.append(report.closed_table(lines, unit))
        lines = [line for line in self.lines if line.case.group == "latency"]
        if lines:
            parts.append(report.latency_table(lines))
        parts.append(report.facts_table(self.facts))
        parts += [f"Left out: {note}." for note in self.left_out]
        parts += [f"FAILED: {note}" for note in self.failures]
        return "\n\n".join(parts)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one round")
    parser.add_argument("--warm", type=float, default=1.0, help="seconds of load before the first round of a case")
    parser.add_argument("--streams", type=int, default=Size.streams)
    parser.add_argument("--events", type=int, default=Size.events)
    parser.add_argument("--gap", type=float, default=Size.gap, help="seconds between two events of a stream")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--litellm", type=Path, default=peers.LITELLM, help="the folder of its environment")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-install", action="store_true", help="leave out the size of an installation")
    parser.add_argument("--no-settle", action="store_true", help="do not wait for the processes behind after a round")
    parser.add_argument("--doc", action="store_true", help="write the tables into docs/reference/performance.md")
    parser.add_argument("--out", type=Path, default=peers.OUT)
    return parser.parse_args()


def main() -> int:
    given = options()
    for program in ("wrk", "nginx"):
        if shutil.which(program) is None and not (program == "nginx" and servers.nginx_program()):
            print(f"the bench needs {program}; on Debian: apt install {program}", file=sys.stderr)
            return 2
    size = Size(
        given.seconds, given.warm, given.streams, given.events, given.gap, min(32, max(1, given.streams)),
        settle=not given.no_settle,
    )  # fmt: skip
    chosen = [case for case in CASES if given.only in case.name]
    machine = {**meter.machine(), "Python": sys.version.split()[0], "date": time.strftime("%Y-%m-%d")}
    bench = Bench(given.rounds, size, chosen, None if given.no_peers else given.litellm)
    bench.run()
    bench.footprint(not given.no_install)
    tables = bench.tables(machine)
    given.out.mkdir(parents=True, exist_ok=True)
    whole = {
        "machine": machine,
        "rounds": given.rounds,
        "seconds": given.seconds,
        "lines": [line.plain() for line in bench.lines],
        "facts": bench.facts,
        "left_out": bench.left_out,
        "failures": bench.failures,
    }
    (given.out / "bench.json").write_text(json.dumps(whole, indent=1) + "\n")
    (given.out / "bench.md").write_text(tables + "\n")
    print(tables)
    if given.doc:
        report.into_page("bench", tables)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
