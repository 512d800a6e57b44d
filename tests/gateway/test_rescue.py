"""Joining answers: whatever was sent, and however the second answer is cut, the caller has the whole exactly once."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.core.event import (
    End,
    Event,
    Finish,
    RefusalDelta,
    Start,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageSeen,
)
from mainstay.core.progress import Progress
from mainstay.core.usage import Usage
from mainstay.gateway.rescue import Continuation, Regeneration

WORDS = st.lists(
    st.sampled_from(["one ", "two ", "three, ", "\n", "four", " fünf", "😀 ", "six. "]), min_size=1, max_size=40
)
TAIL: list[Event] = [Finish("stop"), UsageSeen(Usage(3, 4)), End()]


def seen(events: list[Event]) -> Progress:
    progress = Progress()
    progress.see(events)
    return progress


def pieces(text: str, cuts: list[int]) -> list[Event]:
    """``text`` as deltas, cut there."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [TextDelta(text[a:b]) for a, b in zip(places, places[1:], strict=False)]


def run(rescue: Continuation | Regeneration, batches: list[list[Event]]) -> list[Event]:
    out: list[Event] = []
    for batch in batches:
        out += rescue.feed(batch)
    return out + rescue.end()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def once(events: list[Event]) -> None:
    """Fail unless the answer ends once, in order, and does not begin again."""
    assert not any(isinstance(event, Start | ThinkingDelta) for event in events)
    assert sum(isinstance(event, Finish) for event in events) == 1
    assert isinstance(events[-1], End)
    assert not any(isinstance(event, TextDelta) for event in events[events.index(Finish("stop")) :])


@given(WORDS, st.integers(0, 400), st.lists(st.integers(0, 400), max_size=8), st.integers(1, 5))
def test_the_same_answer_again(words: list[str], at: int, cuts: list[int], size: int) -> None:
    whole = "".join(words)
    sent = whole[: at % (len(whole) + 1)]
    events: list[Event] = [Start("2", "m"), ThinkingDelta("hm"), *pieces(whole, cuts), *TAIL]
    batches = [events[i : i + size] for i in range(0, len(events), size)]
    rescue = Regeneration(seen([Start("1", "m"), TextDelta(sent)] if sent else [Start("1", "m")]))
    out = run(rescue, batches)
    assert sent + text_of(out) == whole
    once(out)
    assert rescue.progress.text == whole


@given(WORDS, st.integers(0, 400), WORDS)
def test_another_answer_is_refused(words: list[str], at: int, other: list[str]) -> None:
    whole, another = "".join(words), "".join(other)
    sent = whole[: at % len(whole) + 1]
    assume(not another.startswith(sent))
    with pytest.raises(Invalid):
        run(Regeneration(seen([TextDelta(sent)])), [[Start("2", "m"), TextDelta(another), *TAIL]])


@given(st.integers(1, 60), st.lists(st.integers(0, 400), max_size=8), st.integers(1, 5), st.booleans())
def test_a_continuation_goes_on(count: int, cuts: list[int], size: int, strips: bool) -> None:
    """The words differ, so that none of it looks like the beginning; formats may strip white space from a prefill."""
    words = [f"tok{i} " for i in range(1, 61)]
    sent, rest = "".join(words[:count]), "".join(words[count:])
    if strips:
        rest = " " + rest
    events: list[Event] = [Start("2", "m"), *pieces(rest, cuts), *TAIL]
    batches = [events[i : i + size] for i in range(0, len(events), size)]
    rescue = Continuation(seen([TextDelta(sent)]))
    out = run(rescue, batches)
    assert sent + text_of(out) == "".join(words)
    once(out)
    assert rescue.continued
    assert rescue.progress.text == "".join(words)


@given(st.integers(1, 60), st.lists(st.integers(0, 400), max_size=8), st.integers(1, 5))
def test_a_server_that_ignores_the_prefill_is_noticed(count: int, cuts: list[int], size: int) -> None:
    words = [f"tok{i} " for i in range(1, 61)]
    events: list[Event] = [Start("2", "m"), *pieces("".join(words), cuts), *TAIL]
    batches = [events[i : i + size] for i in range(0, len(events), size)]
    rescue = Continuation(seen([TextDelta("".join(words[:count]))]))
    out = run(rescue, batches)
    assert "".join(words[:count]) + text_of(out) == "".join(words)
    once(out)
    assert not rescue.continued


def tool(arguments: str, cuts: list[int], number: int = 0, name: str = "look_up") -> list[Event]:
    deltas: list[Event] = []
    for piece in pieces(arguments, cuts):
        assert isinstance(piece, TextDelta)
        deltas.append(ToolDelta(number, piece.text))
    return [ToolStart(number, "id", name), *deltas]


@given(st.integers(0, 40), st.lists(st.integers(0, 40), max_size=5), st.integers(1, 4))
def test_a_tool_call_is_completed_and_begins_once(at: int, cuts: list[int], size: int) -> None:
    arguments = '{"place": "Hamburg", "days": 3}'
    sent = arguments[: at % (len(arguments) + 1)]
    events = [Start("2", "m"), *tool(arguments, cuts), *tool("{}", [], 1, "second"), Finish("tool_calls"), End()]
    batches = [events[i : i + size] for i in range(0, len(events), size)]
    before: list[Event] = [ToolStart(0, "other id", "look_up")]
    if sent:
        before.append(ToolDelta(0, sent))
    out = run(Regeneration(seen(before)), batches)
    assert [event.tool for event in out if isinstance(event, ToolStart)] == [1]
    got = "".join(event.arguments for event in out if isinstance(event, ToolDelta) and event.tool == 0)
    assert sent + got == arguments


def test_another_tool_is_another_answer() -> None:
    with pytest.raises(Invalid):
        run(Regeneration(seen([ToolStart(0, "id", "look_up")])), [[*tool("{}", [], 0, "delete"), End()]])


def test_an_answer_that_is_shorter_than_what_was_sent_is_refused() -> None:
    with pytest.raises(Invalid):
        run(Regeneration(seen([TextDelta("one two three")])), [[TextDelta("one two"), *TAIL]])


def test_a_refusal_is_compared_like_text() -> None:
    rescue = Regeneration(seen([RefusalDelta("I can")]))
    out = run(rescue, [[RefusalDelta("I cannot."), Finish("refusal"), End()]])
    assert [event.text for event in out if isinstance(event, RefusalDelta)] == ["not."]


def test_a_choice_that_the_caller_has_whole_is_left_alone() -> None:
    before: list[Event] = [TextDelta("one", 0), Finish("stop", 0), TextDelta("un", 1)]
    rescue = Regeneration(seen(before))
    again: list[Event] = [
        TextDelta("one and more", 0),
        TextDelta("uno", 1),
        Finish("stop", 0),
        Finish("stop", 1),
        End(),
    ]
    out = run(rescue, [again[:2], again[2:]])
    assert [event for event in out if getattr(event, "choice", None) == 0] == []
    assert text_of(out) == "o"
    assert [event.choice for event in out if isinstance(event, Finish)] == [1]
    assert set(rescue.progress.finishes) == {0, 1}
