"""Request heads, read strictly: what is ambiguous or malformed is refused, never repaired.

The server cuts heads and bodies out of the stream itself, because a request must end exactly where this code says it
ends: that is what keeps a second request from hiding inside the first, and lets pipelined bytes wait unread.
"""

from __future__ import annotations

import re

from mainstay.edge.http_limits import HttpLimits, Reject

_TEXT = bytes(c for c in range(256) if c == 0x09 or 0x20 <= c != 0x7F)
"""What may stand in a line of a head; all that is left when it is taken out must be the CR LF between the lines."""

_TARGET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!$&'()*+,;=%"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")
_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)

_ONCE = frozenset(
    (
        "host",
        "content-length",
        "transfer-encoding",
        "content-type",
        "content-encoding",
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "expect",
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "traceparent",
        "x-mainstay-user",
        "x-mainstay-session",
        "x-mainstay-workflow",
        "x-mainstay-cache",
        "x-mainstay-timeout",
    )
)
"""Headers of which a second one means that two readers may take different ones: refused."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_REMEMBERED = 512

_names: dict[str, str] = {}
_hosts: set[str] = set()


def text_only(data: bytes | bytearray) -> bool:
    """Whether ``data`` has, beside CR LF pairs, only what may stand in a head; a CR at its very end may be half a pair."""
    rest = data.translate(None, _TEXT)
    if not rest:
        return True
    pairs = data.count(b"\r\n")
    return rest == b"\r\n" * pairs or (rest == b"\r\n" * pairs + b"\r" and data[-1] == 0x0D)


def _name(name: str) -> str:
    """The lower-case form of a header's name, checked; remembered, so that the usual names cost one look-up."""
    if _TOKEN.fullmatch(name) is None:
        raise Reject(400, "a header's name has a character that may not be there")
    lower = name.lower()
    if len(_names) < _REMEMBERED and len(name) <= 40:
        _names[name] = lower
    return lower


def _check_host(host: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None or (match[1] is not None and int(match[1]) > 65535):
        raise Reject(400, "the Host header is not a host with an optional port")
    if len(_hosts) < _REMEMBERED and len(host) <= 128:
        _hosts.add(host)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    known = _names
    for line in lines:
        name, colon, value = line.partition(":")
        lower = known.get(name) or _name(name)
        if not colon:
            raise Reject(400, "a header line has no colon")
        value = value.strip(" \t")
        if lower in headers:
            if lower in _ONCE:
                raise Reject(400, f"there is more than one {lower} header")
            value = headers[lower] + ("; " if lower == "cookie" else ", ") + value
        headers[lower] = value
    return headers


def _absolute(target: str, host: str | None) -> str:
    """The origin form of an absolute target, whose authority must be the Host header's."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Reject(400, "the request's target must begin with a slash")
    if host is not None and match[1].lower() != host.lower():
        raise Reject(400, "the request's target and its Host header name different hosts")
    _check_host(match[1])
    path = match[2]
    return path if path.startswith("/") else "/" + path


def parse_head(head: bytes, limits: HttpLimits) -> tuple[str, bytes, str, str, dict[str, str], bool]:
    """Method, raw target, path, query, headers and whether it is HTTP/1.1, of a head without its empty line.

    The path is as it came, not percent-decoded. Raises ``Reject``.
    """
    lines = head.decode("latin-1").split("\r\n")
    if head.translate(None, _TEXT) != b"\r\n" * (len(lines) - 1):
        raise Reject(400, "the request's head has a control character or a line break that is not CR LF")
    first = lines[0].split(" ")
    if len(first) != 3:
        raise Reject(400, "the request line must be a method, a target and a version, with one space between them")
    method, target, version = first
    if version != "HTTP/1.1" and version != "HTTP/1.0":
        if _VERSION.fullmatch(version):
            raise Reject(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        raise Reject(400, "the request line does not end in an HTTP version")
    if method not in _METHODS and (_TOKEN.fullmatch(method) is None or method == "CONNECT"):
        raise Reject(400, "the request's method is not one that can be used here")
    raw = target.encode("latin-1")
    if len(raw) > limits.target_bytes:
        raise Reject(414, f"the request's target is longer than {limits.target_bytes} bytes")
    if not raw or raw.translate(None, _TARGET):
        raise Reject(400, "the request's target has a character that must be percent-encoded")
    if len(lines) - 1 > limits.headers:
        raise Reject(431, f"there are more than {limits.headers} headers")
    del lines[0]
    headers = _headers(lines)
    host = headers.get("host")
    if host is None:
        if version == "HTTP/1.1":
            raise Reject(400, "an HTTP/1.1 request needs a Host header")
    elif host not in _hosts:
        _check_host(host)
    if target[0] != "/" and not (target == "*" and method == "OPTIONS"):
        target = _absolute(target, host)
    if "%" in target and _BAD_ESCAPE.search(target):
        raise Reject(400, "the request's target has a percent sign without two hexadecimal digits")
    path, _, query = target.partition("?")
    return method, raw, path, query, headers, version == "HTTP/1.1"


CHUNKED = -1


def body_length(headers: dict[str, str], http11: bool) -> int:
    """How many bytes the body has, or ``CHUNKED``. Raises ``Reject`` for anything that two readers may read differently."""
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Reject(400, "a request may not have both Content-Length and Transfer-Encoding")
        if not http11:
            raise Reject(400, "an HTTP/1.0 request may not have a Transfer-Encoding")
        if coding.lower() == "chunked":
            return CHUNKED
        codings = [part.strip().lower() for part in coding.split(",")]
        if codings[-1] == "chunked" and "chunked" not in codings[:-1] and "" not in codings:
            raise Reject(501, "no transfer coding but chunked is understood here")
        raise Reject(400, "the Transfer-Encoding header must be exactly: chunked")
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise Reject(400, "the Content-Length header must be one number")
    return int(length)
