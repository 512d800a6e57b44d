"""Content of spans: gathered from attributes, from attributes that were spread, and from events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from mainstay.observe.spans_dialect import Family
from mainstay.observe.spans_record import Content
from mainstay.wire.otlp_span import Event, Value

_DEPTH = 24  # levels of a path; what is deeper is one key


class Gathered:
    """The content of one span as it is found."""

    __slots__ = ("_families", "_messages", "_whole")

    def __init__(self) -> None:
        self._whole: dict[str, tuple[int, str, Value]] = {}
        self._families: dict[Family, dict[str, Value]] = {}
        self._messages: dict[str, list[Value]] = {}

    def whole(self, place: str, rank: int, name: str, value: Value) -> None:
        """One attribute that holds all; of several the one with the lowest ``rank`` counts."""
        key = name if place == "content" else place
        held = self._whole.get(key)
        if held is None or rank < held[0]:
            self._whole[key] = rank, name, value

    def spread(self, family: Family, name: str, value: Value) -> None:
        """One attribute of a list or object that was spread."""
        self._families.setdefault(family, {})[name] = value

    def event(self, place: str, event: Event) -> None:
        """One event that is a message."""
        attributes = event.attributes
        for name in ("gen_ai.prompt", "gen_ai.completion", "gen_ai.event.content"):
            if name in attributes:
                return self._messages.setdefault(place, []).append(attributes[name])
        role = {"role": event.name.split(".")[1]} if event.name.endswith(".message") else {}
        said = {key: value for key, value in attributes.items() if not key.startswith("gen_ai.")}
        return self._messages.setdefault(place, []).append({**role, **said})

    def content(self) -> Content | None:
        """All of it, or None where there is none. Messages that were spread are preferred to one text of them."""
        found: dict[str, str] = {}
        other: dict[str, str] = {}
        for family, members in self._families.items():
            if family.place == "content":
                other[family.prefix[:-1]] = text(_joined(family, members))
            elif family.place not in found:
                found[family.place] = text(_joined(family, members))
        for key, (_, _, value) in self._whole.items():
            if key not in ("input", "output"):
                other[key] = text(value)
            elif key not in found:
                found[key] = text(value)
        for place, messages in self._messages.items():
            if place not in found:
                found[place] = text(tuple(messages))
        if not found and not other:
            return None
        return Content(found.get("input"), found.get("output"), other)


def text(value: Value) -> str:
    """A value as text: its own, or JSON."""
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()  # bytes become base64, NaN null
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError):
        return str(value).encode("utf-8", "replace").decode()


def _joined(family: Family, members: Mapping[str, Value]) -> Value:
    """``{prefix.0.message.role: user}`` as ``[{role: user}]``."""
    root: dict[str, Any] = {}
    for name, value in members.items():
        path = name[len(family.prefix) :].split(".", _DEPTH)
        if family.wrapper and len(path) > 2 and path[1] == family.wrapper:
            del path[1]
        place = root
        for step in path[:-1]:
            inner = place.get(step)
            if not isinstance(inner, dict):
                inner = place[step] = {}
            place = cast(dict[str, Any], inner)
        place.setdefault(path[-1], value)
    return _listed(root)


def _listed(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    pairs = cast(dict[str, Any], found)
    if pairs and all(key.isdecimal() and len(key) < 10 for key in pairs):
        return tuple(_listed(pairs[key]) for key in sorted(pairs, key=int))
    return {key: _listed(one) for key, one in pairs.items()}
