"""Compressed replies: whole again, told when they are cut, and never more than a step in memory."""

from __future__ import annotations

import functools
import gzip
import resource
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.http_coding import STEP, unpacker
from tests.edge.http_rig import on_uvloop
from tests.upstream.http_rig import Peer, provider


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "Deflate": raw_deflate}


@given(st.sampled_from(sorted(PACK)), st.binary(max_size=5000), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_a_packed_body_comes_back_however_it_is_cut(coding: str, body: bytes, repeat: int, step: int) -> None:
    body *= repeat
    packed = PACK[coding](body)
    one = unpacker(coding)
    assert one is not None
    out = b""
    for at in range(0, len(packed), step):
        one.feed(packed[at : at + step])
        while piece := one.take():
            out += piece
    one.finish()
    assert out == body


def test_several_members_are_one_body() -> None:
    one = unpacker("gzip")
    assert one is not None
    one.feed(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b"))
    assert one.take() + one.take() + one.take() == b"ab"
    one.finish()


def test_what_is_cut_broken_or_too_long_is_told() -> None:
    packed = gzip.compress(b"x" * 1000)
    for coding, data, kind in (
        ("gzip", packed[:-1], "cut"),
        ("gzip", packed[:5], "cut"),
        ("gzip", b"<html>", "unreadable"),
        ("gzip", packed + b"<html>", "unreadable"),
        ("gzip", packed[:-8] + b"\0" * 8, "unreadable"),
        ("deflate", b"\xff" * 20, "unreadable"),
        ("deflate", zlib.compress(b"x") + b"y", "unreadable"),
    ):
        one = unpacker(coding)
        assert one is not None

        def all_of(one: object = one, data: bytes = data) -> None:
            one.feed(data)  # type: ignore[attr-defined]
            while one.take():  # type: ignore[attr-defined]
                pass
            one.finish()  # type: ignore[attr-defined]

        with pytest.raises(UpstreamFailed) as caught:
            all_of()
        assert caught.value.kind == kind
    for coding in ("br", "zstd", "gzip, gzip", "compress"):
        with pytest.raises(UpstreamFailed):
            unpacker(coding)
    assert unpacker("identity") is None


@functools.cache
def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1024 * 1024)
    return b"".join(packer.compress(block) for _ in range(size // len(block))) + packer.flush()


def test_a_bomb_is_unpacked_in_steps_and_stopped_at_its_ratio() -> None:
    one = unpacker("gzip")
    assert one is not None
    one.feed(bomb(128 * 1024 * 1024))
    total = 0

    def take_all() -> None:
        nonlocal total
        while piece := one.take():
            assert len(piece) <= STEP
            total += len(piece)

    with pytest.raises(UpstreamFailed) as caught:
        take_all()
    assert caught.value.kind == "too_large"
    assert total <= 32 * 1024 * 1024


@pytest.mark.parametrize("max_body", [None, 3_000_000])
@on_uvloop
async def test_a_bomb_from_a_provider_ends_in_an_error_and_little_memory(max_body: int | None) -> None:
    packed = bomb(128 * 1024 * 1024)
    assert len(packed) < 250_000

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed))
        await peer.send(packed)
        await peer.gone()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with provider(script) as rig:
        up = await rig.ask(max_body=max_body)
        await up.head()
        total = 0

        async def read_all() -> None:
            nonlocal total
            while piece := await up.read():
                assert len(piece) <= STEP
                total += len(piece)

        with pytest.raises(UpstreamFailed) as caught:
            await read_all()
        assert caught.value.kind == "too_large"
        if max_body is not None:
            assert total <= max_body
        up.release()
        assert rig.pool.idle == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@on_uvloop
async def test_a_packed_stream_is_read_as_it_comes() -> None:
    packer = zlib.compressobj(wbits=31)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(3):
            piece = packer.compress(b"event %d\n\n" % n) + packer.flush(zlib.Z_SYNC_FLUSH)
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await peer.reader.readexactly(1)
        rest = packer.flush()
        await peer.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        await peer.gone()

    async with provider(script) as rig:
        up = await rig.ask()
        await up.head()
        for n in range(3):
            assert await up.read() == b"event %d\n\n" % n
            assert up._connection is not None  # pyright: ignore[reportPrivateUsage]
            transport = up._connection._transport  # pyright: ignore[reportPrivateUsage]
            assert transport is not None
            transport.write(b"!")
        assert await up.read() == b""
        up.release()
        assert rig.pool.idle == 1


@on_uvloop
async def test_a_packed_body_that_stops_before_its_end_is_cut() -> None:
    packed = gzip.compress(b"hello" * 1000)[:-4]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)
        )
        await peer.gone()

    async with provider(script) as rig:
        with pytest.raises(UpstreamFailed) as caught:
            await rig.answer()
        assert caught.value.kind == "cut"
