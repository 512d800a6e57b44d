"""Sends OTLP requests to a collector over HTTP, and tells what became of each."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, UpstreamFailed
from mainstay.upstream.egress import Egress, Origin
from mainstay.upstream.http import Pool, header_lines
from mainstay.wire import otlp, otlp_reply

_CONNECT, _WHOLE = 5.0, 30.0
_REPLY = 1024 * 1024
_LONGEST = 300.0  # seconds of a Retry-After that are believed
_AMENDABLE = frozenset((401, 403, 404, 405))
"""Statuses by which a collector refuses the sender, not what is sent: an administrator can set that right."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a request: ``ok``; to be sent again (``again``, after ``wait`` seconds if told); else refused.

    ``rejected`` spans or points of an accepted request were not taken. ``said`` is for the log.
    """

    ok: bool
    again: bool = False
    wait: float | None = None
    rejected: int = 0
    said: str = ""


class Collector:
    """One collector. Its address comes from settings, so it may be private; a cloud's metadata it never is."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], encoding: otlp.Encoding, clock: Clock) -> None:
        """``endpoint`` is the address below which ``/v1/traces`` lies. Raises ``Invalid``."""
        self._origin, self._path = Origin.parse(endpoint, private=True)
        self._encoding: otlp.Encoding = encoding
        self._clock = clock
        self._pool = Pool(clock, Egress(clock))
        self._headers = header_lines(
            [
                ("host", self._origin.authority),
                ("content-type", otlp.CONTENT_TYPES[encoding]),
                ("content-encoding", "gzip"),
                ("user-agent", "mainstay-otlp"),
                *headers.items(),
            ]
        )

    @property
    def encoding(self) -> otlp.Encoding:
        """How requests are written."""
        return self._encoding

    async def send(self, path: str, body: bytes) -> Sent:
        """Send ``body`` to ``path``, such as ``/v1/traces``."""
        try:
            upstream = await self._pool.send(
                self._origin,
                "POST",
                self._path + path,
                self._headers,
                gzip.compress(body, 3, mtime=0),
                connect_timeout=_CONNECT,
                max_body=_REPLY,
            )
            try:
                upstream.deadline, upstream.phase = self._clock.monotonic() + _WHOLE, "reply"
                status, headers = await upstream.head(lambda: True)
                reply = await upstream.body()
            finally:
                upstream.release()
        except UpstreamFailed as error:
            return Sent(False, True, said=error.message)
        return self._judged(status, headers, reply)

    def _judged(self, status: int, headers: Mapping[str, str], body: bytes) -> Sent:
        ok = 200 <= status < 300
        try:
            reply = otlp_reply.read(body, headers.get("content-type", "").startswith("application/json"), ok)
        except Invalid:
            reply = otlp_reply.Reply()
        said = f"status {status}: {reply.message[:300]}"
        if ok:
            return Sent(True, rejected=reply.rejected, said=said if reply.message or reply.rejected else "")
        if otlp_reply.retryable(status) or status in _AMENDABLE:
            return Sent(False, True, _seconds(headers.get("retry-after")), said=said)
        return Sent(False, said=said)

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.close()


def _seconds(value: str | None) -> float | None:
    if value is None or not value.strip().isdecimal():
        return None
    return min(float(value.strip()), _LONGEST)


def headers_of(setting: str) -> dict[str, str]:
    """``name=value,name=value``, percent-encoded, as OpenTelemetry has it. Raises ``ValueError``."""
    found: dict[str, str] = {}
    for pair in setting.split(","):
        if not pair.strip():
            continue
        name, equals, value = pair.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        if not equals or not name.replace("-", "").replace("_", "").isalnum() or not value.isprintable():
            raise ValueError("headers are name=value pairs with commas between")
        found[name] = value
    return found
