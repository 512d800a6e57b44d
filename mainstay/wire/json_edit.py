"""Finds and changes single members of a JSON object in its bytes, and refuses objects that two parsers could read
differently."""

from __future__ import annotations

import json
import re

import msgspec

from mainstay.core.errors import Invalid
from mainstay.wire.surrogates import cut_emoji

POLICY = frozenset(
    """
    model stream stream_options max_tokens max_completion_tokens max_output_tokens max_tokens_to_sample n best_of
    tools tool_choice functions function_call messages input prompt instructions system user safety_identifier
    metadata store background previous_response_id conversation include web_search_options plugins modalities audio
    thinking reasoning reasoning_effort service_tier response_format size quality stop seed temperature top_p
    contents generationConfig systemInstruction toolConfig cachedContent safetySettings inferenceConfig
    additionalModelRequestFields guardrailConfig
    """.split()
)
"""Top-level fields, of any wire format, that limits, budgets, routing or guards depend on."""

MEMBERS = 512
"""The most members that the outermost object may have."""

_FOLDED = {name.casefold(): name for name in POLICY}
_outline = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
# What an upstream's parser may build from a number does not matter here; float never refuses digits.
_skip = json.JSONDecoder(parse_int=float).raw_decode
_KEY = re.compile(r'[ \t\n\r]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_PLAIN_KEY = re.compile(rb'[ \t\n\r]*[{,][ \t\n\r]*"([^"\\]*)"[ \t\n\r]*:[ \t\n\r]*')
_NEXT = re.compile(r"[ \t\n\r]*([,}])")
_CLOSE = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*\Z")
_OPEN = re.compile(rb"[ \t\n\r]*\{")
_EMPTY = re.compile(rb"[ \t\n\r]*\{[ \t\n\r]*\}[ \t\n\r]*\Z")


def top_level(body: bytes) -> list[tuple[str, int, int]]:
    """The members of the outermost object in order, duplicates kept: decoded key, start and end of the value.

    Raises ``Invalid`` if ``body`` is no JSON object.
    """
    text = body.decode("latin-1")  # one character per byte, so that positions in the text are positions in the body
    opening = _OPEN.match(body)
    if opening is None:
        raise _no_object()
    if _EMPTY.match(body):
        return []
    found: list[tuple[str, int, int]] = []
    at, sign = opening.end(), ","
    try:
        while sign == ",":
            key = _KEY.match(text, at)
            if key is None:
                raise _no_object()
            start = key.end()
            _, end = _skip(text, start)
            found.append((_text.decode(body[key.start(1) : key.end(1)]), start, end))
            following = _NEXT.match(text, end)
            if following is None:
                raise _no_object()
            at, sign = following.end(), following[1]
    except (ValueError, RecursionError):
        raise _no_object() from None
    if text[at:].strip(" \t\n\r"):
        raise _no_object()
    return found


def members(body: bytes) -> tuple[dict[str, msgspec.Raw], tuple[int, int]]:
    """The values of the outermost object by decoded key, each as its JSON text, and where the value of "model" lies.

    The place is (0, 0) if there is no such member. Raises ``Invalid`` if ``body`` is no JSON object, and with the
    code ``duplicate_key`` if it has a key twice or one that is a policy field but for letter case or escapes: a
    provider whose parser takes the first of two, or does not mind case, would obey another request than the one that
    limits and budgets judged.
    """
    try:
        values = _outline.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise cut_emoji(body) or _no_object() from None
    if len(values) > MEMBERS:
        raise Invalid(f"the body has more than {MEMBERS} fields at its top level", code="too_many_fields")
    if not POLICY.issuperset(values):
        for key in values:
            if key not in POLICY and (meant := _FOLDED.get(key.casefold())) is not None:
                raise _differs(key, meant)
    # An object without any space between its members, keys twice, or escapes in keys is as long as its parts; every
    # other one is longer. So equal lengths prove that it is plain, and the place follows by adding up.
    extra = len(body) - len("".join(values)) - 4 * len(values) - 1
    for value in values.values():
        extra -= len(value)
    if extra == 0:
        return values, _place(values, 0)
    if extra == 2 * len(values) - 1 and len(body) < 4096 and _spaced(values) == body:
        return values, _place(values, 1)
    return values, _walk(body, values)


