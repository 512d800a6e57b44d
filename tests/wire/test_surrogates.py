"""An emoji that a server cut between two events is neither lost nor takes its neighbours along."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.core.event import Frame, TextDelta
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.dialect import Dialect
from mainstay.wire.gemini import Gemini
from mainstay.wire.openai_chat import OpenAIChat
from mainstay.wire.openai_responses import OpenAIResponses
from mainstay.wire.surrogates import Halves

FIRST, SECOND = r"\ud83d", r"\ude00"


@pytest.mark.parametrize(
    ("sent", "mended"),
    [
        ([rf'"A{FIRST}"', rf'"{SECOND}B"'], ['"A"', '"😀B"']),
        ([rf'"{FIRST}"', rf'"{SECOND}"'], ['""', '"😀"']),
        ([rf'"A{FIRST}"', rf'"B{SECOND}"'], ['"A"', '"B�"']),  # a second half that is not at the beginning
        ([rf'"{SECOND}B"'], ['"�B"']),  # nothing came before
        ([rf'"{FIRST}B"'], ['"�B"']),  # something else came after
        ([rf'"{FIRST}{FIRST}{SECOND}"'], ['"�😀"']),
        ([rf'"{FIRST}{SECOND}{FIRST}"', rf'"{SECOND}"'], ['"😀"', '"😀"']),
        ([rf'"a\"{SECOND}"'], ['"a\\"�"']),
        ([rf'["\\{FIRST[1:]}","{FIRST}"]'], [r'["\\ud83d",""]']),  # the first is a backslash and five letters
    ],
)
def test_halves(sent: list[str], mended: list[str]) -> None:
    halves = Halves()
    found = [halves.mended(data.encode()) for data in sent]
    assert [json.loads(data or b"null") for data in found] == [json.loads(data) for data in mended]


@given(st.lists(st.sampled_from(['"', "\\", "u", "d83d", "de00", FIRST, SECOND, "x", "\\n", "D9"]), max_size=12))
def test_what_is_mended_has_no_halves_left(pieces: list[str]) -> None:
    """So that reading what was mended comes to an end."""
    halves = Halves()
    halves.mended(f'"{FIRST}"'.encode())
    mended = halves.mended("".join(pieces).encode())
    assert mended is None or Halves().mended(mended) is None


@pytest.mark.parametrize("whole", ['{"a":"b"}', rf'"{FIRST}{SECOND}"', r'"\\ud83d"', "{", '"\\'])
def test_what_has_no_halves_is_left_to_others(whole: str) -> None:
    assert Halves().mended(whole.encode()) is None


@pytest.mark.parametrize("dialect", [OpenAIChat(), OpenAIResponses(), Anthropic()], ids=lambda one: one.name)
def test_a_request_with_half_an_emoji_is_told_so(dialect: Dialect) -> None:
    body = f'{{"model":"m","max_tokens":9,"input":"x","messages":[{{"role":"user","content":"A{FIRST}"}}]}}'
    with pytest.raises(Invalid, match="half of a surrogate pair"):
        dialect.peek("chat", body.encode(), "application/json")


STREAMS: dict[str, tuple[Dialect, Callable[[str], str]]] = {
    "openai": (OpenAIChat(), lambda text: f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}\n\n'),
    "openai-responses": (
        OpenAIResponses(),
        lambda text: (
            'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","output_index":0,'
            f'"content_index":0,"item_id":"m","delta":"{text}"}}\n\n'
        ),
    ),
    "anthropic": (
        Anthropic(),
        lambda text: (
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            f'"delta":{{"type":"text_delta","text":"{text}"}}}}\n\n'
        ),
    ),
    "gemini": (
        Gemini(),
        lambda text: f'data: {{"candidates":[{{"index":0,"content":{{"parts":[{{"text":"{text}"}}]}}}}]}}\n\n',
    ),
}


@pytest.mark.parametrize(("dialect", "event"), STREAMS.values(), ids=STREAMS)
def test_a_stream_that_is_cut_between_the_halves(dialect: Dialect, event: Callable[[str], str]) -> None:
    sent = [event(f"A{FIRST}").encode(), event(f"{SECOND}B").encode()]
    reader = dialect.reader("chat")
    frames: list[Frame] = [frame for data in sent for frame in reader.feed(data)]
    assert "".join(one.text for frame in frames for one in frame.events if isinstance(one, TextDelta)) == "A😀B"
    assert not any(frame.unread for frame in frames)
    assert b"".join(frame.raw or b"" for frame in frames) == b"".join(sent)  # what passes through stays as it came
