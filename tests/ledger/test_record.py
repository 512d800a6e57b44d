"""Records: what they say of a call, and how much room they take."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.call import Attempt
from mainstay.core.usage import Usage
from mainstay.ledger.record import RECORD_LIMIT, crashed, decode, decode_open, encode
from mainstay.ledger.recording import closed, opened
from tests.ledger.cases import POOL, call, opening, record


def test_a_closed_call_says_what_came_of_it() -> None:
    made = closed(call(), ended=100.2, charges={POOL: 1234}, reply_bytes=400, content="1/x")
    assert decode(encode(made)) == made
    assert (made.id, made.at, made.team, made.key, made.key_id) == (
        "call_01",
        1_795_000_000_250_000,
        "support",
        "web",
        "key_1",
    )
    assert (made.duration_ms, made.first_token_ms) == (200.0, 50.0)
    assert made.overhead_ms is not None
    assert abs(made.overhead_ms - 130) < 0.01
    assert (made.input, made.output, made.cached_input, made.cost_nano) == (21, 9, 16, 1234)
    assert (made.usage_estimated, made.cost_estimated) == (False, False)
    assert made.upstream_model == "claude"
    assert [a.error for a in made.attempts] == ["overloaded", None]
    assert made.attempts[0].duration_ms == 20.123
    assert (made.charges, made.reply_bytes, made.request_bytes, made.content) == ({POOL: 1234}, 400, 2, "1/x")


def test_what_is_not_known_is_left_out() -> None:
    made = closed(call(usage=None, cost=None, attempts=[], model=None, first_token=None), ended=100.1, charges={})
    text = encode(made).decode()
    for name in ("input", "cost_nano", "first_token_ms", "attempts", "model", "charges", "null"):
        assert f'"{name}"' not in text
    assert closed(call(usage=Usage(1, 1, estimated=True)), ended=101, charges={}).cost_estimated is True


def test_a_crashed_call_is_charged_with_what_it_held() -> None:
    note = opened(call(), {POOL: 99}, ["small", "large"])
    assert decode_open(encode(note)) == note
    made = crashed(note)
    assert (made.outcome, made.cost_nano, made.charges) == ("crashed", None, {POOL: 99})
    assert (made.id, made.at, made.team, made.tags, made.route) == (
        note.id,
        note.at,
        "support",
        {"feature": "search"},
        "chat",
    )


def test_a_lone_surrogate_does_not_stop_a_record() -> None:
    made = decode(encode(record(message="a\ud800b", tags={"k\udfff": "v"})))
    assert (made.message, made.tags) == ("a?b", {"k?": "v"})
    assert decode_open(encode(opening(user="\ud800"))).user == "?"


_text = st.text(max_size=3000)


@settings(max_examples=60, deadline=None)
@given(
    _text,
    _text,
    st.dictionaries(st.text(max_size=40), _text, max_size=8),
    st.lists(_text, max_size=30),
    st.integers(0, 60),
    _text,
)
def test_a_record_fits_the_room_that_was_set_aside(
    message: str, user: str, tags: dict[str, str], why: list[str], attempts: int, error: str
) -> None:
    made = call(message=message, user=user, tags=tags, why=why, session=user)
    made.attempts = [
        Attempt("small", "alpha", "gpt", 1.0, error="cut", message=error, usage=Usage(5, 5), cost=3, request_id=error)
        for _ in range(attempts)
    ]
    data = encode(closed(made, ended=101.0, charges={POOL: 5}))
    assert len(data) <= RECORD_LIMIT
    found = decode(data)
    assert (found.charges, found.cost_nano, found.input, found.id) == ({POOL: 5}, 1234, 21, "call_01")
    assert len(encode(opened(made, {POOL: 5}, ["m"] * attempts))) <= RECORD_LIMIT
