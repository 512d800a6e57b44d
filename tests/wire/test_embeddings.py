"""OpenAI's embeddings put to the Gemini API, to Vertex AI, to Amazon Titan and to Cohere on Bedrock."""

from __future__ import annotations

import base64
import struct
from typing import Any, NamedTuple

import msgspec
import pytest

from mainstay.core.errors import Invalid, Unsupported, UpstreamFailed
from mainstay.core.usage import Usage
from mainstay.wire import bedrock_embeddings, gemini_embeddings
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.embeddings import Embedder, read_reply, read_request
from mainstay.wire.gemini import Gemini

TITAN_V1, TITAN_V2 = "amazon.titan-embed-text-v1", "amazon.titan-embed-text-v2:0"
COHERE_V3, COHERE_V4 = "cohere.embed-multilingual-v3", "us.cohere.embed-v4:0"


def at_gemini(model: str) -> Embedder:
    return gemini_embeddings.embedder(model, vertex=False)


def at_vertex(model: str) -> Embedder:
    return gemini_embeddings.embedder(model, vertex=True)


def asked(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "e"} | fields)


def written(embedder: Embedder, model: str, **fields: Any) -> Any:
    request, _ = read_request(asked(**fields), embedder)
    return msgspec.json.decode(embedder.write(request, model))


def replied(
    embedder: Embedder, reply: bytes, headers: dict[str, str] | None = None, model: str = "m", **fields: Any
) -> tuple[Any, Usage]:
    request, _ = read_request(asked(**fields), embedder)
    body, usage = read_reply(embedder, reply, headers or {}, request, model)
    return msgspec.json.decode(body), usage


class Case(NamedTuple):
    """What is asked of a model, and what the provider's documentation calls that."""

    embedder: Embedder
    model: str
    asked: dict[str, Any]
    body: dict[str, Any]


def part(text: str) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}]}}


CASES = {
    "gemini one": Case(
        at_gemini("g"),
        "gemini-embedding-001",
        {"input": "hi"},
        {"requests": [{"model": "models/gemini-embedding-001", **part("hi")}]},
    ),
    "gemini several": Case(
        at_gemini("g"),
        "models/g",
        {"input": ["a", "b"], "dimensions": 256, "task_type": "RETRIEVAL_QUERY"},
        {
            "requests": [
                {"model": "models/g", **part(text), "outputDimensionality": 256, "taskType": "RETRIEVAL_QUERY"}
                for text in "ab"
            ]
        },
    ),
    "vertex predict": Case(
        at_vertex("text-embedding-005"),
        "text-embedding-005",
        {"input": ["a", "b"]},
        {"instances": [{"content": "a"}, {"content": "b"}], "parameters": {"autoTruncate": False}},
    ),
    "vertex predict with all": Case(
        at_vertex("gemini-embedding-001"),
        "gemini-embedding-001",
        {"input": "a", "dimensions": 768, "task_type": "CLUSTERING"},
        {
            "instances": [{"content": "a", "task_type": "CLUSTERING"}],
            "parameters": {"autoTruncate": False, "outputDimensionality": 768},
        },
    ),
    "vertex embedContent": Case(
        at_vertex("gemini-embedding-2"),
        "gemini-embedding-2",
        {"input": ["a"], "dimensions": 768, "task_type": "CLUSTERING"},
        {**part("a"), "outputDimensionality": 768, "taskType": "CLUSTERING", "autoTruncate": False},
    ),
    "titan": Case(bedrock_embeddings.TITAN, TITAN_V2, {"input": "a"}, {"inputText": "a"}),
    "titan, smaller": Case(
        bedrock_embeddings.TITAN, TITAN_V2, {"input": ["a"], "dimensions": 512}, {"inputText": "a", "dimensions": 512}
    ),
    "cohere v3": Case(
        bedrock_embeddings.COHERE,
        COHERE_V3,
        {"input": ["a", "b"]},
        {"texts": ["a", "b"], "input_type": "search_document", "embedding_types": ["float"]},
    ),
    "cohere v4": Case(
        bedrock_embeddings.COHERE,
        COHERE_V4,
        {"input": "a", "dimensions": 256, "input_type": "search_query"},
        {"texts": ["a"], "input_type": "search_query", "embedding_types": ["float"], "output_dimension": 256},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_asked(case: Case) -> None:
    assert written(case.embedder, case.model, **case.asked) == case.body


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("text-embedding-005", "/models/text-embedding-005:predict"),
        ("text-multilingual-embedding-002", "/models/text-multilingual-embedding-002:predict"),
        ("gemini-embedding-001", "/models/gemini-embedding-001:predict"),
        ("gemini-embedding-2", "/models/gemini-embedding-2:embedContent"),
        ("gemini-embedding-2-preview", "/models/gemini-embedding-2-preview:embedContent"),
    ],
)
def test_the_path_at_vertex(model: str, path: str) -> None:
    assert Gemini().path(at_vertex(model).operation, model, False) == path


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (TITAN_V2, "/model/amazon.titan-embed-text-v2%3A0/invoke"),
        (COHERE_V4, "/model/us.cohere.embed-v4%3A0/invoke"),
        ("amazon.titan-embed-g1-text-02", "/model/amazon.titan-embed-g1-text-02/invoke"),
    ],
)
def test_the_path_at_bedrock(model: str, path: str) -> None:
    assert Bedrock().path(bedrock_embeddings.embedder(model).operation, model, False) == path


