"""OpenAI's embeddings request and reply, put to Gemini's batchEmbedContents and read from it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from mainstay.core.errors import Invalid, Unsupported, UpstreamFailed
from mainstay.core.usage import Usage
from mainstay.wire.dialect import Written
from mainstay.wire.json_shape import as_list, decode_object

_KNOWN = frozenset(("model", "input", "dimensions", "encoding_format", "user"))


class _Embedding(msgspec.Struct):
    values: list[float]


class _UsageMetadata(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None


class _Reply(msgspec.Struct, rename="camel"):
    embeddings: list[_Embedding]
    usage_metadata: _UsageMetadata | None = None


_decoder = msgspec.json.Decoder(_Reply)


def write_embeddings(body: bytes, model: str) -> Written:
    """An OpenAI embeddings request as a batchEmbedContents body. Raises ``Invalid`` or ``Unsupported`` naming the field."""
    request = decode_object(body)
    for name in request:
        if name not in _KNOWN:
            raise Unsupported(f"{name} cannot be said to Gemini; leave it out", field=name)
    _encoding(request)
    named = model if "/" in model else f"models/{model}"
    size = request.get("dimensions")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise Invalid("dimensions must be a whole number from 1", field="dimensions")
    entries: list[dict[str, Any]] = []
    for text in _texts(request):
        entry: dict[str, Any] = {"model": named, "content": {"parts": [{"text": text}]}}
        if size is not None:
            entry["outputDimensionality"] = size
        entries.append(entry)
    return Written(msgspec.json.encode({"requests": entries}), ("user",) if "user" in request else ())


def read_embeddings(reply: bytes, request: bytes, model: str) -> tuple[bytes, Usage]:
    """The OpenAI reply to the OpenAI ``request`` that Gemini's ``reply`` makes, and its usage.

    Where Gemini reports no usage, it is estimated from the texts (four bytes a token) and marked so.
    Raises ``UpstreamFailed(unreadable)`` for a reply that is none, or that lacks a vector.
    """
    asked = decode_object(request)
    texts = _texts(asked)
    try:
        read = _decoder.decode(reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed("unreadable", f"the provider's reply holds no embeddings: {error}") from None
    if len(read.embeddings) != len(texts):
        raise UpstreamFailed("unreadable", f"the provider sent {len(read.embeddings)} vectors for {len(texts)} texts")
    counted = read.usage_metadata.prompt_token_count if read.usage_metadata is not None else None
    if counted is None:
        usage = Usage(input=sum(-(-len(text.encode()) // 4) for text in texts), estimated=True)
    else:
        usage = Usage(input=max(counted, 0))
    as_base64 = _encoding(asked) == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(entry.values) if as_base64 else entry.values}
        for index, entry in enumerate(read.embeddings)
    ]
    tokens = {"prompt_tokens": usage.input, "total_tokens": usage.input}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": tokens}), usage


def _packed(values: list[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI's ``encoding_format: base64``."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _encoding(request: dict[str, Any]) -> str:
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Invalid("encoding_format must be float or base64", field="encoding_format")
    return encoding


def _texts(request: dict[str, Any]) -> list[str]:
    given: Any = request.get("input")
    texts: list[Any] = [given] if isinstance(given, str) else as_list(given, "input")
    if not texts:
        raise Invalid("input must be a text or a list of texts", field="input")
    for text in texts:
        if isinstance(text, int | list):
            raise Unsupported("Gemini takes texts, not tokens; send the text itself", field="input")
        if not isinstance(text, str) or not text:
            raise Invalid("input must be a text or a list of texts, none of them empty", field="input")
    return texts
