"""The bounds of the HTTP door: sizes, counts and times; and the refusal of what is over them or malformed."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one HTTP server lets a client do. Sizes are in bytes, times in seconds, rates in bytes per second."""

    connections: int = 10_000  # open at once; the next one is answered 503 and closed
    headers: int = 100
    head_bytes: int = 64 * KIB  # request line and headers together: 431
    target_bytes: int = 8 * KIB  # 414
    body_bytes: int = 32 * MIB  # of one request, where no ``body_limit`` says otherwise: 413
    held_bytes: int = 512 * MIB  # of all request bodies held at once: 503
    chunk_extension_bytes: int = 16 * KIB  # of one chunked body in all
    chunks: int = 100_000  # of one chunked body
    trailer_bytes: int = 16 * KIB
    pipelined_bytes: int = 64 * KIB  # kept while a request is being answered; then reading pauses
    header_timeout: float = 10.0  # from the first byte of a head to its last
    idle_timeout: float = 75.0  # between requests, and before the first
    body_grace: float = 10.0  # a body may come slower than ``body_rate`` for so long
    body_rate: float = 1024.0
    write_timeout: float = 30.0  # a client that reads slower than ``write_rate`` over so long is cut off
    write_rate: float = 256.0
    unsent_bytes: int = 64 * MIB  # written and not yet sent: a handler that does not ``drain`` is stopped there
    linger: float = 2.0  # after an early refusal, what the client still sends is read and thrown away for so long
    tick: float = 0.25  # how often times are looked at


class Reject(Exception):
    """A request that is answered by the server itself, after which the connection is closed."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
