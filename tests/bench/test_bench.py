"""The bench does not rot: each of its cases runs with tiny counts, and nothing is timed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import servers
from bench.cases import CASES
from bench.load import percentiles
from bench.report import PAGE, into_page
from bench.traffic import EVENTS, SYSTEM, chat_events, chat_reply, chat_request, messages_events, messages_reply
from mainstay.core.event import End, TextDelta
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.openai_chat import OpenAIChat
from tests.running import of_the_source

ROOT = Path(__file__).parent.parent.parent

needs_programs = pytest.mark.skipif(
    shutil.which("wrk") is None or servers.nginx_program() is None,
    reason="the bench needs nginx and wrk (Debian: apt install nginx-light wrk)",
)


@needs_programs
def test_every_case_runs_and_is_told_of(tmp_path: Path) -> None:
    tiny = "--rounds 1 --seconds 0.15 --warm 0 --streams 4 --events 10 --gap 0 --no-peers --no-install --no-settle"
    command = [sys.executable, "-m", "bench", *tiny.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=of_the_source(), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "bench.json").read_text())
    assert told["failures"] == []
    lines = {(line["case"], line["server"]) for line in told["lines"]}
    for case in CASES:
        suffix = f", {case.workers} workers" if case.workers > 1 else ""
        for name in ("nginx", "Mainstay"):
            assert (case.name, name + suffix) in lines
        assert case.name in done.stdout
    for line in told["lines"]:
        for one in line["rounds"]:
            assert one["micros"] > 0, line
            assert one["per_second"] > 0, line
        assert line["rounds"] or line["percentiles"]
        if line["server"].startswith("Mainstay"):
            assert len(line["against"]) == len(line["rounds"])
    memory = [value for name, value in told["facts"].items() if name.startswith("resident memory of a gateway")]
    assert memory
    assert all("MiB" in value for value in memory)
    assert (tmp_path / "bench.md").read_text() == done.stdout


def test_the_stages_are_all_measured(tmp_path: Path) -> None:
    figures = tmp_path / "stages.json"
    command = [sys.executable, "-m", "bench.stages", "--seconds", "0.002", "--rounds", "1", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=of_the_source(), timeout=60)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row["micros"] for row in json.loads(figures.read_text())}
    expected = ("head parse", "identify", "resolve", "admit", "cache", "journal open", "journal close", "ask write")
    for word in (*expected, "glance", "attempt", "reply headers", "in place: SUM", "PIPELINE", "across", "per event"):
        found = [micros for name, micros in rows.items() if name.startswith(word)]
        assert found, word
        assert max(found) >= 0, word  # of so few rounds, a difference of two may be nothing


@needs_programs
def test_the_profiler_says_what_it_lacks() -> None:
    command = [sys.executable, "-m", "bench.hotspots", "--only", "no such case"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=of_the_source(), timeout=60)
    assert "no such case" in done.stderr or "py-spy is not installed" in done.stdout


def test_the_upstreams_answers_are_what_the_wires_read() -> None:
    openai, anthropic = OpenAIChat(), Anthropic()
    for dialect, operation, events in (
        (openai, "chat", chat_events()),
        (anthropic, "messages", messages_events()),
    ):
        assert len(events) == EVENTS
        reader = dialect.reader(operation)
        frames = [frame for event in events for frame in reader.feed(event)]
        assert reader.done
        assert not any(frame.unread for frame in frames)
        assert sum(isinstance(one, TextDelta) for frame in frames for one in frame.events) >= EVENTS - 6
    for dialect, reply in ((openai, chat_reply()), (anthropic, messages_reply())):
        assert 300 <= len(reply) <= 450
        assert any(isinstance(event, End) for event in dialect.read_reply(reply)) or dialect.read_reply(reply)
    assert len(chat_reply(100_000)) >= 100_000


def test_a_request_has_the_size_that_was_asked_for() -> None:
    for size in (200, 100_000):
        body = json.loads(chat_request("small", size=size, unique="0000000000"))
        assert sum(len(message["content"]) for message in body["messages"]) == size
    assert len(SYSTEM) < 200


def test_percentiles() -> None:
    found = percentiles([number / 1000 for number in range(100, 0, -1)])
    assert found == {"p50": 51.0, "p90": 91.0, "p99": 100.0}
    assert percentiles([]) == {}


def test_tables_go_between_the_marks_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    into_page("bench", "new", page)
    into_page("bench", "newer", page)
    assert page.read_text() == "before\n<!-- bench -->\n\nnewer\n\n<!-- /bench -->\nafter\n"
    with pytest.raises(ValueError, match="no place for stages"):
        into_page("stages", "new", page)
    for mark in ("bench", "stages"):
        assert f"<!-- {mark} -->\n" in PAGE.read_text()
        assert f"<!-- /{mark} -->" in PAGE.read_text()
