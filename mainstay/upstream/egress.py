"""Where a request may go: origins, and the rule that an address is resolved, checked and then connected to.

A private, loopback, link-local, metadata or otherwise special address is refused unless an administrator configured
it: wrote the address itself (or ``localhost``) as the provider's, or said ``private: true`` of a name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, UpstreamFailed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses, as literals, that a name has for a port. Raises ``OSError``."""

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_REMEMBERED = 1024

_SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "3ffe::/16")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16")
) | frozenset(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"))
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class Origin(NamedTuple):
    """A place requests are sent to, and how it is reached. Make one with ``Origin.parse`` from configuration only."""

    scheme: str  # http or https
    host: str  # in lower case, IPv6 without brackets
    port: int
    private: bool = False  # its address may be a private one
    ca_file: str | None = None  # who signs its certificate; None: the system's trust store
    proxy: str | None = None  # http://[user:password@]host:port, asked for a tunnel by CONNECT

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @classmethod
    def parse(
        cls, base_url: str, *, private: bool = False, ca_file: str | None = None, proxy: str | None = None
    ) -> tuple[Origin, str]:
        """The origin of a configured address, and its path without a last slash.

        An IP literal or ``localhost`` counts as configured to be private. Raises ``Invalid``.
        """
        scheme, host, port, path = _split(base_url, "base_url")
        if proxy is not None and _split(proxy, "proxy", userinfo=True)[0] != "http":
            raise Invalid("a proxy's address begins with http://", field="proxy")
        literal = literal_address(host) is not None or host == "localhost"
        return cls(scheme, host, port, private or literal, ca_file, proxy), path


_PORTS = {"http": 80, "https": 443}


def _split(url: str, field: str, userinfo: bool = False) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError as error:
        raise Invalid(f"{field} is not a web address: {error}", field=field) from None
    if parts.scheme not in _PORTS or not host or any(c <= " " or c == "\x7f" for c in url):
        raise Invalid(f"{field} must be http:// or https:// with a host, and have no spaces", field=field)
    if ":" not in host and not _HOST.fullmatch(host):
        raise Invalid(f"{field} has a host with characters that may not be in one", field=field)
    if (parts.username is not None and not userinfo) or parts.query or parts.fragment:
        raise Invalid(f"{field} may have no user, query or fragment; put a key in api_key", field=field)
    return parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/")


def literal_address(host: str) -> Address | None:
    """``host`` as an address, if it is one in its usual spelling."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for, mapped or translated."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def is_public(address: Address) -> bool:
    """Whether ``address`` belongs to the open internet; one that carries an IPv4 address is judged by that."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    carried = _carried(address)
    if carried is not None:
        return is_public(carried)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def may_connect(origin: Origin, address: Address) -> bool:
    """The egress rule for one address of ``origin``."""
    if is_public(address):
        return True
    if not origin.private:
        return False
    plain = _carried(address) or address
    if plain.is_multicast or plain.is_unspecified or plain == _BROADCAST:
        return False
    if literal_address(origin.host) is not None:
        return True
    return plain not in _METADATA  # a name may be private, never lead to the cloud's metadata


async def system_resolve(host: str, port: int) -> list[str]:
    """The system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Egress:
    """Finds the addresses of origins, for ``ttl`` seconds at a time, and lets only those through that the rule allows.

    Where the resolver fails, the last addresses serve for another ``stale`` seconds.
    """

    def __init__(
        self, clock: Clock, resolve: Resolve = system_resolve, *, ttl: float = 30.0, stale: float = 600.0
    ) -> None:
        self._clock = clock
        self._resolve = resolve
        self._ttl = ttl
        self._stale = stale
        self._known: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def addresses(self, origin: Origin) -> list[str]:
        """The addresses to connect to, best first. Raises ``UpstreamFailed(connect)``."""
        literal = literal_address(origin.host)
        found = [origin.host] if literal is not None else await self._found(origin.host, origin.port)
        allowed: list[str] = []
        for text in found:
            address = literal_address(text)
            if address is not None and may_connect(origin, address):
                allowed.append(text)
        if not allowed:
            why = "has a private or special address; if that is meant, say private: true of the provider"
            raise UpstreamFailed(
                "connect", f"{origin.host} {why}" if found else f"{origin.host} has no address", sent=False
            )
        return allowed

    async def _found(self, host: str, port: int) -> list[str]:
        key = (host, port)
        now = self._clock.monotonic()
        known = self._known.get(key)
        if known is not None and now < known[0]:
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.ensure_future(self._resolve(host, port))
            task.add_done_callback(lambda done: self._answered(key, done))
        try:
            return await asyncio.shield(task)
        except (OSError, UnicodeError) as error:
            if known is not None and now < known[0] + self._stale:
                return known[1]
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a name"
            raise UpstreamFailed("connect", f"the name {host} could not be resolved: {reason}", sent=False) from None

    def _answered(self, key: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        self._asking.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = (self._clock.monotonic() + self._ttl, task.result())

    async def close(self) -> None:
        """End the questions to the resolver that nobody waits for."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
