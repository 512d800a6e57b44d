"""Where requests may go: a name is resolved, its addresses checked, and only a checked one is connected to."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.clock import Clock, FixedClock
from mainstay.core.errors import Invalid, UpstreamFailed
from mainstay.upstream.egress import Egress, Origin, is_public, may_connect, system_resolve
from mainstay.upstream.http import Pool
from tests.edge.http_rig import on_uvloop
from tests.upstream.http_rig import Peer, provider

PRIVATE = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.8.8.8 169.254.169.254 169.254.0.1 172.16.0.1
    172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.0.1 198.51.100.1 203.0.113.1
    224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 100.100.100.200 168.63.129.16
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1
    64:ff9b:1::8.8.8.8 64:ff9b:1::7f00:1 2002:7f00:1:: 2002:808:808:: 2001::1 2001:0:53aa:64c::1 2001:db8::1
    100::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 3fff::1 5f00::1 ::8.8.8.8
""".split()
PUBLIC = """
    8.8.8.8 1.1.1.1 172.32.0.1 100.128.0.1 192.167.0.1 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::808:808
""".split()


WRONG = """
    ftp://a.example file:///etc/passwd a.example //a.example http:// http://a:b@c.example http://a.example?x=1
    http://a.example#x http://a.example:99999 http://a.example:x http://a_%20b http://[::1 http://a.example\\b
""".split()


