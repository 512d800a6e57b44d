"""OpenAI's embeddings put to Gemini."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec
import pytest

from mainstay.core.errors import Invalid, Unsupported, UpstreamFailed
from mainstay.wire.gemini_embeddings import read_embeddings, write_embeddings


def asked(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "e"} | fields)


def test_one_text_and_several() -> None:
    written = write_embeddings(asked(input="hi"), "gemini-embedding-001")
    assert msgspec.json.decode(written.body) == {
        "requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "hi"}]}}]
    }
    written = write_embeddings(asked(input=["a", "b"], dimensions=256, user="u"), "g")
    entries = msgspec.json.decode(written.body)["requests"]
    assert [entry["content"]["parts"][0]["text"] for entry in entries] == ["a", "b"]
    assert [entry["outputDimensionality"] for entry in entries] == [256, 256]
    assert written.dropped == ("user",)


@pytest.mark.parametrize(
    ("fields", "field", "error"),
    [
        ({"input": [1, 2, 3]}, "input", Unsupported),
        ({"input": [[1, 2], [3]]}, "input", Unsupported),
        ({"input": ""}, "input", Invalid),
        ({"input": []}, "input", Invalid),
        ({"input": {"a": 1}}, "input", Invalid),
        ({}, "input", Invalid),
        ({"input": "a", "dimensions": 0}, "dimensions", Invalid),
        ({"input": "a", "dimensions": True}, "dimensions", Invalid),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", Invalid),
        ({"input": "a", "truncate": "END"}, "truncate", Unsupported),
    ],
)
def test_what_cannot_be_asked(fields: dict[str, Any], field: str, error: type[Invalid]) -> None:
    with pytest.raises(error) as caught:
        write_embeddings(asked(**fields), "g")
    assert caught.value.field == field


def test_the_reply_in_both_encodings() -> None:
    reply = b'{"embeddings":[{"values":[0.5,-1]},{"values":[0.25,2]}],"usageMetadata":{"promptTokenCount":7}}'
    body, usage = read_embeddings(reply, asked(input=["a", "b"]), "gemini-embedding-001")
    assert msgspec.json.decode(body) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 2]},
        ],
        "model": "gemini-embedding-001",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    assert (usage.input, usage.estimated) == (7, False)
    body, _ = read_embeddings(reply, asked(input=["a", "b"], encoding_format="base64"), "g")
    packed = base64.b64decode(msgspec.json.decode(body)["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (0.5, -1.0)


def test_usage_that_is_not_told_is_an_estimate() -> None:
    _, usage = read_embeddings(b'{"embeddings":[{"values":[1]}]}', asked(input="hello"), "g")
    assert (usage.input, usage.estimated) == (2, True)


@pytest.mark.parametrize("reply", [b"<html>", b"{}", b'{"embeddings":[]}', b'{"embeddings":[{"values":"no"}]}'])
def test_what_is_no_reply(reply: bytes) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        read_embeddings(reply, asked(input="a"), "g")
    assert caught.value.kind == "unreadable"
