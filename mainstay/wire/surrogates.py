"""Halves of a surrogate pair in a stream of JSON: some servers cut text between the two, and no decoder takes one alone.

An emoji is two UTF-16 units, ``\\ud83d\\ude00`` as JSON escapes it. A server that cuts its text by such units may send the
first at the end of one event and the second at the beginning of the next. JavaScript and Python's own decoder let that
pass; msgspec does not, and the text of both events would be lost with it.
"""

from __future__ import annotations

import re

from mainstay.core.errors import Invalid

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<first>u[dD][89abAB][0-9a-fA-F]{2})|(?P<second>u[dD][c-fC-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""One escape, or the two of a whole pair."""
_SOUND = re.compile(
    rb"(?:[^\\]++|\\(?:[^u]|u(?![dD][89a-fA-F][0-9a-fA-F]{2})|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+",
    re.DOTALL,
)
"""All that comes before the first lone half, found in one pass without a call."""
_LONE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_REPLACEMENT = rb"\ufffd"
_LOOKED_AT = 1024 * 1024
"""Bytes of a request that cannot be read in which halves are looked for; a longer one is not worth the time."""


def _has_lone(data: bytes) -> bool:
    sound = _SOUND.match(data)
    return sound is not None and _LONE.match(data, sound.end()) is not None


class Halves:
    """Mends the events of one stream: what a string ends with waits for the string of a later event that goes on with it."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting = b""

    def mended(self, data: bytes) -> bytes | None:
        """``data`` without lone halves; None where it has none, and is unreadable for another reason.

        A second half at the beginning of a string gets the first that waits, a first half at the end of one is taken out
        and waits, and any other becomes U+FFFD.
        """
        if not _has_lone(data):
            return None
        before, waiting = self._waiting, b""

        def whole(match: re.Match[bytes]) -> bytes:
            nonlocal waiting
            escape = match[0]
            if match["first"] is not None:
                if data[match.end() : match.end() + 1] != b'"':
                    return _REPLACEMENT
                waiting = escape
                return b""
            if match["second"] is not None:
                start = match.start()
                begins = data[start - 1 : start] == b'"' and data[start - 2 : start - 1] != b"\\"
                return before + escape if begins and before else _REPLACEMENT
            return escape

        mended = _ESCAPE.sub(whole, data)
        self._waiting = waiting
        return mended


def cut_emoji(body: bytes) -> Invalid | None:
    """What is wrong with a request that holds a lone half, as a text cut by UTF-16 units does; None if it has none."""
    if len(body) > _LOOKED_AT or not _has_lone(body):
        return None
    return Invalid(
        "a text in the body holds half of a surrogate pair (an emoji cut in two, such as \\ud83d alone); cut texts by "
        "whole characters",
        code="invalid_json",
    )
