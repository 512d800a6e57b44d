"""How much of a draft was changed: Levenshtein's distance over the longer text's length, exact, in bounded time."""

from __future__ import annotations

from mainstay.core.errors import Invalid

LONGEST = 50_000
"""Characters of either text."""


def share_changed(before: str, after: str) -> float:
    """The characters to put in, take out or replace, over the length of the longer text: 0 is the same, 1 all new.

    Raises ``Invalid`` for texts longer than ``LONGEST``: the time grows with the product of the two lengths.
    """
    if max(len(before), len(after)) > LONGEST:
        raise Invalid(f"edit: a text has more than {LONGEST} characters; send the part that was edited", field="edit")
    longest = max(len(before), len(after))
    return distance(before, after) / longest if longest else 0.0


def distance(one: str, other: str) -> int:
    """Levenshtein's distance, by Hyyrö's bit-parallel form of Myers' algorithm.

    G. Myers, "A fast bit-vector algorithm for approximate string matching", J. ACM 46(3), 1999; H. Hyyrö, "Explaining
    and extending the bit-parallel approximate string matching algorithm of Myers", 2001. A column of the table of
    distances is two integers of as many bits as the shorter text has characters.
    """
    one, other = _unlike(one, other)
    if len(one) < len(other):
        one, other = other, one
    if not other:
        return len(one)
    places: dict[str, int] = {}
    for i, char in enumerate(other):
        places[char] = places.get(char, 0) | 1 << i
    mask, last = (1 << len(other)) - 1, 1 << (len(other) - 1)
    up, down, found = mask, 0, len(other)
    for char in one:
        equal = places.get(char, 0)
        zero = (((equal & up) + up) ^ up) | equal | down
        right = down | (mask & ~(zero | up))
        left = up & zero
        if right & last:
            found += 1
        elif left & last:
            found -= 1
        right = (right << 1 | 1) & mask
        left = (left << 1) & mask
        up = left | (mask & ~(zero | right))
        down = right & zero
    return found


def sides(diff: str) -> tuple[str, str]:
    """The texts before and after of a unified diff, as far as its hunks show them. Raises ``Invalid`` for none."""
    before: list[str] = []
    after: list[str] = []
    hunk = False
    for line in diff.splitlines():
        if line.startswith("@@"):
            hunk = True
        elif line.startswith(("--- ", "+++ ")) and not hunk:
            continue
        elif hunk and line.startswith("-"):
            before.append(line[1:])
        elif hunk and line.startswith("+"):
            after.append(line[1:])
        elif hunk and not line.startswith("\\"):
            before.append(line[1:])
            after.append(line[1:])
    if not hunk:
        raise Invalid("edit.diff: expected a unified diff, with hunks that begin with @@", field="edit.diff")
    return "\n".join(before), "\n".join(after)


def _unlike(one: str, other: str) -> tuple[str, str]:
    """Both without what they begin and end with alike: most edits are small."""
    start, shorter = 0, min(len(one), len(other))
    while start < shorter and one[start] == other[start]:
        start += 1
    end = 0
    while end < shorter - start and one[-1 - end] == other[-1 - end]:
        end += 1
    return one[start : len(one) - end], other[start : len(other) - end]
