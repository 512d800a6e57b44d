"""Vertex AI access tokens from a service account's key: what to ask, what the answer means, when to ask again.

Pure functions: whoever holds the connection posts ``token_request`` to ``ServiceAccount.token_uri`` as
``application/x-www-form-urlencoded`` and gives the reply to ``read_token``.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from mainstay.core.errors import Invalid, UpstreamFailed

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FORM = "application/x-www-form-urlencoded"
_LIFETIME = 3600  # seconds; Google allows no more
_EARLY = 300.0  # seconds before its end at which a token is replaced


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account's key as Google hands it out; ``private_key`` is PEM and never part of a ``repr``."""

    client_email: str
    private_key: str = field(repr=False)
    token_uri: str
    private_key_id: str | None = None
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; ``expires`` is in seconds since the epoch."""

    value: str = field(repr=False)
    expires: float

    def due(self, now: float) -> bool:
        """Whether to ask for the next one: five minutes before the end, while this one still opens."""
        return now >= self.expires - _EARLY

    def dead(self, now: float) -> bool:
        """Whether it no longer opens anything."""
        return now >= self.expires


def read_account(text: str) -> ServiceAccount:
    """The service account in the JSON ``text``. Raises ``Invalid`` with a sentence that holds no secret."""
    try:
        content: Any = json.loads(text)
    except ValueError:
        raise Invalid(
            "the service account is not JSON; use the key file that Google Cloud made", field="api_key"
        ) from None
    if not isinstance(content, dict):
        raise Invalid("the service account's JSON is not an object", field="api_key")
    fields = cast("dict[str, Any]", content)
    if fields.get("type", "service_account") != "service_account":
        raise Invalid(
            f"credentials of type {fields['type']!r} cannot be used; make a service account key", field="api_key"
        )
    for name in ("client_email", "private_key"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise Invalid(f"the service account's JSON lacks {name!r}", field="api_key")
    token_uri = fields.get("token_uri") or "https://oauth2.googleapis.com/token"
    if not isinstance(token_uri, str) or not _safe(token_uri):
        raise Invalid("the service account's token_uri is not an https address", field="api_key")
    key_id, project = fields.get("private_key_id"), fields.get("project_id")
    return ServiceAccount(
        client_email=fields["client_email"],
        private_key=fields["private_key"],
        token_uri=token_uri,
        private_key_id=key_id if isinstance(key_id, str) else None,
        project_id=project if isinstance(project, str) else None,
    )


def assertion(account: ServiceAccount, now: float, scope: str = SCOPE) -> str:
    """The signed JSON Web Token (RS256) by which the account asks for a token. Raises ``Invalid`` for a key that is none."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    header = {"alg": "RS256", "typ": "JWT"}
    if account.private_key_id:
        header["kid"] = account.private_key_id
    at = int(now)
    claims = {
        "iss": account.client_email,
        "scope": scope,
        "aud": account.token_uri,
        "iat": at,
        "exp": at + _LIFETIME,
    }
    try:
        key = load_pem_private_key(account.private_key.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise Invalid("the service account's private_key is not an RSA key in PEM", field="api_key")
    content = f"{_part(header)}.{_part(claims)}"
    signature = key.sign(content.encode(), PKCS1v15(), hashes.SHA256())
    return f"{content}.{_base64(signature)}"


def token_request(account: ServiceAccount, now: float, scope: str = SCOPE) -> bytes:
    """The body to post to ``account.token_uri``."""
    return urlencode({"grant_type": GRANT, "assertion": assertion(account, now, scope)}).encode()


def read_token(status: int, body: bytes, now: float) -> Token:
    """The token in the token endpoint's reply. Raises ``UpstreamFailed``: ``auth`` if it refuses the account."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = None
    fields = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if status != 200:
        why = fields.get("error_description") or fields.get("error") or f"status {status}"
        kind = "auth" if 400 <= status < 500 and status != 429 else "rate_limit" if status == 429 else "server_error"
        raise UpstreamFailed(kind, f"Google gave no access token: {why}", status=status)
    value, lasts = fields.get("access_token"), fields.get("expires_in", _LIFETIME)
    if not isinstance(value, str) or not value or not isinstance(lasts, int | float):
        raise UpstreamFailed("unreadable", "the reply of Google's token endpoint has no access_token", status=status)
    return Token(value, now + lasts)


def _safe(uri: str) -> bool:
    """Whether ``uri`` keeps what is posted to it from others: https, or this very machine (an emulator)."""
    parts = urlsplit(uri)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"))


def _part(content: dict[str, Any]) -> str:
    return _base64(json.dumps(content, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
