"""AWS Signature Version 4 for services other than S3: the headers that prove who sends a request."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote

_SPACES = re.compile(r"\s+")
# Proxies and HTTP clients may change these on the way, so a signature must not cover them.
_UNSIGNED = frozenset(("authorization", "connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"))


def sign(
    method: str,
    host: str,
    path_and_query: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    region: str,
    service: str,
    now: float,
) -> dict[str, str]:
    """The headers to add to the request: ``x-amz-date``, ``authorization`` and, with a session, ``x-amz-security-token``.

    ``path_and_query`` is what stands in the request line, percent-encoded once; it is encoded once more for the
    signature, as all services but S3 do. ``host`` is the value of the Host header, with the port where it has one.
    ``now`` is in seconds since the epoch: AWS refuses a signature that is more than five minutes off.
    """
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-date": stamp}
    if session_token:
        added["x-amz-security-token"] = session_token
    path, _, query = path_and_query.partition("?")
    signed = {name.lower(): value for name, value in headers.items()} | {"host": host} | added
    lines = sorted((name, _SPACES.sub(" ", value).strip()) for name, value in signed.items() if name not in _UNSIGNED)
    names = ";".join(name for name, _ in lines)
    canonical = "\n".join(
        (
            method.upper(),
            _canonical_path(path),
            _canonical_query(query),
            *(f"{name}:{value}" for name, value in lines),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    key = f"AWS4{secret_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def _canonical_path(path: str) -> str:
    """``path`` without ``.``, ``..`` and doubled slashes, and encoded a second time."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    clean = "/" + "/".join(parts) + ("/" if parts and path.endswith("/") else "")
    return quote(clean, safe="/~")


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = [part.partition("=") for part in query.split("&") if part]
    encoded = sorted((quote(unquote(name), safe="~"), quote(unquote(value), safe="~")) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
