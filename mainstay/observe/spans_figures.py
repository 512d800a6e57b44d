"""What spans say in numbers, moments and lists, each dialect in its own way: usage, cost, the first token, tags, errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, cast

import msgspec

from mainstay.core.money import NANO, Nano
from mainstay.core.usage import Usage, clamped
from mainstay.wire.otlp_span import Span, Value

_TOKENS = 1 << 53  # more is no count of tokens
_DOLLARS = 1_000_000_000  # nor is this the cost of one span
_TAGS, _TAG = 32, 256


def usage_of(figures: Mapping[str, Value]) -> Usage | None:
    """The usage that one dialect tells, by the field's name after ``usage.``; None where it tells none.

    Parts that do not fit into their total were told beside it (as Anthropic counts cache reads): then they are added.
    """
    if (details := names_of(figures.get("details"))) and (found := _from_details(details)) is not None:
        return found
    counts = {name: count for name, value in figures.items() if (count := _count(value)) is not None}
    if not counts.keys() & {"input", "output", "total"}:
        return None
    output = counts.get("output", 0)
    given = counts.get("input", max(counts.get("total", 0) - output, 0))
    cached, written = counts.get("cached_input", 0), counts.get("cache_write", 0)
    return clamped(
        given if cached + written <= given else given + cached + written,
        output,
        cached,
        written,
        counts.get("reasoning", 0),
        counts.get("input_audio", 0),
        counts.get("output_audio", 0),
    )


def _from_details(details: Mapping[str, Value]) -> Usage | None:
    """Langfuse's free-form object. OpenAI's own usage has totals with parts; else every key is a part of its own."""
    inner = {side: names_of(details.get(f"{side}_details")) for side in ("prompt_tokens", "completion_tokens")} | {
        side: names_of(details.get(f"{side}_details")) for side in ("input_tokens", "output_tokens")
    }
    for input_name, output_name in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        if input_name in details and (input_name == "prompt_tokens" or inner[input_name] or inner[output_name]):
            of_input, of_output = inner[input_name], inner[output_name]
            return clamped(
                _count(details[input_name]) or 0,
                _count(details.get(output_name)) or 0,
                _count(of_input.get("cached_tokens")) or 0,
                0,
                _count(of_output.get("reasoning_tokens")) or 0,
                _count(of_input.get("audio_tokens")) or 0,
                _count(of_output.get("audio_tokens")) or 0,
            )
    parts = {name.lower(): count for name, value in details.items() if (count := _count(value)) is not None}
    if not parts:
        return None
    of_input = {name: count for name, count in parts.items() if "input" in name}
    of_output = {name: count for name, count in parts.items() if "output" in name and "input" not in name}
    if not of_input and not of_output:
        return clamped(parts.get("total", 0), 0) if "total" in parts else None
    cache = {name: count for name, count in of_input.items() if "cache" in name}
    written = sum(count for name, count in cache.items() if "creation" in name or "write" in name)
    return clamped(
        sum(of_input.values()),
        sum(of_output.values()),
        sum(cache.values()) - written,
        written,
        sum(count for name, count in of_output.items() if "reasoning" in name),
        sum(count for name, count in of_input.items() if "audio" in name),
        sum(count for name, count in of_output.items() if "audio" in name),
    )


def _count(value: Value) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 17:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isfinite(value) and 0 <= value < _TOKENS else None


def reported_cost(figures: Mapping[str, Value]) -> Nano | None:
    """What the application says that it cost, in nano-dollars; a total before the sum of its parts."""
    details = names_of(figures.get("cost.details"))
    if details:
        if (total := _nano(details.get("total"))) is not None:
            return total
        parts = [nano for name, value in details.items() if name != "total" and (nano := _nano(value)) is not None]
        return sum(parts) if parts else None
    if (total := _nano(figures.get("cost.total"))) is not None:
        return total
    parts = [nano for name in ("cost.input", "cost.output") if (nano := _nano(figures.get(name))) is not None]
    return sum(parts) if parts else None


def _nano(value: Value) -> Nano | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value)[:64])
    except InvalidOperation:
        return None
    if not amount.is_finite() or not 0 <= amount < _DOLLARS:
        return None
    return int((amount * NANO).to_integral_value())  # half to even, as everywhere


def first_token_ms(span: Span, seconds: Value, moment: str | None, events: Collection[str]) -> float | None:
    """Milliseconds from the span's start to the first token: as told, from a moment, or from an event."""
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and isfinite(seconds) and seconds >= 0:
        return seconds * 1e3
    if moment is not None:
        try:
            at = datetime.fromisoformat(moment.strip('"').replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
        ms = at * 1e3 - span.start / 1e6
        # A moment is told in milliseconds or less, so it may seem a little early; outside of the span it is no such.
        return max(round(ms, 3), 0.0) if -2 <= ms <= max(span.end - span.start, 0) / 1e6 + 2 else None
    for event in span.events:
        if event.name in events and event.at >= span.start:
            return (event.at - span.start) / 1e6
    return None


def tags_of(told: Value, own: Mapping[str, Value], environment: str | None) -> dict[str, str]:
    """Tags as Mainstay has them, a name and a value each: ``feature=search`` and ``feature:search`` are split, a bare
    tag is ``true``."""
    listed: Value = told
    if isinstance(told, str):
        decoded = _decoded(told) if told.startswith("[") else None
        listed = tuple(cast(list[Value], decoded)) if isinstance(decoded, list) else tuple(told.split(","))
    tags: dict[str, str] = {}
    if environment is not None:
        tags["environment"] = environment[:_TAG]
    for one in listed if isinstance(listed, tuple) else ():
        if isinstance(one, str) and one.strip() and len(tags) < _TAGS:
            name, _, value = one.strip().replace(":", "=", "=" not in one).partition("=")
            tags[name[:_TAG]] = value[:_TAG] or "true"
    for name, value in own.items():
        if len(tags) < _TAGS or name in tags:
            tags[name[:_TAG]] = str(value)[:_TAG]
    return tags


def error_of(
    span: Span, level: str | None, error: str | None, message: str | None, limit: int
) -> tuple[bool, str | None, str | None]:
    """Whether the span went well, else the error's type and what it says."""
    if span.status != "error" and (level or "").upper() != "ERROR" and error is None:
        return True, None, None
    for event in reversed(span.events):
        if event.name == "exception":
            kind, said = event.attributes.get("exception.type"), event.attributes.get("exception.message")
            error = error or (str(kind) if kind else None)
            message = message or (str(said) if said else None)
            break
    message = span.status_message or message
    return False, (error or "error")[:limit], message[:limit] if message else None


def names_of(value: Value) -> dict[str, Value]:
    """An object that came as one, or as JSON; empty for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _decoded(value)
    return dict(value) if isinstance(value, Mapping) else {}


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
