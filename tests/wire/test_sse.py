"""Server-sent events: every byte kept, every line ending, any cut."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import UpstreamFailed
from mainstay.wire.sse import SseEvent, SseSplitter


def split(*chunks: bytes, limit: int = 8 * 1024 * 1024) -> list[SseEvent]:
    splitter = SseSplitter(limit)
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events + splitter.finish()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: {}\n\n", [(b"data: {}\n\n", b"{}", b"")]),
        (b"data:{}\n\n", [(b"data:{}\n\n", b"{}", b"")]),
        (b"data:  two\n\n", [(b"data:  two\n\n", b" two", b"")]),
        (b"data: a\r\n\r\n", [(b"data: a\r\n\r\n", b"a", b"")]),
        (b"data: a\r\rdata: b\r\r", [(b"data: a\r\r", b"a", b""), (b"data: b\r\r", b"b", b"")]),
        (b"data: a\ndata: b\n\n", [(b"data: a\ndata: b\n\n", b"a\nb", b"")]),
        (b"event: x\ndata: a\n\n", [(b"event: x\ndata: a\n\n", b"a", b"x")]),
        (b"event: x\ndata: a\ndata: b\n\n", [(b"event: x\ndata: a\ndata: b\n\n", b"a\nb", b"x")]),
        (b"event: x\nid: 1\ndata: a\n\n", [(b"event: x\nid: 1\ndata: a\n\n", b"a", b"x")]),
        (b"event:x\r\ndata:a\r\n\r\n", [(b"event:x\r\ndata:a\r\n\r\n", b"a", b"x")]),
        (b"data: a\nevent: x\n\n", [(b"data: a\nevent: x\n\n", b"a", b"x")]),
        (b": ping\n\n", [(b": ping\n\n", b"", b"")]),
        (b": ping\ndata: a\n\n", [(b": ping\ndata: a\n\n", b"a", b"")]),
        (b"\n\n\ndata: a\n\n", [(b"\n\n", b"", b""), (b"\ndata: a\n\n", b"a", b"")]),
        (b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", [(b"\xef\xbb\xbfdata: a\n\n", b"a", b""), (b"data: b\n\n", b"b", b"")]),
        (b"data\n\n", [(b"data\n\n", b"", b"")]),
        (b"data: a", [(b"data: a", b"a", b"")]),
        (b"data: a\n", [(b"data: a\n", b"a", b"")]),
        (b"data: a\r\n\r", [(b"data: a\r\n\r", b"a", b"")]),
        (b"database: a\n\n", [(b"database: a\n\n", b"", b"")]),
        (b"", []),
    ],
)
def test_what_an_event_is(stream: bytes, expected: list[tuple[bytes, bytes, bytes]]) -> None:
    assert split(stream) == expected


def test_the_byte_order_mark_may_be_cut_and_only_the_first_counts() -> None:
    assert [event.data for event in split(b"\xef", b"\xbb\xbfda", b"ta: a\n\n", b"\xef\xbb\xbfdata: b\n\n")] == [
        b"a",
        b"",
    ]


LINES = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data",
        b": ping",
        b"event: message",
        b"id: 7",
        b"retry: 3",
        b"odd",
        b"data: \xc3\xa9",
        b"",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.lists(st.tuples(LINES, ENDS)).map(lambda pairs: b"".join(line + end for line, end in pairs))


@given(STREAMS | st.binary(max_size=60) | st.text("\r\n:d", max_size=40).map(str.encode), st.data())
def test_cuts_change_nothing_and_no_byte_is_lost(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = split(stream)
    assert b"".join(event.raw for event in whole) == stream
    assert split(*chunks) == whole
    assert split(*[stream[i : i + 1] for i in range(len(stream))]) == whole


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), st.booleans()),
        max_size=6,
    ),
    ENDS,
)
def test_data_comes_out_as_it_went_in(values: list[tuple[str, bool]], end: bytes) -> None:
    stream = b""
    for value, named in values:
        stream += (b"event: n" + end if named else b"") + b"data: " + value.encode() + end + end
    assert [(event.data, event.event) for event in split(stream)] == [
        (value.encode(), b"n" if named else b"") for value, named in values
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_event_over_the_limit_is_refused_however_it_arrives(end: bytes) -> None:
    event = b"data: " + b"x" * 80 + end + end
    assert len(split(event, limit=len(event))) == 1
    for chunks in ([event], [event[:50], event[50:]], [event[i : i + 1] for i in range(len(event))], [event[:-2] * 2]):
        with pytest.raises(UpstreamFailed) as failed:
            split(*chunks, limit=len(event) - 1)
        assert failed.value.kind == "too_large"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_many_small_feeds_cost_no_more_per_byte_than_few(end: bytes) -> None:
    def seconds(size: int) -> float:
        event = b"data: " + b"x" * size + end + end
        best = 1e9
        for _ in range(3):
            splitter = SseSplitter()
            begun = time.process_time()
            count = sum(len(splitter.feed(event[i : i + 16])) for i in range(0, len(event), 16))
            best = min(best, time.process_time() - begun)
            assert count + len(splitter.finish()) == 1
        return best

    # Eight times the bytes: eight times the time if linear, sixty-four times if quadratic.
    assert seconds(1_600_000) < 30 * seconds(200_000)
