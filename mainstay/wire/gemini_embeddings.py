"""Embeddings of Google's models: batchEmbedContents of the Gemini API, predict and embedContent of Vertex AI.

Vertex AI serves its text-embedding models and gemini-embedding-001 by ``predict``, every later Gemini embedding model by
``embedContent`` alone, which takes one text (its reference of ``projects.locations.publishers.models``; the choice is the
one that Google's own SDK makes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mainstay.wire.dialect import Fate
from mainstay.wire.embeddings import Asked, Embedder, Vectors, one_text

FIELDS: dict[str, Fate] = {
    "model": "mapped",
    "input": "mapped",
    "dimensions": "mapped",
    "encoding_format": "mapped",
    "task_type": "mapped",
    "input_type": "refused",
    "user": "hint",
}
"""What becomes of each field of an OpenAI request at every one of Google's endpoints."""


class _Values(msgspec.Struct):
    values: list[float]


class _UsageMetadata(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None


class _Batch(msgspec.Struct, rename="camel"):
    embeddings: list[_Values]
    usage_metadata: _UsageMetadata | None = None


class _One(msgspec.Struct, rename="camel"):
    embedding: _Values
    usage_metadata: _UsageMetadata | None = None


class _Statistics(msgspec.Struct):
    token_count: float | None = None


class _Embeddings(msgspec.Struct):
    values: list[float]
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _Embeddings


class _Predictions(msgspec.Struct):
    predictions: list[_Prediction]


_batch = msgspec.json.Decoder(_Batch)
_one = msgspec.json.Decoder(_One)
_predictions = msgspec.json.Decoder(_Predictions)


def _write_batch(asked: Asked, model: str) -> bytes:
    named = model if "/" in model else f"models/{model}"
    entries = [{"model": named, **_content(text), **_options(asked)} for text in asked.texts]
    return msgspec.json.encode({"requests": entries})


def _read_batch(reply: bytes, headers: Mapping[str, str]) -> Vectors:
    read = _batch.decode(reply)
    return Vectors([entry.values for entry in read.embeddings], _counted(read.usage_metadata))


def _write_one(asked: Asked, model: str) -> bytes:
    text = one_text(asked, f"{model} on Vertex AI")
    return msgspec.json.encode({**_content(text), **_options(asked), "autoTruncate": False})


def _read_one(reply: bytes, headers: Mapping[str, str]) -> Vectors:
    read = _one.decode(reply)
    return Vectors([read.embedding.values], _counted(read.usage_metadata))


def _write_predict(asked: Asked, model: str) -> bytes:
    task = {} if asked.task_type is None else {"task_type": asked.task_type}
    # Left alone, it cuts a text that is too long and says nothing; OpenAI's API refuses one, and so does this.
    parameters: dict[str, Any] = {"autoTruncate": False}
    if asked.dimensions is not None:
        parameters["outputDimensionality"] = asked.dimensions
    return msgspec.json.encode(
        {"instances": [{"content": text, **task} for text in asked.texts], "parameters": parameters}
    )


def _read_predict(reply: bytes, headers: Mapping[str, str]) -> Vectors:
    made = [one.embeddings for one in _predictions.decode(reply).predictions]
    counts = [one.statistics.token_count for one in made if one.statistics is not None]
    told = [count for count in counts if count is not None]
    return Vectors([one.values for one in made], int(sum(told)) if len(told) == len(made) else None)


def _content(text: str) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}]}}


def _options(asked: Asked) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if asked.dimensions is not None:
        options["outputDimensionality"] = asked.dimensions
    if asked.task_type is not None:
        options["taskType"] = asked.task_type
    return options


def _counted(usage: _UsageMetadata | None) -> int | None:
    return usage.prompt_token_count if usage is not None else None


BATCH = Embedder("Gemini", "embeddings", FIELDS, _write_batch, _read_batch)
PREDICT = Embedder("Vertex AI", "embeddings.predict", FIELDS, _write_predict, _read_predict)
EMBED_CONTENT = Embedder("Vertex AI", "embeddings.content", FIELDS, _write_one, _read_one)


def embedder(model: str, vertex: bool) -> Embedder:
    """How ``model`` is asked, at Vertex AI or at the Gemini API."""
    if not vertex:
        return BATCH
    bare = model.rpartition("/")[2].lower()
    return EMBED_CONTENT if "gemini" in bare and bare != "gemini-embedding-001" else PREDICT
