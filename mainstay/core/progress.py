"""What of an answer has been seen so far: enough to finish it elsewhere, to bill it, or to say how it broke off."""

from __future__ import annotations

from mainstay.core.event import (
    CONTENT,
    Citation,
    End,
    Event,
    Failed,
    Finish,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.usage import Usage

TEXT_LIMIT = 4 * 1024 * 1024
"""Characters kept for a rescue; a longer answer is still served, but can no longer be rescued."""


class Progress:
    """Folds the events of one reply. Cheap per event: text is kept in pieces and joined when asked for."""

    __slots__ = (
        "_pieces",
        "_size",
        "content",
        "end",
        "failed",
        "finishes",
        "overflow",
        "start",
        "usage",
    )

    def __init__(self) -> None:
        self.start: Start | None = None
        self.content = False  # content has been seen
        self.usage: Usage | None = None
        self.finishes: dict[int, Finish] = {}
        self.end = False
        self.failed: Failed | None = None
        self.overflow = False
        self._pieces: list[Event] = []
        self._size = 0

    def see(self, events: tuple[Event, ...] | list[Event]) -> None:
        """Take note of ``events``."""
        for event in events:
            if type(event) is TextDelta:
                self.content = True
                if self._size <= TEXT_LIMIT:
                    self._size += len(event.text) + 64
                    self._pieces.append(event)
                else:
                    self.overflow = True
            elif type(event) is UsageSeen:
                self.usage = event.usage
            elif type(event) is Finish:
                self.finishes[event.choice] = event
            elif type(event) is Start:
                if self.start is None:
                    self.start = event
            elif type(event) is End:
                self.end = True
            elif type(event) is Failed:
                self.failed = event
            elif isinstance(event, CONTENT):
                self.content = True
                if self._size <= TEXT_LIMIT:
                    self._size += 64 + sum(len(part) for part in event if isinstance(part, str))
                    self._pieces.append(event)
                else:
                    self.overflow = True

    @property
    def finished(self) -> bool:
        """Every choice that said something has also ended."""
        if not self.finishes:
            return False
        return all(_choice(piece) in self.finishes for piece in self._pieces)

    @property
    def text_only(self) -> bool:
        """Nothing but plain text of the first choice: what another model can continue."""
        return all(type(piece) is TextDelta and piece.choice == 0 and piece.logprobs is None for piece in self._pieces)

    @property
    def text(self) -> str:
        """All text of the first choice."""
        return "".join(p.text for p in self._pieces if type(p) is TextDelta and p.choice == 0)

    @property
    def size(self) -> int:
        """Characters of everything the model produced, reasoning and arguments included."""
        total = 0
        for piece in self._pieces:
            if type(piece) is ToolDelta:
                total += len(piece.arguments)
            elif isinstance(piece, TextDelta | ThinkingDelta | RefusalDelta):
                total += len(piece.text)
        return total

    def condensed(self) -> list[Event]:
        """A short list of events that brings a writer into the same state as all that were seen."""
        events: list[Event] = [self.start] if self.start is not None else []
        joined: list[str] = []
        last: tuple[type, int] | None = None
        for piece in self._pieces:
            if isinstance(piece, TextDelta | ThinkingDelta | RefusalDelta):
                key = (type(piece), piece.choice)
                if key != last:
                    _close(events, last, joined)
                    last = key
                joined.append(piece.text)
            else:
                _close(events, last, joined)
                last = None
                events.append(piece)
        _close(events, last, joined)
        return events

    def shape(self) -> list[tuple[str, int, str]]:
        """The content in order as ``(kind, choice, text)``, with neighbours of one kind joined: what a rescue compares.

        Tool calls are compared by name and arguments, never by id; reasoning and citations are left out, since
        no model repeats them word for word.
        """
        shape: list[tuple[str, int, str]] = []
        for piece in self._pieces:
            if isinstance(piece, ThinkingDelta | ThinkingSigned | Citation):
                continue
            if isinstance(piece, ToolStart):
                shape.append((f"tool{piece.tool}", piece.choice, piece.name + "\0"))
                continue
            if isinstance(piece, ToolDelta):
                kind, text = f"tool{piece.tool}", piece.arguments
            else:
                assert isinstance(piece, TextDelta | RefusalDelta)
                kind, text = ("text" if type(piece) is TextDelta else "refusal"), piece.text
            for i in range(len(shape) - 1, -1, -1):
                if shape[i][0] == kind and shape[i][1] == piece.choice:
                    shape[i] = (kind, piece.choice, shape[i][2] + text)
                    break
            else:
                shape.append((kind, piece.choice, text))
        return shape


def _close(events: list[Event], last: tuple[type, int] | None, joined: list[str]) -> None:
    if last is not None and joined:
        events.append(last[0]("".join(joined), last[1]))
    joined.clear()


def _choice(event: Event) -> int:
    return getattr(event, "choice", 0)
