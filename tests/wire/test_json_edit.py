"""Edits of JSON in its bytes: the right place, nothing else touched, nothing ambiguous let through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.wire.json_edit import MEMBERS, insert_member, members, model_span, splice, top_level

KEYS = st.text(max_size=8) | st.sampled_from(["model", "messages", "stream", "n", "x"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["model", '"model":"b"', "}", '"}']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS.filter(lambda key: key.lower() == key), VALUES, max_size=5)
STYLES = st.sampled_from(
    [
        {"separators": (",", ":")},
        {},
        {"indent": 2},
        {"separators": (" ,\n", "\t: ")},
        {"separators": (",", ":"), "ensure_ascii": False},
    ]
)
SPACES = st.text(" \t\r\n", max_size=3)


def written(value: Any, style: dict[str, Any], around: str = "") -> bytes:
    return (around + json.dumps(value, **style) + around).encode()


@given(OBJECTS, STYLES, SPACES)
def test_every_member_is_found_at_its_place(value: dict[str, Any], style: dict[str, Any], around: str) -> None:
    body = written(value, style, around)
    found = top_level(body)
    assert [key for key, _, _ in found] == list(value)
    for key, start, end in found:
        assert json.loads(body[start:end]) == value[key]
        assert body[start:end].strip() == body[start:end]


@given(OBJECTS, st.text(max_size=10), STYLES, SPACES, st.integers(0, 5))
def test_the_model_is_replaced_and_nothing_else(
    value: dict[str, Any], model: str, style: dict[str, Any], around: str, at: int
) -> None:
    items = [(key, inner) for key, inner in value.items() if key != "model"]
    items.insert(at, ("model", model))
    body = written(dict(items), style, around)
    span = model_span(body, model)
    assert json.loads(body[slice(*span)]) == model
    new = splice(body, span, b'"other"')
    assert json.loads(new) == {**dict(items), "model": "other"}
    assert len(new) - len(body) == len(b'"other"') - (span[1] - span[0])
    assert members(body)[1] == span


@given(OBJECTS, VALUES, STYLES, SPACES)
def test_a_member_is_added_and_nothing_else(
    value: dict[str, Any], new: Any, style: dict[str, Any], around: str
) -> None:
    value.pop("new key", None)
    body = written(value, style, around)
    result = insert_member(body, "new key", json.dumps(new).encode())
    assert json.loads(result) == {**value, "new key": new}
    assert result.startswith(body.rstrip()[:-1])


PAIRS = st.lists(st.tuples(st.sampled_from(["model", "x", "messages"]), VALUES), min_size=1, max_size=5)


@given(PAIRS, STYLES)
def test_a_key_given_twice_is_always_refused(pairs: list[tuple[str, Any]], style: dict[str, Any]) -> None:
    comma, colon = style.get("separators", (", ", ": "))
    inner = comma.join(json.dumps(key) + colon + json.dumps(value, **style) for key, value in pairs)
    body = ("{" + inner + "}").encode()
    keys = [key for key, _ in pairs]
    assert [key for key, _, _ in top_level(body)] == keys
    if len(set(keys)) == len(keys):
        members(body)
    else:
        with pytest.raises(Invalid) as refused:
            members(body)
        assert refused.value.code == "duplicate_key"
        assert keys.count(str(refused.value.field)) > 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"a"}',
        b'{"model":"a","Model":"b"}',
        b'{"model":"a","MODEL":"b"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"mod\\u0065l":"a"}',
        b'{"\\u006dodel" : "a"}',
        b'{"model":"a","Stream":true}',
        b'{"model":"a","max_Tokens":1}',
        b'{"model":"a","str\\u0065am":true}',
        b'{"model":"a","generationconfig":{}}',
        '{"model":"a","meſſages":[]}'.encode(),  # Go's parser folds the long s, and the Kelvin sign too
        '{"model":"a","max_to\u212aens":1}'.encode(),
        b'{"model":"a","max_to\\u212aens":1}',
        b'{"model":"a", "x":1, "x":12}',
        b'{"model":"a", "x":12, "x":1}',
        b'{"model":"a", "x":"", "x":""}',
        b'{"x":"long enough to jump","model":"a","x":""}',
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        model_span(body, "a")
    assert refused.value.code == "duplicate_key"
    assert refused.value.field


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"x":{"model":"b"},"model":"a"}', b'"a"'),
        (b'{"x":"\\"model\\":\\"b\\"","model":"a"}', b'"a"'),
        (b'{"x":{"Model":1,"stream":1,"stream":2},"model":"a"}', b'"a"'),
        (b'{"caf\\u00e9":1,"model":"a"}', b'"a"'),
        ('{"café":1,"model":"a"}'.encode(), b'"a"'),
        (b'{"x":["model"],"model":"\\u0061"}', b'"\\u0061"'),
        (b'{"x":1e5,"y":' + b"9" * 5000 + b',"model" : "a" }', b'"a"'),
    ],
)
def test_what_only_looks_ambiguous_passes(body: bytes, value: bytes) -> None:
    start, end = model_span(body, "a")
    assert body[start:end] == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"model"',
        b"null",
        b'{"model":"a"',
        b'{"model":"a"}x',
        b'{"model":"a",}',
        b"{model:1}",
        b"\xff",
        b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xef\xbb\xbf{}",
        '{"model":"a"}'.encode("utf-16"),
    ],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    for read in (members, top_level):
        with pytest.raises(Invalid) as refused:
            read(body)
        assert refused.value.code == "invalid_json"


def test_an_object_of_too_many_members_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        members(json.dumps({str(i): i for i in range(MEMBERS + 1)}).encode())
    assert refused.value.code == "too_many_fields"


def test_a_missing_model_is_named() -> None:
    with pytest.raises(Invalid) as refused:
        model_span(b'{"messages":[]}', "a")
    assert refused.value.field == "model"
