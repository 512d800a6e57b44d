"""What a reply has said so far."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mainstay.core import progress as module
from mainstay.core.event import (
    Citation,
    End,
    Event,
    Failed,
    Finish,
    Opaque,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ThinkingSigned,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.progress import Progress
from mainstay.core.usage import Usage

texts = st.text("abc ", max_size=4)
choices = st.integers(0, 1)
contents = st.one_of(
    st.tuples(texts, choices).map(lambda given: TextDelta(*given)),
    st.builds(ThinkingDelta, texts, choices),
    st.builds(ThinkingSigned, texts, st.booleans(), choices),
    st.builds(RefusalDelta, texts, choices),
    st.builds(ToolStart, st.integers(0, 2), texts, texts, choices),
    st.builds(ToolDelta, st.integers(0, 2), texts, choices),
    st.builds(Citation, st.just({"url": "u"}), choices),
)


def seen(*events: Event) -> Progress:
    progress = Progress()
    progress.see(events)
    return progress


@given(st.lists(contents, max_size=30))
def test_a_condensed_reply_is_the_same_reply(events: list[Event]) -> None:
    whole = seen(Start("id", "m"), *events)
    short = whole.condensed()
    again = seen(*short)
    assert again.shape() == whole.shape()
    assert (again.text, again.size, again.content, again.text_only) == (
        *(whole.text, whole.size, whole.content, whole.text_only),
    )
    assert again.condensed() == short
    for one, two in pairwise(short):
        if isinstance(one, TextDelta | ThinkingDelta | RefusalDelta):
            assert (type(one), one.choice) != (type(two), getattr(two, "choice", None)), "neighbours are joined"


def test_what_counts_as_content_and_as_an_end() -> None:
    progress = seen(Start("id", "m"), Opaque("ping"), UsageSeen(Usage(3, 1)))
    assert (progress.content, progress.finished, progress.end) == (False, False, False)
    progress.see((TextDelta("x"), TextDelta("y", 1), Finish("stop")))
    assert progress.content
    assert not progress.finished, "the second choice goes on"
    progress.see((Finish("length", 1), UsageSeen(Usage(3, 2)), End()))
    assert progress.finished
    assert progress.end
    assert progress.usage == Usage(3, 2), "the last figures count"
    assert {choice: finish.reason for choice, finish in progress.finishes.items()} == {0: "stop", 1: "length"}
    assert seen(Failed("overloaded", "busy")).failed == Failed("overloaded", "busy")


def test_only_plain_text_of_one_choice_can_be_continued() -> None:
    assert seen(TextDelta("a"), TextDelta("b")).text_only
    assert not seen(TextDelta("a"), ToolStart(0, "id", "f")).text_only
    assert not seen(TextDelta("a", 1)).text_only
    assert not seen(TextDelta("a", 0, ({"token": "a"},))).text_only


def test_a_shape_compares_tools_by_name_and_arguments_and_leaves_thoughts_out() -> None:
    one = seen(
        ThinkingDelta("hm"),
        TextDelta("a"),
        ToolStart(0, "id1", "f"),
        ToolDelta(0, "{"),
        TextDelta("b"),
        ToolDelta(0, "}"),
    )
    two = seen(TextDelta("ab"), ToolStart(0, "id2", "f"), ToolDelta(0, "{}"))
    assert one.shape() == two.shape() == [("text", 0, "ab"), ("tool0", 0, "f\0{}")]


def test_a_long_answer_is_served_but_not_kept() -> None:
    progress = Progress()
    piece = TextDelta("x" * 65_536)
    for _ in range(80):
        progress.see((piece,))
    assert progress.overflow
    assert len(progress.text) <= module.TEXT_LIMIT + 65_536
