"""Embeddings of Bedrock's InvokeModel, where each vendor's models have a format of their own: Amazon Titan and Cohere.

Source: the pages "Amazon Titan Embeddings", "Cohere Embed v3" and "Cohere Embed v4" of Bedrock's user guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.core.errors import Unsupported
from mainstay.wire.dialect import Fate
from mainstay.wire.embeddings import Asked, Embedder, Vectors, one_text

COUNT = "x-amzn-bedrock-input-token-count"
"""The header in which InvokeModel tells the tokens of the input; Cohere's bodies do not."""
MOST_TEXTS = 96
"""Texts that Cohere's models take in one request."""
DEFAULT_INPUT_TYPE = "search_document"
"""Cohere wants to know what a vector is for; what is embedded without a word about it is most often stored."""

_ALL: dict[str, Fate] = {
    "model": "mapped",
    "input": "mapped",
    "dimensions": "mapped",
    "encoding_format": "mapped",
    "task_type": "refused",
    "user": "hint",
}
TITAN_FIELDS: dict[str, Fate] = {**_ALL, "input_type": "refused"}
"""What becomes of each field of an OpenAI request at Titan's models."""
COHERE_FIELDS: dict[str, Fate] = {**_ALL, "input_type": "mapped"}
"""What becomes of each field of an OpenAI request at Cohere's models."""

_TITAN = re.compile(r"\btitan-embed-(text|g1-text)-")
_COHERE = re.compile(r"\bcohere\.embed-")
_FIXED_SIZE = re.compile(r"titan-embed-(text-v1|g1)|embed-(english|multilingual)-v3")


class _Titan(msgspec.Struct, rename="camel"):
    embedding: list[float]
    input_text_token_count: int | None = None


class _ByType(msgspec.Struct):
    floats: list[list[float]] = msgspec.field(name="float")


class _Cohere(msgspec.Struct):
    embeddings: _ByType | list[list[float]]


_titan = msgspec.json.Decoder(_Titan)
_cohere = msgspec.json.Decoder(_Cohere)


def _write_titan(asked: Asked, model: str) -> bytes:
    body: dict[str, Any] = {"inputText": one_text(asked, model)}
    if asked.dimensions is not None:
        body["dimensions"] = _size(asked.dimensions, model)
    return msgspec.json.encode(body)


def _read_titan(reply: bytes, headers: Mapping[str, str]) -> Vectors:
    read = _titan.decode(reply)
    told = _told(headers)
    return Vectors([read.embedding], read.input_text_token_count if told is None else told)


def _write_cohere(asked: Asked, model: str) -> bytes:
    if len(asked.texts) > MOST_TEXTS:
        raise Unsupported(f"{model} embeds at most {MOST_TEXTS} texts per request", field="input")
    body: dict[str, Any] = {
        "texts": asked.texts,
        "input_type": asked.input_type or DEFAULT_INPUT_TYPE,
        "embedding_types": ["float"],
    }
    if asked.dimensions is not None:
        body["output_dimension"] = _size(asked.dimensions, model)
    return msgspec.json.encode(body)


def _read_cohere(reply: bytes, headers: Mapping[str, str]) -> Vectors:
    made = _cohere.decode(reply).embeddings
    return Vectors(made if isinstance(made, list) else made.floats, _told(headers))


def _size(dimensions: int, model: str) -> int:
    if _FIXED_SIZE.search(model):
        raise Unsupported(f"{model} makes vectors of one size only; leave dimensions out", field="dimensions")
    return dimensions


def _told(headers: Mapping[str, str]) -> int | None:
    count = headers.get(COUNT, "")
    return int(count) if count.isascii() and count.isdigit() else None


TITAN = Embedder("Amazon Titan", "embeddings", TITAN_FIELDS, _write_titan, _read_titan)
COHERE = Embedder("Cohere on Bedrock", "embeddings", COHERE_FIELDS, _write_cohere, _read_cohere)


def embedder(model: str) -> Embedder:
    """How ``model`` is asked. Raises ``Unsupported`` for a model that is of neither family."""
    if _TITAN.search(model):
        return TITAN
    if _COHERE.search(model):
        return COHERE
    raise Unsupported(
        f"on Bedrock, Amazon Titan Text and Cohere Embed make embeddings, and {model} is known as neither; "
        "use amazon.titan-embed-text-v2:0 or cohere.embed-v4:0, or another target",
        field="model",
    )
