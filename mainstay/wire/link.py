"""The messages between control and its gateways: a stream of frames, each a length and MessagePack.

Gateway to control: ``Hello`` first, then ``Need``, ``Give``, ``Reclaimed``, ``Loaded``, ``Stats``.
Control to gateway: ``Snapshot``, ``Grant``, ``Reclaim``. See docs/decisions/0001-processes.md.
"""

from __future__ import annotations

import msgspec

LIMIT = 256 * 1024 * 1024
"""The largest frame in bytes; a longer one breaks the connection."""


class Hello(msgspec.Struct, tag="hello"):
    """A gateway introduces itself: its id (unique per process), and what it already has.

    ``shares`` are all units per pool that are its own, used and spent ones included: whatever was under way when an
    earlier connection broke is put right by them.
    """

    gateway: str
    pid: int
    snapshot: str | None = None
    shares: dict[str, int] | None = None


class Need(msgspec.Struct, tag="need"):
    """Units wanted of pools, all with a shortage; answered by a ``Grant`` of the same ``id``."""

    id: int
    wants: dict[str, int]


class Grant(msgspec.Struct, tag="grant"):
    """Units added to the gateway's shares. ``wait`` says in how many seconds more may come, per refused pool.

    ``left`` is what is free now beside all shares, for headers and warnings.
    """

    id: int
    units: dict[str, int]
    wait: dict[str, float] = {}
    left: dict[str, int] = {}


class Give(msgspec.Struct, tag="give"):
    """Idle units handed back of the gateway's own accord."""

    units: dict[str, int]


class Reclaim(msgspec.Struct, tag="reclaim"):
    """Control asks for up to so many idle units of a pool; answered by ``Reclaimed`` of the same ``id``."""

    id: int
    pool: str
    units: int


class Reclaimed(msgspec.Struct, tag="reclaimed"):
    """Units given back on request; ``wait``: in how many seconds a used unit becomes idle again, if known."""

    id: int
    units: int
    wait: float | None = None


class Snapshot(msgspec.Struct, tag="snapshot"):
    """What is in force from now on: the whole behaviour, as ``registry.snapshot`` encodes it."""

    digest: str
    body: bytes


class Loaded(msgspec.Struct, tag="loaded"):
    """The gateway now answers under the snapshot of that digest."""

    digest: str


class Stats(msgspec.Struct, tag="stats"):
    """The gateway's gauges of this moment, for ``/metrics`` and ``/health``."""

    gauges: dict[str, float]
    breakers: dict[str, str]


Message = Hello | Need | Grant | Give | Reclaim | Reclaimed | Snapshot | Loaded | Stats

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


class Frames:
    """Cuts a stream of bytes into messages, none longer than ``limit`` bytes."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Raises ``ValueError`` for a frame that is too long or no message."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        at = 0
        while len(buffer) - at >= 4:
            length = int.from_bytes(buffer[at : at + 4], "big")
            if length > self._limit:
                raise ValueError(f"a frame of {length} bytes is over the limit of {self._limit}")
            if len(buffer) - at - 4 < length:
                break
            messages.append(_decoder.decode(buffer[at + 4 : at + 4 + length]))
            at += 4 + length
        if at:
            del buffer[:at]
        return messages
