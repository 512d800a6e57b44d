"""Verdict types in a bundle: what is refused, and what they make of those there always are."""

from __future__ import annotations

import json

import pytest

from mainstay.core.artifact import Artifact, digest
from mainstay.core.verdict import BUILT_IN
from mainstay.registry.bundle import check
from mainstay.registry.crosscheck import Existing
from mainstay.registry.verdict_types import KIND, in_force


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "thumbs", "type": "number"}, '"thumbs" is always of type boolean'),
        ({"name": "edit", "type": "number", "min": 0, "max": 10}, '"edit" always goes from 0 to 1'),
        ({"name": "x", "type": "number", "min": 2, "max": 1}, "max is less than min (2)"),
        ({"name": "x", "type": "boolean", "low_below": 1}, "low_below goes with type: number, not with type: boolean"),
        ({"name": "x", "type": "number", "categories": ["a"]}, "categories goes with type: category"),
        ({"name": "x", "type": "category", "categories": ["a"], "low_of": ["b"]}, '"b" is none of the categories (a)'),
        ({"name": "x", "type": "stars"}, "one of boolean, category, number"),
        ({"name": "x"}, '"type" is missing'),
    ],
)
def test_what_is_no_type_is_refused(body: dict[str, object], said: str) -> None:
    checked = check(json.dumps({"verdicts": [body]}), "b.yaml", {}, Existing())
    assert checked.bundle is None
    assert said in "\n".join(checked.problems)


def test_a_type_narrows_what_is_always_there() -> None:
    rating = {"name": "rating", "type": "number", "low_below": 4}
    tone = {"name": "tone", "type": "category", "categories": ["kind", "rude"], "low_of": ["rude"]}
    assert check(json.dumps({"verdicts": [rating, tone]}), "b.yaml", {}, Existing()).problems == []
    types = in_force(
        Artifact(KIND, str(body["name"]), digest(body), body, (), "me", "", 0.0) for body in (rating, tone)
    )
    assert set(types) == {*BUILT_IN, "tone"}
    changed = types["rating"]
    assert (changed.low, changed.high, changed.unit, changed.low_below) == (1, 5, "stars", 4)
    assert types["tone"].low_of == ("rude",)
