"""Joining a second answer to the beginning of a first one, so that the caller gets the whole exactly once."""

from __future__ import annotations

from mainstay.core.errors import Invalid
from mainstay.core.event import (
    End,
    Event,
    Finish,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
)
from mainstay.core.progress import Progress

_PROBE = 24
"""Characters of a continuation that are compared with the beginning of what was sent, to tell it from a restart."""


class Regeneration:
    """The question was put again; what the new answer repeats of the sent one is dropped, the rest is passed on.

    Raises ``Invalid`` as soon as the new answer differs from what was sent.
    """

    continued = False

    def __init__(self, sent: Progress) -> None:
        self._sent = sent.shape()
        self._fresh = Progress()
        self._caught_up = not self._sent
        self._open_tools = {(kind, choice) for kind, choice, _ in self._sent if kind.startswith("tool")}
        self._closed = frozenset(sent.finishes)  # choices that the caller has whole
        self.progress = Progress()
        self.progress.see([*sent.condensed(), *sent.finishes.values()])

    def feed(self, events: list[Event]) -> list[Event]:
        """Of ``events``, what the caller does not have yet."""
        if self._caught_up:
            return self._pass(events)
        out: list[Event] = []
        for i, event in enumerate(events):
            if isinstance(event, Finish | End):
                out += self._rest()
                return [*out, *self._pass(events[i:])]
            self._fresh.see((event,))
        if self._covers():
            out += self._rest()
        return out

    def end(self) -> list[Event]:
        """The new answer is whole."""
        return self._rest() if not self._caught_up else []

    def _pass(self, events: list[Event]) -> list[Event]:
        passed: list[Event] = []
        for event in events:
            if isinstance(event, Start | ThinkingDelta | ThinkingSigned) or self._has(event):
                continue
            if isinstance(event, ToolStart):
                key = (f"tool{event.tool}", event.choice)
                if key in self._open_tools:
                    continue
                self._open_tools.add(key)
            passed.append(event)
        self.progress.see(passed)
        return passed

    def _has(self, event: Event) -> bool:
        return bool(self._closed) and getattr(event, "choice", None) in self._closed

    def _covers(self) -> bool:
        """Whether the new answer has reached what was sent; raises when it went another way."""
        fresh = {(kind, choice): text for kind, choice, text in self._fresh.shape()}
        covered = True
        for kind, choice, text in self._sent:
            new = fresh.get((kind, choice), "")
            if new.startswith(text):
                continue
            if not text.startswith(new):
                raise Invalid("the new answer differs from what was sent")
            covered = False
        return covered

    def _rest(self) -> list[Event]:
        """What the new answer has beyond the sent one, as events; from here on everything is passed on."""
        if not self._covers():
            raise Invalid("the new answer is shorter than what was sent")
        self._caught_up = True
        sent = {(kind, choice): len(text) for kind, choice, text in self._sent}
        seen: dict[tuple[str, int], int] = {}
        rest: list[Event] = []
        for event in self._fresh.condensed():
            if isinstance(event, ToolStart):
                key = (f"tool{event.tool}", event.choice)
                seen[key] = len(event.name) + 1
                if key not in sent:
                    rest.append(event)
                continue
            if isinstance(event, TextDelta):
                key, text = ("text", event.choice), event.text
            elif isinstance(event, RefusalDelta):
                key, text = ("refusal", event.choice), event.text
            elif isinstance(event, ToolDelta):
                key, text = (f"tool{event.tool}", event.choice), event.arguments
            else:
                continue
            start = seen.get(key, 0)
            seen[key] = start + len(text)
            text = text[max(0, sent.get(key, 0) - start) :]
            if not text:
                continue
            if isinstance(event, ToolDelta):
                rest.append(ToolDelta(event.tool, text, event.choice))
            else:
                rest.append(type(event)(text, event.choice))
        return self._pass(rest)


class Continuation:
    """A target was given the beginning of the answer and goes on from there.

    Some servers ignore a prefill and begin anew; what comes is compared with the beginning of what was sent, and
    handled as a regeneration if it is the same.
    """

    def __init__(self, sent: Progress) -> None:
        self._sent = sent
        self._text = sent.text
        self._held: list[Event] = []
        self._new = ""
        self._again: Regeneration | None = None
        self._decided = False
        self._trailing = self._text[len(self._text.rstrip()) :]
        self.progress = Progress()
        self.progress.see([*sent.condensed(), *sent.finishes.values()])

    @property
    def continued(self) -> bool:
        """It did continue (else it began anew)."""
        return self._again is None

    def feed(self, events: list[Event]) -> list[Event]:
        """Of ``events``, what the caller does not have yet."""
        if self._again is not None:
            return self._noted(self._again.feed(events))
        if self._decided:
            return self._pass(events)
        self._held += events
        self._new += "".join(event.text for event in events if isinstance(event, TextDelta))
        probe = min(_PROBE, len(self._text))
        if len(self._new) < probe and not any(isinstance(event, Finish | End) for event in events):
            return []
        return self._decide()

    def end(self) -> list[Event]:
        """The continuation is whole."""
        if self._again is not None:
            return self._noted(self._again.end())
        return [] if self._decided else self._decide()

    def _decide(self) -> list[Event]:
        self._decided = True
        held, self._held = self._held, []
        probe = self._new[: min(_PROBE, len(self._text))]
        if len(probe) >= min(8, len(self._text)) and self._text.startswith(probe):
            self._again = Regeneration(self._sent)
            return self._noted(self._again.feed(held))
        # Formats strip white space at the end of a prefill, and the model then begins with it again.
        skip = len(self._trailing) if self._trailing and self._new.startswith(self._trailing) else 0
        for i, event in enumerate(held):
            if isinstance(event, TextDelta) and skip:
                held[i] = TextDelta(event.text[skip:], event.choice, event.logprobs)
                skip = max(0, skip - len(event.text))
        return self._pass(held)

    def _pass(self, events: list[Event]) -> list[Event]:
        passed: list[Event] = [e for e in events if not isinstance(e, Start | ThinkingDelta | ThinkingSigned)]
        self.progress.see(passed)
        return passed

    def _noted(self, events: list[Event]) -> list[Event]:
        self.progress.see(events)
        return events