EVERY = {
    "gemini": (at_gemini("g"), "g"),
    "vertex predict": (at_vertex("text-embedding-005"), "text-embedding-005"),
    "vertex embedContent": (at_vertex("gemini-embedding-2"), "gemini-embedding-2"),
    "titan": (bedrock_embeddings.TITAN, TITAN_V2),
    "cohere": (bedrock_embeddings.COHERE, COHERE_V4),
}


@pytest.mark.parametrize(("embedder", "model"), EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    ("fields", "field", "error"),
    [
        ({"input": [1, 2, 3]}, "input", Unsupported),
        ({"input": [[1, 2], [3]]}, "input", Unsupported),
        ({"input": ""}, "input", Invalid),
        ({"input": []}, "input", Invalid),
        ({"input": {"a": 1}}, "input", Invalid),
        ({"input": None}, "input", Invalid),
        ({}, "input", Invalid),
        ({"input": "a", "dimensions": 0}, "dimensions", Invalid),
        ({"input": "a", "dimensions": True}, "dimensions", Invalid),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", Invalid),
        ({"input": "a", "truncate": "END"}, "truncate", Unsupported),
    ],
)
def test_what_cannot_be_asked(
    embedder: Embedder, model: str, fields: dict[str, Any], field: str, error: type[Invalid]
) -> None:
    with pytest.raises(error) as caught:
        written(embedder, model, **fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("embedder", "model", "fields", "field"),
    [
        (at_vertex("gemini-embedding-2"), "gemini-embedding-2", {"input": ["a", "b"]}, "input"),
        (bedrock_embeddings.TITAN, TITAN_V2, {"input": ["a", "b"]}, "input"),
        (bedrock_embeddings.TITAN, TITAN_V1, {"input": "a", "dimensions": 256}, "dimensions"),
        (bedrock_embeddings.COHERE, COHERE_V3, {"input": "a", "dimensions": 256}, "dimensions"),
        (bedrock_embeddings.COHERE, COHERE_V4, {"input": ["a"] * 97}, "input"),
    ],
)
def test_what_a_model_cannot_do(embedder: Embedder, model: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        written(embedder, model, **fields)
    assert caught.value.field == field


def test_models_of_bedrock_that_make_no_embeddings() -> None:
    with pytest.raises(Unsupported) as caught:
        bedrock_embeddings.embedder("anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert caught.value.field == "model"
    assert "amazon.titan-embed-text-v2:0" in caught.value.message


@pytest.mark.parametrize(("embedder", "model"), EVERY.values(), ids=EVERY)
def test_every_field_has_the_fate_that_its_table_says(embedder: Embedder, model: str) -> None:
    values = {
        "model": "e",
        "input": "a",
        "dimensions": 256,
        "encoding_format": "base64",
        "task_type": "CLUSTERING",
        "input_type": "search_query",
        "user": "u",
    }
    assert set(embedder.fields) == set(values)
    for name, fate in embedder.fields.items():
        body = asked(**{"input": "a", name: values[name]})
        if fate == "refused":
            with pytest.raises(Unsupported) as caught:
                read_request(body, embedder)
            assert caught.value.field == name
            continue
        request, dropped = read_request(body, embedder)
        assert dropped == ((name,) if fate == "hint" else ())
        if fate == "mapped" and name in ("dimensions", "task_type", "input_type"):
            assert str(values[name]).encode() in embedder.write(request, model)


FLOATS = [[0.5, -1], [0.25, 2]]
TITAN_REPLY = b'{"embedding":[0.5,-1],"inputTextTokenCount":3,"embeddingsByType":{"float":[0.5,-1]}}'
COHERE_REPLY = (
    b'{"id":"1f2","texts":["a","b"],"embeddings":{"float":[[0.5,-1],[0.25,2]]},"response_type":"embeddings_by_type"}'
)
HEADER = {"x-amzn-bedrock-input-token-count": "7"}


@pytest.mark.parametrize(
    ("embedder", "texts", "reply", "headers", "tokens"),
    [
        (
            at_gemini("g"),
            ["a", "b"],
            b'{"embeddings":[{"values":[0.5,-1]},{"values":[0.25,2]}],"usageMetadata":{"promptTokenCount":7}}',
            {},
            7,
        ),
        (
            at_vertex("text-embedding-005"),
            ["a", "b"],
            b'{"predictions":[{"embeddings":{"values":[0.5,-1],"statistics":{"truncated":false,"token_count":3}}},'
            b'{"embeddings":{"statistics":{"token_count":4.0,"truncated":false},"values":[0.25,2]}}],'
            b'"metadata":{"billableCharacterCount":2}}',
            {},
            7,
        ),
        (
            at_vertex("gemini-embedding-2"),
            ["a"],
            b'{"embedding":{"values":[0.5,-1]},"usageMetadata":{"promptTokenCount":7,"totalTokenCount":7},'
            b'"truncated":false}',
            {},
            7,
        ),
        (bedrock_embeddings.TITAN, ["a"], TITAN_REPLY, {}, 3),
        (bedrock_embeddings.TITAN, ["a"], TITAN_REPLY, HEADER, 7),
        (bedrock_embeddings.COHERE, ["a", "b"], COHERE_REPLY, HEADER, 7),
        (
            bedrock_embeddings.COHERE,
            ["a", "b"],
            b'{"id":"1f2","embeddings":[[0.5,-1],[0.25,2]],"response_type":"embeddings_floats"}',
            HEADER,
            7,
        ),
    ],
)
def test_the_reply_in_both_encodings(
    embedder: Embedder, texts: list[str], reply: bytes, headers: dict[str, str], tokens: int
) -> None:
    body, usage = replied(embedder, reply, headers, "the-model", input=texts)
    floats = FLOATS[: len(texts)]
    assert body == {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(floats)],
        "model": "the-model",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    assert (usage.input, usage.output, usage.estimated) == (tokens, 0, False)
    body, _ = replied(embedder, reply, headers, input=texts, encoding_format="base64")
    for entry, vector in zip(body["data"], floats, strict=True):
        assert struct.unpack("<2f", base64.b64decode(entry["embedding"])) == tuple(vector)


@pytest.mark.parametrize(
    ("embedder", "reply", "headers"),
    [
        (at_gemini("g"), b'{"embeddings":[{"values":[1]}]}', {}),
        (at_vertex("text-embedding-005"), b'{"predictions":[{"embeddings":{"values":[1]}}]}', {}),
        (at_vertex("gemini-embedding-2"), b'{"embedding":{"values":[1]}}', {}),
        (bedrock_embeddings.TITAN, b'{"embedding":[1]}', {}),
        (bedrock_embeddings.COHERE, b'{"embeddings":{"float":[[1]]}}', {"x-amzn-bedrock-input-token-count": "many"}),
    ],
)
def test_usage_that_is_not_told_is_an_estimate(embedder: Embedder, reply: bytes, headers: dict[str, str]) -> None:
    _, usage = replied(embedder, reply, headers, input="hello")
    assert (usage.input, usage.estimated) == (2, True)


@pytest.mark.parametrize(("embedder", "model"), EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    "reply",
    [
        b"<html>",
        b"{}",
        b"[]",
        b'{"embeddings":[]}',
        b'{"embeddings":[{"values":"no"}]}',
        b'{"predictions":[]}',
        b'{"predictions":[{"embeddings":{}}]}',
        b'{"embedding":"no"}',
        b'{"embeddings":{"int8":[[1]]}}',
    ],
)
def test_what_is_no_reply(embedder: Embedder, model: str, reply: bytes) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        replied(embedder, reply, input="a")
    assert caught.value.kind == "unreadable"


def test_a_number_that_base64_cannot_say() -> None:
    with pytest.raises(UpstreamFailed) as caught:
        replied(bedrock_embeddings.TITAN, b'{"embedding":[1e300]}', input="a", encoding_format="base64")
    assert caught.value.kind == "unreadable"
