"""Replies as canonical events, and helpers that read what the Responses dialect writes, for its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mainstay.core import event as events
from mainstay.core.clock import FixedClock
from mainstay.core.event import Event
from mainstay.core.usage import Usage
from mainstay.wire.openai_responses import OpenAIResponses

GOLDEN = Path(__file__).parent.parent / "golden" / "openai_responses"
AT = 1_800_000_000


def dialect() -> OpenAIResponses:
    return OpenAIResponses(FixedClock(AT))


def sections(text: str) -> dict[str, str]:
    """The parts of a golden file, each below a line ``=== name``."""
    found: dict[str, str] = {}
    for block in text.split("=== ")[1:]:
        name, _, content = block.partition("\n")
        found[name.strip()] = content.strip("\n")
    return found


def event_of(line: str) -> Event:
    """An event from its line in a golden file: its name, then its fields as JSON."""
    name, _, fields = line.partition(" ")
    given: dict[str, Any] = json.loads(fields or "{}")
    if "usage" in given:
        given["usage"] = Usage(**given["usage"])
    if given.get("logprobs") is not None:
        given["logprobs"] = tuple(given["logprobs"])
    return getattr(events, name)(**given)


def data_of(stream: bytes) -> list[dict[str, Any]]:
    """The data of all events in a stream, each checked to be named as its type says."""
    found: list[dict[str, Any]] = []
    for block in stream.decode().split("\n\n"):
        if not block:
            continue
        name, data = block.split("\n")
        told = json.loads(data.removeprefix("data: "))
        assert name == f"event: {told['type']}"
        found.append(told)
    return found
