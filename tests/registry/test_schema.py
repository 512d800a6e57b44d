"""The JSON Schema and the reference: as the kinds are, and the committed reference up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstay.core.route import parse
from mainstay.registry import kinds
from mainstay.registry.schema import json_schema, reference

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference" / "configuration.md"


def test_the_committed_reference_is_up_to_date() -> None:
    assert REFERENCE.read_text() == reference(), (
        "run: python -c 'from mainstay.registry.schema import reference; print(reference(), end=\"\")' "
        "> docs/reference/configuration.md"
    )


def bodies() -> list[type[kinds.Body]]:
    return [one for one in vars(kinds).values() if isinstance(one, type) and issubclass(one, kinds.Body)]


def test_every_field_of_every_body_is_in_the_schema_and_explained_in_the_reference() -> None:
    definitions = json_schema()["$defs"]
    text = reference()
    for body in bodies():
        if body is kinds.Body:
            continue
        fields = {field.name for field in msgspec.structs.fields(body)}
        assert set(definitions[body.__name__]["properties"]) == fields
        assert definitions[body.__name__]["additionalProperties"] is False
        for name in fields if body is not kinds.Bundle else ():
            [row, *_] = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
            assert not row.endswith("|  |"), f"{body.__name__}.{name} has no meaning"


def test_every_reference_within_the_schema_resolves() -> None:
    schema = json_schema()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(schema)


@pytest.mark.parametrize("form", [line.split("`")[1] for line in reference().splitlines() if line.startswith("| `{")])
def test_every_form_of_tree_in_the_reference_can_be_read(form: str) -> None:
    from mainstay.registry.document import read

    parse(read(form, {}).value)