def model_span(body: bytes, model: str) -> tuple[int, int]:
    """Where the value of the top-level member "model" lies, quotes included.

    ``model`` is what the caller of this took for its value. Raises ``Invalid`` as ``members`` does, and if there is
    no such member or its value is another one.
    """
    values, span = members(body)
    if span == (0, 0):
        raise Invalid("the field model is missing: say which model or route shall answer", field="model")
    try:
        same = _text.decode(values["model"]) == model
    except msgspec.DecodeError:
        same = False
    if not same:
        raise Invalid("the field model is not a string, or is given twice", field="model", code="duplicate_key")
    return span


def splice(body: bytes, span: tuple[int, int], replacement: bytes) -> bytes:
    """``body`` with the bytes of ``span`` replaced."""
    return b"".join((body[: span[0]], replacement, body[span[1] :]))


def insert_member(body: bytes, key: str, json_value: bytes) -> bytes:
    """``body``, a JSON object, with one more member at its end; no other byte changes, and no place moves.

    The object must not have the key yet. Raises ``Invalid`` if ``body`` is no object.
    """
    end = body.rfind(b"}")
    if end < 0 or _OPEN.match(body) is None:
        raise _no_object()
    comma = b"" if _EMPTY.match(body) else b","
    return b"".join((body[:end], comma, msgspec.json.encode(key), b":", json_value, body[end:]))


def _place(values: dict[str, msgspec.Raw], spaces: int) -> tuple[int, int]:
    """The place of "model" where each comma and colon between members is followed by that many spaces."""
    if "model" not in values:
        return 0, 0
    at = 1
    for key, value in values.items():
        at += len(key) + 3 + spaces
        if key == "model":
            return at, at + len(value)
        at += len(value) + 1 + spaces
    return 0, 0


def _spaced(values: dict[str, msgspec.Raw]) -> bytes:
    """The object as Python's ``json.dumps`` writes it by default."""
    return b"{%b}" % b", ".join([b'"%b": %b' % (key.encode(), value) for key, value in values.items()])


def _walk(body: bytes, values: dict[str, msgspec.Raw]) -> tuple[int, int]:
    """The place of "model" in a body with any spaces. Each member must be found where the one before it ended, with
    the very value that was decoded; if not, there is a key twice or one with escapes, and ``_ambiguous`` says which."""
    at, span = 0, (0, 0)
    for name, value in values.items():
        key = _PLAIN_KEY.match(body, at)
        if key is None or key[1] != name.encode():
            return _ambiguous(body)
        start = key.end()
        at = start + len(value)
        if not body.startswith(bytes(value), start):
            return _ambiguous(body)
        if name == "model":
            span = (start, at)
    if values and _CLOSE.match(body, at) is None:
        return _ambiguous(body)
    return span


def _ambiguous(body: bytes) -> tuple[int, int]:
    """Refuses the key that makes ``body`` ambiguous; if there is none, gives the place of "model"."""
    seen: set[str] = set()
    span, before = (0, 0), 0
    for key, start, end in top_level(body):
        if key in seen:
            raise Invalid(f"the field {key} is given twice; send it once", field=key, code="duplicate_key")
        seen.add(key)
        if key in POLICY and b"\\" in body[before:start]:
            raise Invalid(f"the name of the field {key} has escapes; write it out", field=key, code="duplicate_key")
        if key == "model":
            span = (start, end)
        before = end
    return span


def _differs(key: str, meant: str) -> Invalid:
    return Invalid(
        f"the field {key!r} differs from {meant} only in case; write {meant}", field=key, code="duplicate_key"
    )


def _no_object() -> Invalid:
    return Invalid("the body is not a JSON object; check its syntax, and the content-type", code="invalid_json")
