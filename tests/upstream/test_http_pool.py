"""Exchanges with providers over real sockets: kept connections, cut replies, deadlines, giving up."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.clock import Clock
from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.http import Origin, Pool, PoolLimits, header_lines
from tests.edge.http_rig import on_uvloop, until
from tests.upstream.http_rig import Peer, certificate, provider

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def answering(peer: Peer) -> None:
    while await peer.request():
        await peer.send(OK)


@on_uvloop
async def test_a_request_is_sent_as_given_and_its_connection_kept() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            seen.append(request)
            await peer.send(OK)

    async with provider(script) as rig:
        for n in range(3):
            status, headers, body = await rig.answer(b"body%d" % n, target="/v1/x?a=b")
            assert (status, headers["content-type"], body) == (200, "application/json", b"{}")
        assert rig.connections == 1
        assert rig.pool.idle == 1
        assert rig.pool.busy == 0
        port = rig.origin.port
        assert seen[1] == (
            b"POST /v1/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
            b"content-length: 5\r\n\r\nbody1" % port
        )
        up = await rig.pool.send(rig.origin, "GET", "/models", b"host: a\r\n", connect_timeout=1)
        await up.head()
        up.release()
        assert seen[-1] == b"GET /models HTTP/1.1\r\nhost: a\r\n\r\n"


@on_uvloop
async def test_the_last_connection_back_is_the_first_one_out() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(OK.replace(b"{}", b"%02d" % peer.number))

    async with provider(script) as rig:
        first, second = await rig.ask(), await rig.ask()
        for up in (first, second):
            await up.head()
            up.release()
            up.release()
        assert (await rig.answer())[2] == b"02"
        assert rig.connections == 2


@on_uvloop
async def test_a_kept_connection_that_was_closed_is_replaced_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            return  # closed while it is idle
        await peer.request()
        if peer.number == 2:
            peer.reset()  # closed just when it is used again
        elif peer.number == 3:
            await peer.send(OK)
            await peer.request()
        # the others: closed just when used again, orderly

    async with provider(script) as rig:
        await rig.answer()
        await until(lambda: not rig.pool.idle)
        assert (await rig.answer())[0] == 200
        assert (await rig.answer())[0] == 200  # on 2, which resets, then on 3
        assert rig.connections == 3
        assert (await rig.answer())[0] == 200  # on 3 again
        assert (await rig.answer())[0] == 200  # on 3, which closes, then on 4
        assert rig.connections == 4


@on_uvloop
async def test_it_is_replaced_only_once_and_never_when_fresh() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(OK)
            await peer.request()

    async with provider(script) as rig:
        await rig.answer()
        with pytest.raises(UpstreamFailed) as caught:
            await rig.answer()
        assert (caught.value.kind, caught.value.sent) == ("connect", True)
        assert rig.connections == 2
        with pytest.raises(UpstreamFailed) as caught:
            await rig.answer()
        assert (caught.value.kind, caught.value.sent) == ("connect", True)
        assert rig.connections == 3


@on_uvloop
async def test_a_connection_is_not_kept_when_it_cannot_be_trusted() -> None:
    for reply in (
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + b"more",
        OK + OK,
        b"HTTP/1.1 200 OK\r\n\r\nto the end",
    ):

        async def script(peer: Peer, reply: bytes = reply) -> None:
            await peer.request()
            await peer.send(reply)
            if b"to the end" not in reply:
                await peer.gone()

        async with provider(script) as rig:
            for n in (1, 2):
                status, _, body = await rig.answer()
                assert (status, body[:2]) == (200, reply.partition(b"\r\n\r\n")[2][:2])
                assert rig.connections == n


@on_uvloop
async def test_what_comes_unasked_closes_a_kept_connection() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await go.wait()
            await peer.send(OK.replace(b"{}", b"!!"))
        await peer.gone()

    async with provider(script) as rig:
        assert (await rig.answer())[2] == b"{}"
        go.set()
        await until(lambda: not rig.pool.idle)
        assert (await rig.answer())[2] == b"{}"


@on_uvloop
async def test_an_answer_before_the_request_was_read_is_an_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(OK.replace(b"200 OK", b"413 Too Large"))
        await peer.gone()

    async with provider(script) as rig:
        assert (await rig.answer(b"x" * 20_000_000))[0] == 413
        assert rig.pool.idle == 0


@on_uvloop
async def test_interim_replies_are_passed_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)
        await peer.gone()

    async with provider(script) as rig:
        status, headers, body = await rig.answer()
        assert (status, body) == (200, b"{}")
        assert "link" not in headers
        with pytest.raises(UpstreamFailed) as caught:
            await rig.answer()
        assert caught.value.kind == "unreadable"


CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "chunk": CHUNKED + b"8\r\nhalf",
    "between chunks": CHUNKED + b"4\r\nhalf\r\n",
    "last chunk": CHUNKED + b"4\r\nhalf\r\n0\r\n",
}


@pytest.mark.parametrize("how", CUT)
@pytest.mark.parametrize("abrupt", [False, True])
@on_uvloop
async def test_a_body_that_ends_early_is_cut_after_what_came(how: str, abrupt: bool) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CUT[how])
        await go.wait()
        if abrupt:
            peer.reset()

    async with provider(script) as rig:
        up = await rig.ask()
        assert (await up.head())[0] == 200
        assert up.delimited
        assert await up.read() == b"half"
        go.set()
        for _ in range(2):
            with pytest.raises(UpstreamFailed) as caught:
                await up.read()
            assert caught.value.kind == "cut"
        assert not up.ended
        up.release()
        assert rig.pool.idle == 0


@on_uvloop
async def test_a_body_that_ends_with_its_connection_is_told_apart() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall")

    async with provider(script) as rig:
        up = await rig.ask()
        await up.head()
        assert not up.delimited
        assert await up.body() == b"all"
        assert up.ended
        up.release()


UNREADABLE = {
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "html": b"<html><body>Bad Gateway</body></html>",
    "a line that is none": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "switched": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(300)) + b"\r\n",
    "huge header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "bad chunk": CHUNKED + b"zz\r\n",
    "endless trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * 1000,
    "brotli unasked": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
    "two codings": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("case", UNREADABLE)
@on_uvloop
async def test_what_is_no_reply_is_unreadable(case: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(UNREADABLE[case])
        await peer.gone()

    async with provider(script) as rig:
        with pytest.raises(UpstreamFailed) as caught:
            await rig.answer()
        assert caught.value.kind == "unreadable"
        assert rig.pool.busy == 0
        assert rig.pool.idle == 0


@on_uvloop
async def test_a_head_that_ends_early_is_cut() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConte")

    async with provider(script) as rig:
        with pytest.raises(UpstreamFailed) as caught:
            await rig.answer()
        assert caught.value.kind == "cut"


@on_uvloop
async def test_deadlines_fail_what_waits_and_name_the_phase() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 2:
            await peer.send(CHUNKED + b"1\r\na\r\n")
        await peer.gone()
        gone.append(peer.number)

    gone: list[int] = []
    clock = Clock()
    async with provider(script, limits=PoolLimits(tick=0.01)) as rig:
        up = await rig.ask()
        up.phase = "first_token"
        up.deadline = clock.monotonic() + 0.03
        with pytest.raises(UpstreamFailed, match="first_token") as caught:
            await up.head()
        assert caught.value.kind == "timeout"
        up.release()
        await until(lambda: gone == [1])
        up = await rig.ask()
        await up.head()
        assert await up.read() == b"a"
        up.deadline = clock.monotonic() + 0.03
        with pytest.raises(UpstreamFailed, match="idle") as caught:
            await up.read()
        assert caught.value.kind == "timeout"
        assert caught.value.status == 200
        up.release()
        await until(lambda: gone == [1, 2])
        assert rig.pool.busy == 0


@on_uvloop
async def test_a_deadline_does_not_fail_what_nobody_waits_for() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"1\r\na\r\n")
        await go.wait()
        await peer.send(b"1\r\nb\r\n0\r\n\r\n")
        await peer.gone()

    async with provider(script, limits=PoolLimits(tick=0.001)) as rig:
        up = await rig.ask()
        await up.head()
        await until(lambda: up.size == 1)
        up.deadline = 0.0
        await asyncio.sleep(0.02)  # ticks pass while the caller is busy with something else
        go.set()
        await until(lambda: up.size == 2)
        assert await up.read() == b"ab"
        assert up.ended
        up.release()


@on_uvloop
async def test_giving_up_in_any_phase_cancels_the_provider() -> None:
    gone: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number > 1:
            await peer.send(CHUNKED + b"1\r\na\r\n")
        await peer.gone()
        gone.append(peer.number)

    async with provider(script) as rig:
        for number in (1, 2, 3):
            up = await rig.ask()

            async def wait(up: object = up, number: int = number) -> None:
                try:
                    await up.head()  # type: ignore[attr-defined]
                    if number == 3:
                        await up.read()  # type: ignore[attr-defined]
                        await up.read()  # type: ignore[attr-defined]
                finally:
                    up.release()  # type: ignore[attr-defined]

            task = asyncio.ensure_future(wait())
            if number == 3:
                await until(lambda up=up: up.size)
            elif number == 2:
                await until(lambda up=up: up.status)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda number=number: gone[-1:] == [number])
            assert rig.pool.busy == 0
        up = await rig.ask()
        await up.head()
        assert await up.read() == b"a"
        up.abort()
        with pytest.raises(UpstreamFailed):
            await up.read()
        await until(lambda: gone[-1:] == [4])


@on_uvloop
async def test_what_cannot_be_connected_was_not_sent() -> None:
    async with provider(answering) as rig:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        nobody, _ = Origin.parse(f"http://127.0.0.1:{port}")
        with pytest.raises(UpstreamFailed) as caught:
            await rig.pool.send(nobody, "POST", "/", b"host: a\r\n", connect_timeout=5)
        assert (caught.value.kind, caught.value.sent) == ("connect", False)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            address = full.getsockname()
            fillers: list[socket.socket] = []
            for _ in range(4):  # the queue of a listener that does not accept
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(address)
                fillers.append(filler)
            origin, _ = Origin.parse(f"http://127.0.0.1:{address[1]}")
            with pytest.raises(UpstreamFailed, match="connect") as caught:
                await rig.pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=0.05)
            assert (caught.value.kind, caught.value.sent) == ("timeout", False)
            for filler in fillers:
                filler.close()


@on_uvloop
async def test_connections_to_one_origin_are_bounded_and_the_next_one_waits() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request():
            await go.wait()
            await peer.send(OK)

    async with provider(script, limits=PoolLimits(connections=2, waiting=2)) as rig:
        running = [asyncio.ensure_future(rig.answer()) for _ in range(4)]
        await until(lambda: rig.connections == 2)
        with pytest.raises(UpstreamFailed, match="too many") as caught:
            await rig.answer()
        assert not caught.value.sent
        running.pop().cancel()
        await asyncio.sleep(0)
        with pytest.raises(UpstreamFailed, match="phase: connect") as caught:
            await rig.answer(connect_timeout=0.01)
        assert caught.value.kind == "timeout"
        go.set()
        for status, _, _ in await asyncio.gather(*running):
            assert status == 200
        assert rig.connections == 2
        assert rig.pool.idle == 2


@on_uvloop
async def test_a_place_is_free_again_after_a_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number > 2:
            await peer.send(OK)
            await peer.gone()

    async with provider(script, limits=PoolLimits(connections=1)) as rig:
        for _ in range(2):
            with pytest.raises(UpstreamFailed):
                await rig.answer()
        given_up = await rig.ask()
        given_up.release()
        assert (await rig.answer())[0] == 200


@on_uvloop
async def test_unused_connections_are_closed_in_time() -> None:
    async with provider(answering, limits=PoolLimits(tick=0.001, idle=0.01)) as rig:
        await rig.answer()
        assert rig.pool.idle == 1
        await until(lambda: rig.pool.idle == 0)
        await rig.answer()
        assert rig.connections == 2


@on_uvloop
async def test_a_reader_that_is_slow_holds_the_provider_back() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        size = 200_000_000
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(b"x" * 1_000_000)
            sent += 1_000_000

    async with provider(script) as rig:
        up = await rig.ask()
        await up.head()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)  # until the provider makes no more progress
        assert sent < 50_000_000
        total = 0
        while data := await up.read():
            assert len(data) < 2_000_000
            total += len(data)
        assert total == 200_000_000
        up.release()
        assert rig.pool.idle == 1


@on_uvloop
async def test_a_reply_over_the_limit_is_too_large() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        else:
            await peer.send(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            await peer.send(b"1\r\nx\r\n" if peer.number == 2 else b"0\r\n\r\n")
        await peer.gone()

    async with provider(script) as rig:
        for _ in range(2):
            with pytest.raises(UpstreamFailed) as caught:
                await rig.answer(max_body=1000)
            assert caught.value.kind == "too_large"
        assert len((await rig.answer(max_body=1000))[2]) == 1000


@on_uvloop
async def test_tls_is_verified(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, "other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with provider(answering, tls=context, base_url="https://localhost:{port}", ca_file=str(pem)) as rig:
        for _ in range(2):
            assert (await rig.answer())[2] == b"{}"
        assert rig.connections == 1
        assert names == ["localhost"]
        by_address = rig.origin._replace(host="127.0.0.1")
        up = await rig.pool.send(by_address, "POST", "/", b"host: a\r\n", connect_timeout=5)
        assert (await up.head())[0] == 200
        up.release()
        for wrong, why in (
            (rig.origin._replace(ca_file=None), "certificate"),
            (rig.origin._replace(ca_file=str(other)), "certificate"),
            (rig.origin._replace(ca_file=str(tmp_path / "absent")), "ca_file"),
            (rig.origin._replace(ca_file=str(key)), "ca_file"),
        ):
            with pytest.raises(UpstreamFailed, match=why) as caught:
                await rig.pool.send(wrong, "POST", "/", b"host: a\r\n", connect_timeout=5)
            assert (caught.value.kind, caught.value.sent) == ("connect", False)


@on_uvloop
async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, "other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    async with provider(answering, tls=context, base_url="https://localhost:{port}", ca_file=str(pem)) as rig:
        with pytest.raises(UpstreamFailed, match="certificate") as caught:
            await rig.answer()
        assert not caught.value.sent


@on_uvloop
async def test_plain_text_where_tls_is_expected() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async with provider(script, base_url="https://127.0.0.1:{port}") as rig:
        with pytest.raises(UpstreamFailed, match="TLS") as caught:
            await rig.answer()
        assert not caught.value.sent


@on_uvloop
async def test_through_a_proxy() -> None:
    seen: list[bytes] = []

    async def proxy(peer: Peer) -> None:
        seen.append(await peer.reader.readuntil(b"\r\n\r\n"))
        if b"refused.example" in seen[-1]:
            await peer.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        if b"odd.example" in seen[-1]:
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
            await peer.gone()
            return
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        while await peer.request():
            await peer.send(OK)

    async with provider(proxy) as rig:
        through = f"http://user:pa%3Ass@127.0.0.1:{rig.origin.port}"
        origin, path = Origin.parse("http://api.example:8080/v1/", proxy=through)
        assert path == "/v1"
        for _ in range(2):
            up = await rig.pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=5)
            assert (await up.head())[0] == 200
            assert await up.body() == b"{}"
            up.release()
        assert seen == [
            b"CONNECT api.example:8080 HTTP/1.1\r\nhost: api.example:8080\r\n"
            b"proxy-authorization: Basic dXNlcjpwYTpzcw==\r\n\r\n"
        ]
        for host in ("refused.example", "odd.example"):
            origin, _ = Origin.parse(f"http://{host}", proxy=through)
            with pytest.raises(UpstreamFailed, match="proxy") as caught:
                await rig.pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=5)
            assert not caught.value.sent
        with pytest.raises(UpstreamFailed, match="private"):
            await rig.pool.send(
                Origin("http", "10.0.0.1", 80, proxy=through), "GET", "/", b"a: b\r\n", connect_timeout=5
            )


@on_uvloop
async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        await peer.gone()

    async with provider(script) as rig:
        status, headers, _ = await rig.answer()
        assert (status, headers["location"]) == (307, "http://127.0.0.1:1/")
        assert rig.connections == 1


@on_uvloop
async def test_a_request_cannot_be_split() -> None:
    async with provider(answering) as rig:
        for method, target, headers in (
            ("POST", "/ HTTP/1.1\r\nx: y", b"host: a\r\n"),
            ("POST", "/a b", b"host: a\r\n"),
            ("POST", "/\xe4", b"host: a\r\n"),
            ("GET /", "/", b"host: a\r\n"),
            ("HEAD", "/", b"host: a\r\n"),
            ("POST", "/", b"host: a\r\n\r\n"),
            ("POST", "/", b"host: a"),
        ):
            with pytest.raises(ValueError):
                await rig.pool.send(rig.origin, method, target, headers, connect_timeout=5)
        for value in ("a\r\nb: c", "a\n", "a\0", "\u2713"):
            with pytest.raises(ValueError):
                header_lines([("x", value)])
        assert rig.connections == 0


@on_uvloop
async def test_a_closed_client_fails_what_is_under_way() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with provider(script, limits=PoolLimits(connections=1)) as rig:
        running = [asyncio.ensure_future(rig.answer()) for _ in range(2)]
        await until(lambda: rig.pool.busy)
        await rig.pool.close()
        for result in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(result, UpstreamFailed)
        with pytest.raises(UpstreamFailed):
            await rig.answer()


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_body_comes_back_however_it_is_cut(body: bytes, cuts: list[int], chunked: bool) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            if chunked:
                pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
                wire = CHUNKED + b"".join(b"%X;x=y\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
            else:
                wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            at = 0
            for cut in cuts:
                await peer.send(wire[at : at + cut])
                await asyncio.sleep(0)
                at += cut
            await peer.send(wire[at:])

    @on_uvloop
    async def run() -> None:
        async with provider(script) as rig:
            for _ in range(2):
                assert (await rig.answer())[2] == body
            assert rig.connections == 1

    run()


def test_a_pool_needs_no_loop_to_be_made() -> None:
    assert Pool(Clock()).busy == 0
