"""Providers made of raw bytes, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mainstay.core.clock import Clock
from mainstay.upstream.http import Origin, Pool, PoolLimits, Upstream, header_lines


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate for ``name`` and 127.0.0.1 that signs itself, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, private


class Peer:
    """One connection, as the provider sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number  # of the connection, from 1

    async def request(self) -> bytes:
        """The next request, head and body; ``b""`` when the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + await self.reader.readexactly(int(line[15:]))
        return head

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()

    def reset(self) -> None:
        self.writer.transport.abort()


class Provider:
    """Serves each connection with ``script``."""

    def __init__(self, script: Callable[[Peer], Awaitable[None]], pool: Pool, origin: Origin) -> None:
        self.pool = pool
        self.origin = origin
        self.connections = 0
        self.cancelled = 0
        self._script = script
        self._tasks: set[asyncio.Task[Any]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await self._script(Peer(reader, writer, self.connections))
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def ask(
        self, body: bytes = b"{}", *, connect_timeout: float = 5.0, max_body: int | None = None, target: str = "/v1"
    ) -> Upstream:
        headers = header_lines([("host", self.origin.authority), ("content-type", "application/json")])
        return await self.pool.send(
            self.origin, "POST", target, headers, body, connect_timeout=connect_timeout, max_body=max_body
        )

    async def answer(self, body: bytes = b"{}", **options: Any) -> tuple[int, dict[str, str], bytes]:
        """One whole exchange."""
        upstream = await self.ask(body, **options)
        try:
            status, headers = await upstream.head()
            return status, headers, await upstream.body()
        finally:
            upstream.release()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def provider(
    script: Callable[[Peer], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    base_url: str = "",
    limits: PoolLimits | None = None,
    clock: Clock | None = None,
    **origin: Any,
) -> AsyncIterator[Provider]:
    """A provider that follows ``script``, and a pool to ask it with."""
    clock = clock if clock is not None else Clock()
    pool = Pool(clock, limits=limits)
    holder: list[Provider] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await holder[0].accept(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    url = (base_url or ("https" if tls else "http") + "://127.0.0.1:{port}").format(port=port)
    holder.append(Provider(script, pool, Origin.parse(url, **origin)[0]))
    try:
        yield holder[0]
    finally:
        await pool.close()
        server.close()
        await holder[0].close()
