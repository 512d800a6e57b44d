"""What the upstreams of the SDK tests answer, whatever their format: chosen by a word in the conversation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

INPUT, CACHED, OUTPUT, REASONING = 25, 5, 12, 4
"""The tokens of every answer: all input, what of it came from a cache, all output, what of it was reasoning."""

SIGNATURE = "EqQBCkYIBRgCKkDJ0rZf6mI8bq"
ENCRYPTED = "gAAAAABo1x9encrypted"
THOUGHT = "The user wants a number. Six times seven is forty-two."


@dataclass(frozen=True)
class Scene:
    """One answer."""

    text: str = ""
    thought: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    choices: int = 1
    logprobs: bool = False
    cut: bool = False  # at max_tokens

    def pieces(self, text: str) -> list[str]:
        """``text`` as it comes in a stream."""
        return [text[i : i + 5] for i in range(0, len(text), 5)]


PARIS = ("get_weather", {"city": "Paris", "unit": "celsius"})
ROME = ("get_weather", {"city": "Rome", "unit": "celsius"})
ANSWER = {"name": "science fair", "participants": ["Alice", "Bob"]}

SCENES = {
    "scene-plain": Scene("Hello there, dear friend: how are you? Καλά."),
    "scene-tool": Scene("Let me look.", calls=(PARIS,)),
    "scene-parallel": Scene(calls=(PARIS, ROME)),
    "scene-think": Scene("It is 42.", thought=THOUGHT),
    "scene-think-tool": Scene(thought=THOUGHT, calls=(PARIS,)),
    "scene-json": Scene(json.dumps(ANSWER)),
    "scene-two": Scene("Heads.", choices=2),
    "scene-logprobs": Scene("Yes it is", logprobs=True),
    "scene-cut": Scene("Once upon a", cut=True),
    "scene-image": Scene("A cat on a mat."),
    "scene-after": Scene("It is 17 degrees."),
}


def scene_of(body: bytes) -> Scene:
    """The scene that the conversation in ``body`` asks for; after a tool's result, what comes of it."""
    if b"17 degrees" in body:
        return SCENES["scene-after"]
    for name in sorted(SCENES, key=len, reverse=True):
        if name.encode() in body:
            return SCENES[name]
    raise AssertionError(f"no scene in {body[:500]!r}")
