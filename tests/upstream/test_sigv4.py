"""AWS signatures, against vectors that botocore's signer made for the same requests."""

from __future__ import annotations

import pytest

from mainstay.upstream.sigv4 import sign

NOW = 1767323045.0  # 2026-01-02 03:04:05 UTC
ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SESSION = "IQoJb3JpZ2luX2VjEXAMPLETOKEN//////////wEaCXVzLWVhc3QtMSJHMEU="
JSON = {"content-type": "application/json"}

# method, host, path and query, headers, body, session token, region, signed headers, signature
VECTORS = [
    (
        "POST",
        "bedrock-runtime.us-east-1.amazonaws.com",
        "/model/anthropic.claude-3-5-sonnet-20241022-v2%3A0/converse",
        JSON,
        b'{"messages":[]}',
        None,
        "us-east-1",
        "content-type;host;x-amz-date",
        "313b724e6aba41b478aadb9b914c29a1c8bce95c08f6f2c702cb33de83698a58",
    ),
    (
        "POST",
        "bedrock-runtime.eu-central-1.amazonaws.com",
        "/model/arn%3Aaws%3Abedrock%3Aeu-central-1%3A123456789012%3Ainference-profile%2F"
        "eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream",
        JSON | {"accept": "application/vnd.amazon.eventstream"},
        '{"a":"ü"}'.encode(),
        SESSION,
        "eu-central-1",
        "accept;content-type;host;x-amz-date;x-amz-security-token",
        "b71c68fd8b41de703a87497f5062b7e03bd07d0dee616805c5c10fc40f1fea92",
    ),
    (
        "GET",
        "bedrock.us-west-2.amazonaws.com",
        "/foundation-models?byProvider=Meta%20AI&byOutputModality=TEXT&a=b~c&empty=",
        {},
        b"",
        None,
        "us-west-2",
        "host;x-amz-date",
        "348d250e7e778f74355824b7cc7dc63d4c72803478e8d508590375fae514acaa",
    ),
    (
        "POST",
        "localhost:4566",
        "/model/a/../b//c%20d~e/converse/",
        JSON | {"X-Amz-Spaces": "  a   b  c ", "user-agent": "x", "x-amzn-trace-id": "Root=1"},
        b"{}",
        None,
        "us-east-1",
        "content-type;host;x-amz-date;x-amz-spaces",
        "173dacb8f2644aebebbad9cb8e1aaba3dcc7e12814a9b1548bfc3f795c3700e4",
    ),
]


@pytest.mark.parametrize("vector", VECTORS, ids=["model id", "arn and session", "query", "dots, spaces, port"])
def test_signatures(vector: tuple[str, str, str, dict[str, str], bytes, str | None, str, str, str]) -> None:
    method, host, path, headers, body, session, region, names, signature = vector
    added = sign(
        method,
        host,
        path,
        headers,
        body,
        access_key=ACCESS,
        secret_key=SECRET,
        session_token=session,
        region=region,
        service="bedrock",
        now=NOW,
    )
    assert added.pop("authorization") == (
        f"AWS4-HMAC-SHA256 Credential={ACCESS}/20260102/{region}/bedrock/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    assert added.pop("x-amz-date") == "20260102T030405Z"
    assert added == ({"x-amz-security-token": session} if session else {})


def test_everything_that_is_sent_is_signed() -> None:
    def signature(**changed: object) -> str:
        given: dict[str, object] = {
            "access_key": ACCESS,
            "secret_key": SECRET,
            "session_token": None,
            "region": "us-east-1",
            "service": "bedrock",
            "now": NOW,
        }
        sent = {"method": "POST", "host": "h", "path_and_query": "/a?b=c", "headers": JSON, "body": b"{}"}
        both = sent | given | changed
        added = sign(**both)  # type: ignore[arg-type]
        return added["authorization"].rpartition("=")[2]

    changes: list[dict[str, object]] = [
        {},
        {"method": "PUT"},
        {"host": "i"},
        {"path_and_query": "/a?b=d"},
        {"path_and_query": "/b?b=c"},
        {"headers": {"content-type": "text/plain"}},
        {"body": b"{ }"},
        {"secret_key": "x"},
        {"session_token": "x"},
        {"region": "us-east-2"},
        {"service": "other"},
        {"now": NOW + 1},
    ]
    assert len({signature(**changed) for changed in changes}) == len(changes)
    assert signature(headers=JSON | {"user-agent": "any", "connection": "close"}) == signature()
