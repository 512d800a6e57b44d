"""What the name of a Claude model tells about the Messages API that it takes."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

_NAME = re.compile(
    r"claude-(?:(?P<family>opus|sonnet|haiku|fable|mythos)-)?"
    r"(?:(?P<major>\d{1,2})(?!\d)(?:[-.](?P<minor>\d{1,2})(?!\d))?|(?P<preview>preview))"
)

ThinkingForm = Literal["budget", "adaptive"]


class Generation(NamedTuple):
    """A Claude model's family (empty where the name has it behind the number) and version."""

    family: str
    major: int
    minor: int

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor, which order the generations."""
        return self.major, self.minor


def generation(model: str) -> Generation | None:
    """What ``model`` says of itself, whatever a cloud puts before or behind it; None for any other name."""
    found = _NAME.search(model.lower())
    if found is None:
        return None
    if found["preview"]:
        return Generation(found["family"] or "", 5, 0)
    return Generation(found["family"] or "", int(found["major"]), int(found["minor"] or 0))


def takes_system_turns(model: str) -> bool:
    """Whether a message of role system may stand inside the conversation: from 4.8 on. Unknown names: yes."""
    known = generation(model)
    return known is None or known.version >= (4, 8)


def thinking_form(model: str) -> ThinkingForm:
    """How reasoning is asked for: a ``budget`` in tokens, or, from 4.6 on, ``adaptive`` with an effort.

    Later models refuse a budget and earlier ones refuse adaptive; a name that is not known gets a budget, which every
    server that imitates the API understands.
    """
    known = generation(model)
    return "adaptive" if known is not None and known.version >= (4, 6) else "budget"


def takes_xhigh(model: str) -> bool:
    """Whether the effort ``xhigh`` exists: from 4.7 on."""
    known = generation(model)
    return known is None or known.version >= (4, 7)


def hides_thinking(model: str) -> bool:
    """Whether the text of thinking is left out unless it is asked for: from 4.7 on."""
    known = generation(model)
    return known is not None and known.version >= (4, 7)


def always_thinks(model: str) -> bool:
    """Whether thinking cannot be switched off."""
    known = generation(model)
    return known is not None and known.family in ("fable", "mythos")


def one_sampling_knob(model: str) -> bool:
    """Whether temperature and top_p must not both be given: from 4.1 on."""
    known = generation(model)
    return known is not None and known.version >= (4, 1)
