"""The header lines of a request to a provider: the provider's own, and those of the caller's that go along."""

from __future__ import annotations

from collections.abc import Mapping

_OF_A_FORMAT = frozenset(("anthropic-beta", "anthropic-version", "openai-beta"))
_ADDED_UP = frozenset(("anthropic-beta", "openai-beta"))


def head(lines: Mapping[str, str]) -> bytes:
    """The lines as they are sent."""
    return "".join([f"{name}: {value}\r\n" for name, value in lines.items()]).encode("latin-1")


def with_callers(lines: Mapping[str, str], given: Mapping[str, str], same: bool) -> bytes:
    """``lines`` and the caller's ``given``, as they are sent: each name once, and what belongs to a format only where
    the caller's format is the ``same`` as the provider's."""
    merged = dict(lines)
    for name, value in given.items():
        if name in _OF_A_FORMAT and not same:
            continue
        configured = lines.get(name) if name in _ADDED_UP else None
        merged[name] = value if configured is None else f"{configured},{value}"
    return head(merged)
