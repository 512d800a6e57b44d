"""Anthropic's streams as text: what a provider sends, what it means, and how it is written for a caller.

After a change that is meant, ``MAINSTAY_GOLDEN=write`` writes the files anew; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mainstay.core.event import Event
from mainstay.wire.anthropic import Anthropic

FOLDER = Path(__file__).parents[1] / "golden" / "anthropic"
CASES = sorted(path.stem for path in FOLDER.glob("*.txt"))


def sections(text: str) -> dict[str, str]:
    caption, *parts = text.split("\n== ")
    found = {"caption": caption}
    for part in parts:
        name, _, body = part.partition("\n")
        found[name] = body
    return found


@pytest.mark.parametrize("case", CASES)
def test_stream(case: str) -> None:
    path = FOLDER / f"{case}.txt"
    said = sections(path.read_text())
    stream = said["stream"].rstrip("\n").encode() + b"\n\n"
    dialect = Anthropic()
    reader = dialect.reader("messages")
    frames = reader.feed(stream) + reader.finish()
    assert b"".join(frame.raw or b"" for frame in frames) == stream
    events: list[Event] = [event for frame in frames for event in frame.events]
    lines = [repr(event) if not frame.unread else "unread" for frame in frames for event in frame.events or (None,)]
    writer = dialect.writer(True)
    written = b"".join(writer.write(frame.events) for frame in frames)
    seen = {"caption": said["caption"], "stream": stream.decode(), "events": "\n".join(lines) + "\n"}
    if reader.done:
        written += writer.end()
        seen["folded"] = dialect.write_reply(events).decode() + "\n"
    seen["written"] = written.decode()
    if os.environ.get("MAINSTAY_GOLDEN") == "write":
        path.write_text(seen.pop("caption") + "".join(f"\n== {name}\n{body}" for name, body in seen.items()))
    else:
        assert {name: body.strip("\n") for name, body in said.items()} == {
            name: body.strip("\n") for name, body in seen.items()
        }


def test_there_are_cases() -> None:
    assert {"text", "tool_use", "parallel_tools", "thinking", "redacted_thinking", "cache", "refusal", "error"} <= {
        *CASES
    }
