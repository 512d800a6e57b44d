"""OpenAI's embeddings request and reply, read and written for targets that make embeddings in another format."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec

from mainstay.core.errors import Invalid, Unsupported, UpstreamFailed
from mainstay.core.usage import Usage
from mainstay.wire.dialect import Fate
from mainstay.wire.json_shape import decode_object

NO_TOKENS = "the provider takes texts, not tokens; send the text itself"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller wants embedded, and how. ``task_type`` and ``input_type`` are Google's and Cohere's words for what
    the vectors are for; OpenAI's own API has none, and callers send them as extra fields."""

    texts: tuple[str, ...]
    dimensions: int | None = None
    as_base64: bool = False
    task_type: str | None = None
    input_type: str | None = None


class Vectors(NamedTuple):
    """What a provider made: a vector for each text, in their order, and the tokens that it counted, if it says so."""

    values: Sequence[Sequence[float]]
    tokens: int | None


class Embedder(NamedTuple):
    """One way of asking for embeddings, other than OpenAI's.

    ``operation`` names the path in the target's dialect. ``fields`` says what becomes of each field of an OpenAI request.
    ``write`` makes the body for a model, and raises ``Unsupported`` for what it cannot be asked. ``read`` reads a reply and
    its headers, and raises ``msgspec.MsgspecError`` for one that is none.
    """

    title: str
    operation: str
    fields: Mapping[str, Fate]
    write: Callable[[Asked, str], bytes]
    read: Callable[[bytes, Mapping[str, str]], Vectors]


def read_request(body: bytes, embedder: Embedder) -> tuple[Asked, tuple[str, ...]]:
    """An OpenAI request, and the hints in it that ``embedder`` has no word for.

    Raises ``Invalid`` or ``Unsupported`` naming the field.
    """
    request = decode_object(body)
    dropped: list[str] = []
    for name, value in request.items():
        fate = embedder.fields.get(name, "refused")
        if fate == "refused" and value is not None:
            raise Unsupported(f"{name} cannot be said to {embedder.title}; leave it out", field=name)
        if fate == "hint":
            dropped.append(name)
    size = request.get("dimensions")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise Invalid("dimensions must be a whole number from 1", field="dimensions")
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Invalid("encoding_format must be float or base64", field="encoding_format")
    task, purpose = (_word(request, name) for name in ("task_type", "input_type"))
    return Asked(_texts(request.get("input")), size, encoding == "base64", task, purpose), tuple(dropped)


def write_reply(vectors: Vectors, asked: Asked, model: str) -> tuple[bytes, Usage]:
    """OpenAI's reply, and the usage. Tokens that nobody counted are estimated (four bytes each) and marked so.

    Raises ``UpstreamFailed(unreadable)`` unless there is one vector for each text, of numbers that can be written.
    """
    values, texts = vectors.values, asked.texts
    if len(values) != len(texts):
        raise UpstreamFailed("unreadable", f"the provider sent {len(values)} vectors for {len(texts)} texts")
    if vectors.tokens is None:
        usage = Usage(input=sum(-(-len(text.encode()) // 4) for text in texts), estimated=True)
    else:
        usage = Usage(input=max(vectors.tokens, 0))
    try:
        packed = [_packed(vector) if asked.as_base64 else vector for vector in values]
    except OverflowError:
        raise UpstreamFailed("unreadable", "the provider sent a number that no 32-bit float holds") from None
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(packed)]
    tokens = {"prompt_tokens": usage.input, "total_tokens": usage.input}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": tokens}), usage


def read_reply(
    embedder: Embedder, reply: bytes, headers: Mapping[str, str], asked: Asked, model: str
) -> tuple[bytes, Usage]:
    """OpenAI's reply that the provider's ``reply`` makes, and its usage. Raises ``UpstreamFailed(unreadable)``."""
    try:
        vectors = embedder.read(reply, headers)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed("unreadable", f"the provider's reply holds no embeddings: {error}") from None
    return write_reply(vectors, asked, model)


def one_text(asked: Asked, title: str) -> str:
    """The one text of a request. Raises ``Unsupported`` for more: each ask is one request to the provider."""
    if len(asked.texts) != 1:
        raise Unsupported(f"{title} embeds one text per request; send each in a request of its own", field="input")
    return asked.texts[0]


def _packed(values: Sequence[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI's ``encoding_format: base64``."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _word(request: dict[str, Any], name: str) -> str | None:
    value = request.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise Invalid(f"{name} must be a word", field=name)
    return value


def _texts(given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise Invalid("input must be a text or a list of texts", field="input")
    texts = cast("list[Any]", given)
    for text in texts:
        if isinstance(text, int | list):
            raise Unsupported(NO_TOKENS, field="input")
        if not isinstance(text, str) or not text:
            raise Invalid("input must be a text or a list of texts, none of them empty", field="input")
    return tuple(texts)