@pytest.mark.parametrize("text", PRIVATE)
def test_a_special_address_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    assert not may_connect(Origin("https", "a.example", 443), ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_an_ordinary_address_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    assert may_connect(Origin("https", "a.example", 443), ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_calls_private(address: ipaddress.IPv4Address) -> None:
    if is_public(address):
        mapped = getattr(address, "ipv4_mapped", None)
        judged = mapped if mapped is not None else address
        if judged not in ipaddress.ip_network("64:ff9b::/96"):
            assert judged.is_global
            assert not judged.is_multicast


def test_a_name_that_may_be_private_never_leads_to_metadata() -> None:
    named = Origin("http", "gpu.internal", 80, private=True)
    for good in ("10.0.0.1", "127.0.0.1", "169.254.3.4", "fd00::1", "::ffff:10.0.0.1", "8.8.8.8"):
        assert may_connect(named, ipaddress.ip_address(good))
    for bad in (
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "100.100.100.200",
        "fd00:ec2::254",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ):
        assert not may_connect(named, ipaddress.ip_address(bad))


def test_what_an_administrator_writes_is_configured() -> None:
    for url, private, origin, path in (
        ("http://127.0.0.1:9101/v1", True, ("http", "127.0.0.1", 9101), "/v1"),
        ("http://localhost:1", True, ("http", "localhost", 1), ""),
        ("http://[::1]:8080/a/b/", True, ("http", "::1", 8080), "/a/b"),
        ("https://10.1.2.3", True, ("https", "10.1.2.3", 443), ""),
        ("https://API.Example.com/v1/", False, ("https", "api.example.com", 443), "/v1"),
        ("http://127.1", False, ("http", "127.1", 80), ""),
        ("http://0x7f000001", False, ("http", "0x7f000001", 80), ""),
        ("http://2130706433", False, ("http", "2130706433", 80), ""),
        ("http://localhost.example", False, ("http", "localhost.example", 80), ""),
        ("https://b\xfccher.example", False, ("https", "xn--bcher-kva.example", 443), ""),
    ):
        parsed, rest = Origin.parse(url)
        assert (parsed[:3], rest, parsed.private) == (origin, path, private), url
    assert Origin.parse("https://gpu.internal", private=True)[0].private
    assert Origin.parse("http://[::1]:8080")[0].authority == "[::1]:8080"
    assert Origin.parse("https://a.example:443")[0].authority == "a.example"
    assert Origin.parse("http://a.example:443")[0].authority == "a.example:443"


@pytest.mark.parametrize(
    "url",
    [
        *WRONG,
        "http://a b",
        "http://a.example/\n",
        "http://a\r\nb",
        "",
    ],
)
def test_what_is_no_address_is_refused_with_the_fields_name(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        Origin.parse(url)
    assert caught.value.field == "base_url"


def test_a_proxy_must_be_one() -> None:
    for proxy in ("https://a.example", "socks5://a", "a:1"):
        with pytest.raises(Invalid) as caught:
            Origin.parse("https://a.example", proxy=proxy)
        assert caught.value.field == "proxy"


class Resolver:
    """A name server that the test plays."""

    def __init__(self, *answers: list[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        await self.go.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


NAMED = Origin("https", "a.example", 443)


@on_uvloop
async def test_only_the_addresses_that_are_allowed_are_used() -> None:
    resolver = Resolver(["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1"], ["169.254.169.254"], [])
    clock = FixedClock()
    egress = Egress(clock, resolver)
    assert await egress.addresses(NAMED) == ["8.8.8.8", "2606:4700::1"]
    assert await egress.addresses(NAMED._replace(private=True)) == ["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1"]
    for why in ("private: true", "no address"):
        clock.advance(31)
        with pytest.raises(UpstreamFailed, match=why) as caught:
            await egress.addresses(NAMED)
        assert (caught.value.kind, caught.value.sent) == ("connect", False)


@on_uvloop
async def test_a_literal_that_nobody_configured_is_refused() -> None:
    egress = Egress(FixedClock(), Resolver())
    for host in ("127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"):
        with pytest.raises(UpstreamFailed, match="private"):
            await egress.addresses(Origin("http", host, 80))
        assert await egress.addresses(Origin("http", host, 80, private=True)) == [host]


@on_uvloop
async def test_names_are_remembered_for_a_time_and_asked_for_once() -> None:
    resolver = Resolver(["8.8.8.8"], ["9.9.9.9"], OSError("down"), OSError("down"), OSError("down"))
    clock = FixedClock()
    egress = Egress(clock, resolver)
    resolver.go.clear()
    asking = [asyncio.ensure_future(egress.addresses(NAMED)) for _ in range(5)]
    await asyncio.sleep(0)
    asking.pop().cancel()
    resolver.go.set()
    assert await asyncio.gather(*asking) == [["8.8.8.8"]] * 4
    assert resolver.asked == [("a.example", 443)]
    clock.advance(29)
    assert await egress.addresses(NAMED) == ["8.8.8.8"]
    clock.advance(2)
    assert await egress.addresses(NAMED) == ["9.9.9.9"]
    clock.advance(31)
    assert await egress.addresses(NAMED) == ["9.9.9.9"]  # the resolver is down: the last answer serves
    clock.advance(601)
    with pytest.raises(UpstreamFailed, match="could not be resolved") as caught:
        await egress.addresses(NAMED)
    assert not caught.value.sent


@on_uvloop
async def test_names_that_do_not_resolve() -> None:
    egress = Egress(Clock())
    for host in ("nobody.invalid", "a" * 70 + ".example", "-"):
        with pytest.raises(UpstreamFailed) as caught:
            await egress.addresses(Origin("http", host, 80))
        assert (caught.value.kind, caught.value.sent) == ("connect", False)
    await egress.close()


@on_uvloop
async def test_numbers_that_the_system_reads_as_loopback_are_still_refused() -> None:
    egress = Egress(Clock())
    for host in ("127.1", "0x7f000001", "2130706433", "017700000001"):
        assert await system_resolve(host, 80) == ["127.0.0.1"]
        with pytest.raises(UpstreamFailed, match="private"):
            await egress.addresses(Origin.parse(f"http://{host}")[0])


@on_uvloop
async def test_a_name_is_connected_to_at_the_address_that_was_checked() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request), request))
        await peer.gone()

    async with provider(script) as rig:
        # the first answer is checked and used; the second, which a hostile name server gives, is never asked for
        resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
        pool = Pool(Clock(), Egress(Clock(), resolver))
        origin = Origin("http", "model.internal", rig.origin.port, private=True)
        up = await pool.send(origin, "POST", "/", b"host: model.internal\r\n", connect_timeout=5)
        await up.head()
        assert b"host: model.internal" in await up.body()
        up.release()
        assert len(resolver.asked) == 1
        await pool.close()
        pool = Pool(Clock(), Egress(Clock(), Resolver(["127.0.0.1"])))
        with pytest.raises(UpstreamFailed, match="private: true"):
            await pool.send(origin._replace(private=False), "POST", "/", b"host: a\r\n", connect_timeout=5)
        assert rig.connections == 1
        await pool.close()


@on_uvloop
async def test_the_next_address_is_tried_when_one_refuses() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await peer.gone()

    async with provider(script) as rig:
        pool = Pool(Clock(), Egress(Clock(), Resolver(["127.0.0.2", "127.0.0.1"])))
        origin = Origin("http", "model.internal", rig.origin.port, private=True)
        up = await pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=5)
        assert (await up.head())[0] == 204
        assert await up.body() == b""
        up.release()
        assert pool.idle == 1
        await pool.close()


@on_uvloop
async def test_a_request_that_may_have_been_sent_says_so_when_it_cannot_be_sent_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await peer.request()

    async with provider(script) as rig:
        resolver = Resolver(["127.0.0.1"], OSError("down"), OSError("down"))
        pool = Pool(Clock(), Egress(Clock(), resolver, ttl=0, stale=0))
        origin = Origin("http", "model.internal", rig.origin.port, private=True)
        for kept in (False, True):
            up = await pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=5)
            if kept:
                with pytest.raises(UpstreamFailed, match="resolved") as caught:
                    await up.head()
                assert caught.value.sent
            else:
                await up.head()
            up.release()
        with pytest.raises(UpstreamFailed, match="resolved") as caught:
            await pool.send(origin, "POST", "/", b"host: a\r\n", connect_timeout=5)
        assert not caught.value.sent
        await pool.close()
