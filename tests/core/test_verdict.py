"""Verdicts: which one counts, what a type takes, and how much an edit changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.edit import LONGEST, distance, share_changed, sides
from mainstay.core.errors import Invalid
from mainstay.core.verdict import BUILT_IN, Verdict, VerdictType, checked_by, known, latest


def verdict(ident: str, at: int, by: str = "user", subject: str = "call_1", number: float = 1.0) -> Verdict:
    return Verdict("red", ident, "red", "call", subject, "thumbs", by, number, None, "", at, 0, "key")


VERDICTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["user", "product"]), st.sampled_from(["call_1", "call_2"])),
    max_size=12,
).map(lambda made: [verdict(f"v{i}", at, by, subject) for i, (at, by, subject) in enumerate(made)])


@given(VERDICTS.flatmap(lambda made: st.tuples(st.just(made), st.permutations(made))))
def test_which_one_counts_does_not_depend_on_the_order_of_arrival(both: tuple[list[Verdict], list[Verdict]]) -> None:
    sent, arrived = both
    counted = {one.group: one for one in latest(arrived)}
    assert counted == {one.group: one for one in latest(sent)}
    for one in sent:
        assert counted[one.group].order >= one.order


def plain(one: str, other: str) -> int:
    """The textbook's table (Wagner and Fischer, 1974)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


@given(st.text("abc ", max_size=40), st.text("abc ", max_size=40))
def test_the_distance_is_levenshteins(one: str, other: str) -> None:
    assert distance(one, other) == distance(other, one) == plain(one, other)


def test_the_share_changed_is_from_nothing_to_all() -> None:
    assert share_changed("", "") == share_changed("same", "same") == 0
    assert share_changed("", "new") == share_changed("old!", "") == 1
    assert share_changed("kitten", "sitting") == 3 / 7
    with pytest.raises(Invalid, match="send the part"):
        share_changed("x" * (LONGEST + 1), "")


def test_a_diff_shows_both_sides() -> None:
    diff = "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n first\n--- dashes\n+++ pluses\n last\n\\ No newline at end of file\n"
    assert sides(diff) == ("first\n-- dashes\nlast", "first\n++ pluses\nlast")
    with pytest.raises(Invalid, match="unified diff"):
        sides("just text")


def test_a_type_takes_its_values_and_no_others() -> None:
    tone = VerdictType("tone", "category", categories=("kind", "rude"))
    cases: list[tuple[VerdictType, list[object], list[object]]] = [
        (BUILT_IN["thumbs"], [True, False], [1, 0.0, "true", None]),
        (BUILT_IN["rating"], [1, 5, 2.5], [0, 5.01, True, "3", float("nan"), float("inf"), 10**400]),
        (BUILT_IN["outcome"], [-1e9, 0], [None, [1], {}]),
        (tone, ["kind"], ["loud", "", 1]),
        (VerdictType("any", "category"), ["x"], ["", "x" * 129, "a\nb"]),
    ]
    for kind, good, bad in cases:
        for value in good:
            assert kind.said(kind.value(value)) == value
        for value in bad:
            with pytest.raises(Invalid, match="is"):
                kind.value(value)


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(Invalid, match='did you mean "task_success"') as told:
        known(BUILT_IN, "tasksuccess")
    assert "handoff" in str(told.value)
    for by in ("user", "product", "judge:gpt v2", "human:ann@example.com"):
        assert checked_by(by) == by
    for by in ("", "users", "judge:", "judge: x", "human:\n", "judge:" + "x" * 200):
        with pytest.raises(Invalid):
            checked_by(by)
