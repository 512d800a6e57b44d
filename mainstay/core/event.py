"""The canonical events of a reply: what a model answers, whatever the wire format.

A reply is: ``Start``, then deltas, then one ``Finish`` per choice, ``UsageSeen`` once or more (the last one counts,
each is the total so far), and ``End``, the wire's own sign that the reply is whole. A reply without ``End`` was cut.
Named tuples, since they are made per token on the hot path and a frozen dataclass costs four times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from mainstay.core.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "pause", "other"]


class Start(NamedTuple):
    """The reply began. ``created`` is in seconds since the epoch, 0 where the wire has none."""

    id: str
    model: str
    created: int = 0
    fingerprint: str | None = None
    service_tier: str | None = None


class TextDelta(NamedTuple):
    """More text of choice ``choice``. ``logprobs`` are OpenAI-shaped entries, one per token."""

    text: str
    choice: int = 0
    logprobs: tuple[Mapping[str, Any], ...] | None = None


class ThinkingDelta(NamedTuple):
    """More reasoning text."""

    text: str
    choice: int = 0


class ThinkingSigned(NamedTuple):
    """The current piece of reasoning ends with the provider's ``signature``; ``redacted``: it has no readable text."""

    signature: str
    redacted: bool = False
    choice: int = 0


class RefusalDelta(NamedTuple):
    """More of the model's own words of refusal."""

    text: str
    choice: int = 0


class ToolStart(NamedTuple):
    """Tool call number ``tool`` (from 0, per choice) begins."""

    tool: int
    id: str
    name: str
    choice: int = 0


class ToolDelta(NamedTuple):
    """More of the JSON text of the arguments of tool call ``tool``."""

    tool: int
    arguments: str
    choice: int = 0


class Citation(NamedTuple):
    """A source of what was just said, OpenAI-shaped (``type``, ``url``, ``title``, ``start_index``, ``end_index``)."""

    data: Mapping[str, Any]
    choice: int = 0


class Finish(NamedTuple):
    """A source of what was just said, as OpenAI shapes it (``type``, ``url``, ``title``, ``start_index`` …)."""

    reason: FinishReason
    choice: int = 0
    stop: str | None = None
    native: str | None = None


class UsageSeen(NamedTuple):
    """The usage as the provider reports it, up to here."""

    usage: Usage


class Failed(NamedTuple):
    """The provider reported an error inside the stream: ``kind`` as in ``UpstreamFailed``."""

    kind: str
    message: str
    raw: bytes = b""


class End(NamedTuple):
    """The wire's own terminal sign: the reply is whole."""


class Opaque(NamedTuple):
    """Something of the wire format that has no canonical form (a ping, a vendor's event); never content."""

    what: str = ""


Event = (
    Start
    | TextDelta
    | ThinkingDelta
    | ThinkingSigned
    | RefusalDelta
    | ToolStart
    | ToolDelta
    | Citation
    | Finish
    | UsageSeen
    | Failed
    | End
    | Opaque
)

CONTENT = (TextDelta, ThinkingDelta, ThinkingSigned, RefusalDelta, ToolStart, ToolDelta, Citation)
"""The events that are part of the answer: once one reached the caller, an attempt cannot be taken back."""


class Frame(NamedTuple):
    """One event of an upstream wire (or one whole plain body): its exact bytes, and what they mean.

    ``raw`` includes the framing (``data: …\\n\\n``) and is None where the frame was made by us. ``unread`` marks
    bytes that could not be understood, which are skipped if the stream then completes.
    """

    raw: bytes | None
    events: tuple[Event, ...]
    unread: bool = False
