"""The binary framing of AWS event streams."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import UpstreamFailed
from mainstay.wire.eventstream import HEADERS_LIMIT, LIMIT, HeaderValue, Messages, encode
from tests.wire.canonical import cuts

values: st.SearchStrategy[HeaderValue] = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=40),
    st.text(max_size=40),
    st.uuids(),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
        lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
    ),
)
headers = st.dictionaries(st.text(min_size=1, max_size=40), values, max_size=6)
streams = st.lists(st.tuples(headers, st.binary(max_size=200)), min_size=1, max_size=4)


@given(streams, st.lists(st.integers(0, 10_000), max_size=10))
def test_what_is_encoded_is_read_however_it_is_cut(
    messages: list[tuple[dict[str, HeaderValue], bytes]], places: list[int]
) -> None:
    data = b"".join(encode(*message) for message in messages)
    reading = Messages()
    found = [message for piece in cuts(data, places) for message in reading.feed(piece)]
    assert [(message.headers, message.payload) for message in found] == messages
    assert b"".join(message.raw for message in found) == data
    assert reading.pending == 0


def test_a_known_message() -> None:
    message = encode(
        {":event-type": "messageStop", ":content-type": "application/json", ":message-type": "event"},
        b'{"stopReason":"end_turn"}',
    )
    assert len(message) == int.from_bytes(message[:4], "big")
    assert message[:8] == (len(message)).to_bytes(4, "big") + (len(message) - 16 - 25).to_bytes(4, "big")
    assert message[8:12] == crc32(message[:8]).to_bytes(4, "big")
    assert message[-4:] == crc32(message[:-4]).to_bytes(4, "big")
    (read,) = Messages().feed(message)
    assert read.text(":event-type") == "messageStop"
    assert read.text(":exception-type") == ""


def test_every_type_of_header() -> None:
    sent: dict[str, HeaderValue] = {
        "yes": True,
        "no": False,
        "byte": -3,
        "short": 300,
        "int": 70_000,
        "long": 2**40,
        "bytes": b"\x00\xff",
        "text": "wörld",
        "time": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "uuid": UUID(int=7),
    }
    message = encode(sent, b"")
    assert Messages().feed(message)[0].headers == sent
    for kind in range(10):
        assert bytes([kind]) in message


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    data = bytearray(encode({":event-type": "contentBlockDelta"}, b'{"delta":{"text":"hello"}}'))
    data[place % len(data)] ^= change
    reading = Messages()
    with pytest.raises(UpstreamFailed) as caught:
        reading.feed(bytes(data))
    assert caught.value.kind == "unreadable"


def relabelled(data: bytes, length: int, headers_length: int) -> bytes:
    """The message with other lengths and checksums that fit them."""
    lengths = length.to_bytes(4, "big") + headers_length.to_bytes(4, "big")
    message = lengths + crc32(lengths).to_bytes(4, "big") + data[12:-4]
    return message + crc32(message).to_bytes(4, "big")


def test_a_message_over_the_limit_is_refused_before_it_arrives() -> None:
    data = encode({}, b"x" * 100)
    with pytest.raises(UpstreamFailed) as caught:
        Messages().feed(relabelled(data, LIMIT + 1, 0)[:12])
    assert caught.value.kind == "too_large"
    with pytest.raises(UpstreamFailed) as caught:
        Messages().feed(relabelled(data, LIMIT, HEADERS_LIMIT + 1)[:12])
    assert caught.value.kind == "too_large"
    with pytest.raises(UpstreamFailed) as caught:
        Messages(limit=100).feed(data)
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize("headers_length", [200, 1, 3])
def test_lengths_that_contradict_each_other_are_unreadable(headers_length: int) -> None:
    data = encode({"a": "b"}, b"x" * 20)
    with pytest.raises(UpstreamFailed) as caught:
        Messages().feed(relabelled(data, len(data), headers_length))
    assert caught.value.kind == "unreadable"


def test_a_header_of_no_known_type_is_unreadable() -> None:
    data = bytearray(encode({"a": 1}, b""))
    data[14] = 99
    with pytest.raises(UpstreamFailed) as caught:
        Messages().feed(relabelled(bytes(data), len(data), 4))
    assert caught.value.kind == "unreadable"


def test_what_cannot_be_encoded() -> None:
    for name, value in (("", "x"), ("n" * 256, "x"), ("a", "x" * 40_000), ("a", 2**70)):
        with pytest.raises(ValueError, match=r"bytes|bits"):
            encode({name: value}, b"")
    with pytest.raises(ValueError, match="limit"):
        encode({}, b"x" * LIMIT)
