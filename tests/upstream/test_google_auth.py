"""Access tokens of Vertex AI: what is asked, what the answer means."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mainstay.core.errors import Invalid, UpstreamFailed
from mainstay.upstream.google_auth import read_account, read_token, token_request

NOW = 1_800_000_000.25
KEY = generate_private_key(65537, 2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
ACCOUNT = {
    "type": "service_account",
    "project_id": "p-1",
    "private_key_id": "k1",
    "private_key": PEM,
    "client_email": "door@p-1.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def unpacked(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_the_assertion_is_signed_by_the_account() -> None:
    account = read_account(json.dumps(ACCOUNT))
    assert account.project_id == "p-1"
    form = parse_qs(token_request(account, NOW).decode(), strict_parsing=True)
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    header, claims, signature = form["assertion"][0].split(".")
    assert json.loads(unpacked(header)) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert json.loads(unpacked(claims)) == {
        "iss": "door@p-1.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_800_000_000,
        "exp": 1_800_003_600,
    }
    KEY.public_key().verify(unpacked(signature), f"{header}.{claims}".encode(), PKCS1v15(), hashes.SHA256())


def test_a_key_is_never_shown() -> None:
    account = read_account(json.dumps(ACCOUNT))
    assert "PRIVATE" not in repr(account)
    token = read_token(200, b'{"access_token":"ya29.secret","expires_in":3599,"token_type":"Bearer"}', NOW)
    assert "ya29" not in repr(token)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"type": "authorized_user"}, "authorized_user"),
        ({"client_email": None}, "client_email"),
        ({"private_key": ""}, "private_key"),
        ({"token_uri": "ftp://x"}, "token_uri"),
        ({"token_uri": "http://oauth2.googleapis.com/token"}, "token_uri"),
        ({"token_uri": 7}, "token_uri"),
    ],
)
def test_what_is_no_account(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        read_account(json.dumps(ACCOUNT | changed))
    assert "BEGIN" not in caught.value.message
    for text in ("", "[]", PEM):
        with pytest.raises(Invalid):
            read_account(text)


def test_a_key_that_is_none_is_said_without_showing_it() -> None:
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for key in ("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----", other):
        with pytest.raises(Invalid, match="not an RSA key") as caught:
            token_request(read_account(json.dumps(ACCOUNT | {"private_key": key})), NOW)
        assert "nonsense" not in caught.value.message


def test_a_token_is_renewed_before_it_ends() -> None:
    token = read_token(200, b'{"access_token":"t","expires_in":3600}', NOW)
    assert (token.value, token.expires) == ("t", NOW + 3600)
    assert not token.due(NOW + 3299)
    assert token.due(NOW + 3300)
    assert not token.dead(NOW + 3599)
    assert token.dead(NOW + 3600)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}', "auth"),
        (401, b"{}", "auth"),
        (429, b"", "rate_limit"),
        (503, b"<html>", "server_error"),
        (200, b"{}", "unreadable"),
        (200, b"[]", "unreadable"),
        (200, b"<html>", "unreadable"),
        (200, b'{"access_token":"t","expires_in":"soon"}', "unreadable"),
    ],
)
def test_what_is_no_token(status: int, body: bytes, kind: str) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        read_token(status, body, NOW)
    assert caught.value.kind == kind
