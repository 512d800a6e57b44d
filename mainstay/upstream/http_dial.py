"""Opening a connection: resolve, check, connect to the checked address, tunnel through a proxy, TLS."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar, cast
from urllib.parse import unquote, urlsplit

from mainstay.core.errors import UpstreamFailed
from mainstay.upstream.egress import Egress, Origin, literal_address, may_connect
from mainstay.upstream.tls import TrustStores

Protocol = TypeVar("Protocol")
"""What has the methods of an ``asyncio.Protocol``."""

_ADDRESSES = 4
_PROXY_HEAD = 16 * 1024


class Dialer:
    """Opens connections to origins. The caller limits the time."""

    def __init__(self, egress: Egress, trust: TrustStores) -> None:
        self._egress = egress
        self._trust = trust

    async def dial(self, origin: Origin, make: Callable[[], Protocol], timeout: float) -> Protocol:
        """A connection, ready to be written to. Raises ``UpstreamFailed(connect)``, nothing having been sent.

        ``timeout`` (seconds) is shared among the addresses, so that a dead first one leaves time for the next.
        """
        context = self._trust.context(origin.ca_file) if origin.scheme == "https" else None
        sock = await self._tunnel(origin, timeout) if origin.proxy else await self._connected(origin, timeout)
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(
                cast("Callable[[], asyncio.Protocol]", make),
                sock=sock,
                ssl=context,
                server_hostname=origin.host if context is not None else None,
                ssl_handshake_timeout=max(timeout, 0.001) if context is not None else None,
            )
        except ssl.SSLCertVerificationError as error:
            sock.close()
            why = f"the certificate of {origin.host} is not to be trusted: {error.verify_message}"
            raise UpstreamFailed("connect", why, sent=False) from None
        except (OSError, ssl.SSLError) as error:
            sock.close()
            why = f"no TLS connection to {origin.host}: {_reason(error)}"
            raise UpstreamFailed("connect", why, sent=False) from None
        except BaseException:
            sock.close()
            raise
        return cast("Protocol", protocol)

    async def _connected(self, origin: Origin, timeout: float) -> socket.socket:
        addresses = (await self._egress.addresses(origin))[:_ADDRESSES]
        why = ""
        for address in addresses:
            try:
                async with asyncio.timeout(timeout / len(addresses)):
                    return await _connect(address, origin.port)
            except TimeoutError:
                if len(addresses) == 1:
                    raise
                why = "it does not answer"
            except OSError as error:
                why = _reason(error)
        raise UpstreamFailed("connect", f"no connection to {origin.host} port {origin.port}: {why}", sent=False)

    async def _tunnel(self, origin: Origin, timeout: float) -> socket.socket:
        """A connection to the origin through its proxy, which resolves a name by its own rules."""
        parts = urlsplit(origin.proxy or "")
        proxy, _ = Origin.parse(f"http://{parts.netloc.rpartition('@')[2]}", private=True)
        literal = literal_address(origin.host)
        if literal is not None and not may_connect(origin, literal):
            raise UpstreamFailed("connect", f"{origin.host} is a private or special address", sent=False)
        sock = await self._connected(proxy, timeout)
        try:
            host = f"[{origin.host}]" if ":" in origin.host else origin.host
            lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"host: {host}:{origin.port}"]
            if parts.username is not None:
                user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                lines.append(f"proxy-authorization: Basic {base64.b64encode(user.encode()).decode()}")
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = await loop.sock_recv(sock, 4096)
                head += data
                if not data or len(head) > _PROXY_HEAD or b"\r\n\r\n" in head[:-4]:
                    raise UpstreamFailed("connect", "the proxy's reply is not one", sent=False)
            status = head.split(b"\r\n", 1)[0].split(b" ")
            if not status[0].startswith(b"HTTP/1.") or len(status) < 2 or status[1][:1] != b"2":
                code = status[1].decode("latin-1") if len(status) > 1 else "no status"
                raise UpstreamFailed("connect", f"the proxy refused a tunnel to {origin.host}: {code}", sent=False)
        except OSError as error:
            sock.close()
            raise UpstreamFailed("connect", f"the proxy broke off: {_reason(error)}", sent=False) from None
        except BaseException:
            sock.close()
            raise
        return sock


async def _connect(address: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    target = (
        await loop.getaddrinfo(address, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    )[0][4]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__) if error.errno else type(error).__name__
