"""What is malformed or ambiguous is refused and the connection closed; what is merely unusual is served."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.edge.http_chunked import ChunkedBody
from mainstay.edge.http_head import CHUNKED, body_length, parse_head
from mainstay.edge.http_limits import HttpLimits, Reject
from tests.edge.http_rig import on_uvloop, serving

H = b"Host: a.example\r\n"

REFUSED = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "two hosts, other case": (b"GET / HTTP/1.1\r\nHost: a\r\nhOsT: b\r\n\r\n", 400),
    "empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host with a user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "host with a bad port": (b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
    "host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host with raw bytes": (b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n", 400),
    "http/1.0 with a bad host": (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
    "no version": (b"GET /\r\n" + H + b"\r\n", 400),
    "no version, space": (b"GET / \r\n" + H + b"\r\n", 400),
    "http/0.9": (b"GET /\r\n\r\n", 400),
    "version 2.0": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
    "version 1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
    "version 1.10": (b"GET / HTTP/1.10\r\n" + H + b"\r\n", 400),
    "version in lower case": (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
    "preface of http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    "tab instead of a space": (b"GET\t/\tHTTP/1.1\r\n" + H + b"\r\n", 400),
    "space before the method": (b" GET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "space after the version": (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n" + H + b"\r\n", 400),
    "bad method": (b"G@T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "no method": (b" / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "control in the target": (b"GET /\x01 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "raw bytes in the target": (b"GET /\xc3\xa4 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "quote in the target": (b'GET /" HTTP/1.1\r\n' + H + b"\r\n", 400),
    "fragment in the target": (b"GET /#a HTTP/1.1\r\n" + H + b"\r\n", 400),
    "backslash in the target": (b"GET /\\ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "half an escape": (b"GET /%4 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "escape that is none": (b"GET /%zz HTTP/1.1\r\n" + H + b"\r\n", 400),
    "target without a slash": (b"GET a HTTP/1.1\r\n" + H + b"\r\n", 400),
    "star for get": (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    "connect": (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400),
    "authority form for get": (b"GET a.example:80 HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute form of another host": (b"GET http://b.example/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute form with a user": (b"GET http://u@a.example/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "absolute form of another scheme": (b"GET ftp://a.example/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF after a header": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\n" + H + b"\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\n" + H + b"\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\n" + H + b"X: a\0b\r\n\r\n", 400),
    "control in a value": (b"GET / HTTP/1.1\r\n" + H + b"X: a\x07b\r\n\r\n", 400),
    "DEL in a value": (b"GET / HTTP/1.1\r\n" + H + b"X: a\x7fb\r\n\r\n", 400),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "tab before the colon": (b"GET / HTTP/1.1\r\n" + H + b"X\t: a\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n" + H + b": a\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\n" + H + b"X\r\n\r\n", 400),
    "known name, no colon": (b"GET / HTTP/1.1\r\n" + H + b"accept\r\n\r\n", 400),
    "bracket in a name": (b"GET / HTTP/1.1\r\n" + H + b"X[]: a\r\n\r\n", 400),
    "raw bytes in a name": (b"GET / HTTP/1.1\r\n" + H + b"X\xe4: a\r\n\r\n", 400),
    "folded": (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),
    "folded with a tab": (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n\tb: c\r\n\r\n", 400),
    "folded first": (b"GET / HTTP/1.1\r\n X: a\r\n" + H + b"\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "negative length": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\n", 400),
    "huge negative length": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -99999999999999999999\r\n\r\n", 400),
    "huge length": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "length with a plus": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\na", 400),
    "length in hex": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\na", 400),
    "length in words": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: one\r\n\r\na", 400),
    "length as a superscript": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: \xb9\r\n\r\na", 400),
    "length as a list": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\na", 400),
    "length with a fraction": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1.0\r\n\r\na", 400),
    "empty length": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "the same length twice": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    "length and chunked": (
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunked and length": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    "coding of old": (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "unknown coding": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "identity": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "chunked not last": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "chunked twice": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunked in two headers": (
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        400,
    ),
    "quoted coding": (b"POST / HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n', 400),
    "vertical tab before the coding": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    "another coding first": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "empty coding": (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\r\n", 400),
    "two keys": (b"GET / HTTP/1.1\r\n" + H + b"Authorization: a\r\nAuthorization: b\r\n\r\n", 400),
    "two content types": (b"GET / HTTP/1.1\r\n" + H + b"Content-Type: a\r\nContent-Type: b\r\n\r\n", 400),
    "unknown expectation": (b"POST / HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417),
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
    "endless target": (b"GET /" + b"a" * 9000, 414),
    "endless method": (b"A" * 9000, 414),
    "too many headers": (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n" * 100 + b"\r\n", 431),
    "large headers": (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 66_000 + b"\r\n\r\n", 431),
    "endless header": (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 66_000, 431),
    "empty lines without end": (b"\r\n" * 20 + b"GET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "CR before the request": (b"\rGET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    "body too large": (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1001\r\n\r\n", 413),
}

CHUNKS_REFUSED = {
    "no size": (b"\r\n", 400),
    "size that is no number": (b"g\r\n", 400),
    "negative size": (b"-1\r\n", 400),
    "size with 0x": (b"0x1\r\na\r\n", 400),
    "size with a plus": (b"+1\r\na\r\n", 400),
    "space before the size": (b" 1\r\na\r\n", 400),
    "space after the size": (b"1 \r\na\r\n", 400),
    "space before an extension": (b"1 ;a=b\r\na\r\n", 400),
    "huge size": (b"fffffffffffffffff\r\n", 400),
    "size over the limit": (b"ffffffff\r\n", 413),
    "chunks over the limit": (b"1f4\r\n" + b"a" * 500 + b"\r\n" + b"1f5\r\n", 413),
    "size line ended by LF": (b"1\na\r\n", 400),
    "data ended by LF": (b"1\r\na\n0\r\n\r\n", 400),
    "data longer than its size": (b"1\r\nab\r\n", 400),
    "CR in an extension": (b"1;a\rb\r\na\r\n", 400),
    "LF in an extension": (b"1;a\nb\r\na\r\n", 400),
    "NUL in an extension": (b"1;a\0\r\na\r\n", 400),
    "CR CR LF after the size": (b"1\r\r\na\r\n", 400),
    "open quote in an extension": (b'1;a="b\r\na\r\n', 400),
    "long extension": (b"1;" + b"a" * 5000 + b"\r\na\r\n", 400),
    "endless extension": (b"1;" + b"a" * 5000, 400),
    "many long extensions": (b"1;" + b"a" * 4000 + b"\r\na\r\n", 400),
    "trailer without a colon": (b"0\r\nabc\r\n\r\n", 400),
    "folded trailer": (b"0\r\na: b\r\n c\r\n\r\n", 400),
    "trailer ended by LF": (b"0\r\na: b\n\r\n", 400),
    "trailers without end": (b"0\r\n" + b"a: bbbbbbbbbb\r\n" * 2000, 431),
}


@pytest.mark.parametrize("case", REFUSED)
@on_uvloop
async def test_a_bad_request_is_refused_and_the_connection_closed(case: str) -> None:
    request, status = REFUSED[case]
    async with serving(body_limit=lambda _method, _path: 1000) as rig:
        client = await rig.connect()
        await client.send(request + b"")
        reply = await client.reply()
        assert reply.status == status, reply
        assert reply.headers["connection"] == "close"
        told = json.loads(reply.body)
        assert told["type"] == "error"
        assert told["error"]["message"]
        assert told["error"]["type"] == ("request_too_large" if status == 413 else "invalid_request_error")
        assert await client.ended()
        assert not rig.seen


@pytest.mark.parametrize("case", CHUNKS_REFUSED)
@on_uvloop
async def test_a_bad_chunked_body_is_refused(case: str) -> None:
    chunks, status = CHUNKS_REFUSED[case]
    async with serving(body_limit=lambda _method, _path: 1000) as rig:
        client = await rig.connect()
        await client.send(b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n")
        await client.send(chunks * (5 if case.startswith("many") else 1))
        reply = await client.reply()
        assert reply.status == status, reply
        assert await client.ended()
        assert not rig.seen


SERVED = {
    "plain": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "odd case and spaces": b"GET / HTTP/1.1\r\nhOSt: \t a:80 \t\r\n\r\n",
    "no space after the colon": b"GET / HTTP/1.1\r\nHost:a\r\n\r\n",
    "ipv6": b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    "empty value": b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n",
    "raw bytes in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\xc3\xa4\r\n\r\n",
    "empty line before": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two empty lines before": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute form": b"GET http://A/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute form without a path": b"GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    "escapes": b"GET /%2e%2E/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "http/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "coding in capitals": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
    "chunk extensions": (
        b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a;b=c;d="e\\"f"\r\nx\r\n0\r\n\r\n'
    ),
    "trailers": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
    "length with zeros": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0001\r\n\r\nx",
    "a hundred headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 99 + b"\r\n",
}


@pytest.mark.parametrize("case", SERVED)
@on_uvloop
async def test_an_unusual_request_is_served_and_any_beginning_of_it_waits(case: str) -> None:
    request = SERVED[case]
    async with serving() as rig:
        whole = await rig.connect()
        await whole.send(request)
        assert (await whole.reply()).status == 200
        step = 1 if len(request) < 200 else 37
        waiting = [(cut, await rig.connect()) for cut in range(1, len(request), step)]
        for cut, client in waiting:
            await client.send(request[:cut])
        await rig.settled()
        assert [cut for cut, client in waiting if not client.silent()] == []
        for cut, client in waiting:
            await client.send(request[cut:])
            assert (await client.reply()).status == 200


@on_uvloop
async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    request = b"POST /p?q=1 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"3\r\nabc\r\n0\r\nT: 1\r\n\r\n"
    async with serving() as rig:
        client = await rig.connect()
        for at in range(len(request)):
            await client.send(request[at : at + 1])
        assert (await client.reply()).status == 200
        (seen,) = rig.seen
        assert (seen.method, seen.target, seen.path, seen.query) == ("POST", b"/p?q=1", "/p", "q=1")
        assert seen.body == b"abc"
        assert seen.headers == {"host": "a", "x-a": "1, 2", "transfer-encoding": "chunked"}


def test_a_hidden_request_stays_part_of_the_body() -> None:
    inner = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d" % len(inner)
    *_, headers, http11 = parse_head(head, HttpLimits())
    assert body_length(headers, http11) == len(inner)
    *_, headers, http11 = parse_head(b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked", HttpLimits())
    assert body_length(headers, http11) == CHUNKED


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=30), st.data())
@settings(max_examples=200, deadline=None)
def test_chunks_come_back_whole_however_they_are_cut(pieces: list[bytes], after: bytes, data: st.DataObject) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" + after
    chunked = ChunkedBody(10_000, HttpLimits())
    rest: bytes | None = None
    at = 0
    while rest is None:
        step = data.draw(st.integers(1, 20))
        rest = chunked.feed(wire[at : at + step])
        at += step
    assert bytes(chunked.body) == b"".join(pieces)
    assert rest + wire[at:] == after


@given(st.binary(max_size=120))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_request_or_refused(noise: bytes) -> None:
    refusal = 400
    for head in (noise, b"GET / HTTP/1.1\r\nHost: a\r\n" + noise, b"GET /" + noise + b" HTTP/1.1\r\nHost: a"):
        try:
            _, target, path, query, headers, http11 = parse_head(head, HttpLimits())
            body_length(headers, http11)
        except Reject as reject:
            refusal = reject.status
        else:
            assert not set(target) & set(b"\r\n\t \0")
            assert path[0] in "/*"
            assert "\n" not in path + query
            assert not any(c in value for value in headers.values() for c in "\r\n\0")
            assert all(name == name.lower() and name.isascii() and " " not in name for name in headers)
        assert refusal in (400, 414, 431, 501, 505)
