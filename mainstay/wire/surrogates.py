"""Halves of a surrogate pair in a stream of JSON: some servers cut text between the two, and no decoder takes one alone.

An emoji is two UTF-16 units, ``\\ud83d\\ude00`` as JSON escapes it. A server that cuts its text by such units may send the
first at the end of one event and the second at the beginning of the next. JavaScript and Python's own decoder let that
pass; msgspec does not, and the text of both events would be lost with it.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<first>u[dD][89abAB][0-9a-fA-F]{2})|(?P<second>u[dD][c-fC-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""One escape, or the two of a whole pair."""
_REPLACEMENT = rb"\ufffd"


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
        before, waiting, found = self._waiting, b"", False

        def whole(match: re.Match[bytes]) -> bytes:
            nonlocal waiting, found
            escape = match[0]
            if match["first"] is not None:
                found = True
                if data[match.end() : match.end() + 1] != b'"':
                    return _REPLACEMENT
                waiting = escape
                return b""
            if match["second"] is not None:
                found = True
                start = match.start()
                begins = data[start - 1 : start] == b'"' and data[start - 2 : start - 1] != b"\\"
                return before + escape if begins and before else _REPLACEMENT
            return escape

        mended = _ESCAPE.sub(whole, data)
        if not found:
            return None
        self._waiting = waiting
        return mended
