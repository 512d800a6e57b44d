"""The JSON Schema of a bundle for editors, and the configuration reference; both made from ``kinds``."""

from __future__ import annotations

import inspect
from typing import Any, cast

import msgspec
from msgspec import inspect as types

from mainstay.registry import kinds

_TREE: dict[str, Any] = {
    "description": "A model or route by its name, or one way to choose among several",
    "anyOf": [
        {"type": "string", "minLength": 1},
        *(
            {
                "type": "object",
                "required": [way],
                "additionalProperties": False,
                "properties": {
                    way: {
                        "type": "array",
                        "minItems": 1,
                        "items": {"$ref": "#/$defs/Node"},
                        "description": description,
                    }
                },
            }
            for way, description in (
                ("fallback", "The first that answers"),
                ("cheapest", "The lowest price for a call of this size first; unknown prices last"),
                ("fastest", "Of two drawn at random, the one with the shorter time to the first token first"),
                ("least_busy", "The one with the fewest calls in flight, relative to its limit, first"),
            )
        ),
        {
            "type": "object",
            "required": ["weighted"],
            "additionalProperties": False,
            "properties": {
                "weighted": {
                    "description": "One by its share of traffic; the others after it, by weight",
                    "anyOf": [
                        {
                            "type": "object",
                            "minProperties": 1,
                            "additionalProperties": {"type": "number", "minimum": 0},
                        },
                        {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["to", "weight"],
                                "additionalProperties": False,
                                "properties": {
                                    "to": {"$ref": "#/$defs/Node"},
                                    "weight": {"type": "number", "minimum": 0},
                                },
                            },
                        },
                    ],
                },
                "sticky": {
                    "enum": ["session", "user"],
                    "description": "Keep each session or user on the same choice",
                },
            },
        },
        {
            "type": "object",
            "required": ["when"],
            "additionalProperties": False,
            "properties": {
                "when": {
                    "type": "array",
                    "minItems": 1,
                    "description": "The first case whose conditions all hold",
                    "items": {
                        "type": "object",
                        "required": ["if", "to"],
                        "additionalProperties": False,
                        "properties": {"if": {"$ref": "#/$defs/Condition"}, "to": {"$ref": "#/$defs/Node"}},
                    },
                },
                "else": {"$ref": "#/$defs/Node"},
            },
        },
    ],
}

_WORDS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}

_CONDITION: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "description": "All that is given must hold",
    "properties": {
        "tags": {
            "type": "object",
            "additionalProperties": _WORDS,
            "description": "Tags of the call, each with the value or values that match",
        },
        "team": {**_WORDS, "description": "The team or teams that match"},
        "key": {**_WORDS, "description": "The name or names of keys that match"},
        "data_class": {**_WORDS, "description": "The value or values of the tag data_class that match"},
        "min_tokens": {"type": "number", "minimum": 0, "description": "At least so many estimated input tokens"},
        "max_tokens": {"type": "number", "minimum": 0, "description": "At most so many estimated input tokens"},
        "tools": {"type": "boolean", "description": "Whether the call has tools"},
        "images": {"type": "boolean", "description": "Whether the call has images"},
        "budget_left_below": {
            "type": "number",
            "minimum": 0,
            "description": "Less than this share (0 to 1) of the tightest budget is left",
        },
    },
}

_SECTIONS: tuple[tuple[str, tuple[type[kinds.Body], ...]], ...] = (
    ("providers", (kinds.Provider, kinds.Concurrency, kinds.Simulator, kinds.Fault)),
    ("models", (kinds.Model, kinds.PriceBody, kinds.Breaker)),
    ("routes", (kinds.Route, kinds.Retry, kinds.Timeouts, kinds.CacheRule, kinds.Hedge)),
    ("teams", (kinds.Team, kinds.Budget, kinds.Limits)),
    ("keys", (kinds.Key,)),
    ("budgets", (kinds.NamedBudget,)),
    ("verdicts", (kinds.VerdictType,)),
)

_INTRODUCTION = """\
# Configuration reference

*Made from the schema in `mainstay/registry/kinds.py` by `mainstay/registry/schema.py`; edit those, not this file.*

A `mainstay.yaml` is a bundle: everything in it is put in by `mainstay apply FILE` or `mainstay serve --config FILE`,
all or nothing. Every section is optional. Unknown keys are refused. What an earlier version of the same file put in and
this one no longer has is removed.

`${NAME}` in any value stands for an environment variable, `${NAME:-default}` for one that may be unset or empty, and
`$${` for the characters `${` themselves; within `{ }` YAML wants quotes around it. It may stand for a number. Plain
values follow YAML 1.2: `off`, `yes` and dates are text. Anchors, aliases and `<<` work; sections whose name begins with
`x-` are a place for anchors and mean nothing else.

Names of models and routes are one namespace: callers put either in `model`, and so do trees.
"""

_TREE_TEXT = """\
### The tree of a route

`to` is the name of a model or route, or one of:

| form | which target first |
|---|---|
| `{fallback: [a, b]}` | the first that answers |
| `{weighted: {a: 9, b: 1}}` | one by its share of traffic |
| `{weighted: {a: 9, b: 1}, sticky: session}` | the same, but one session (or `user`) stays with one choice |
| `{weighted: [{to: {fallback: [a, b]}, weight: 9}, {to: c, weight: 1}]}` | the same, among trees |
| `{cheapest: [a, b]}` | the lowest price for a call of this size; unknown prices last |
| `{fastest: [a, b]}` | of two drawn at random, the one with the shorter time to the first token |
| `{least_busy: [a, b]}` | the one with the fewest calls in flight, relative to its limit |
| `{when: [{if: {tools: true}, to: a}], else: b}` | that of the first case whose conditions all hold |

Those that are not first follow as fallbacks. Trees nest. The conditions of `if`:

| condition | type | meaning |
|---|---|---|
"""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a bundle (draft 2020-12)."""
    schema = msgspec.json.schema(kinds.Bundle)
    definitions = schema["$defs"]
    definitions["Node"], definitions["Condition"] = _TREE, _CONDITION
    definitions["Route"]["properties"]["to"] = {"$ref": "#/$defs/Node"}
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = _one_line(definition["description"])
    for section, (body, *_) in _SECTIONS:
        # a section may stand there empty; and any value may be an environment variable until it is expanded
        there = definitions["Bundle"]["properties"][section]
        definitions["Bundle"]["properties"][section] = {
            "description": there.get("description", ""),
            "anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/{body.__name__}"}}, {"type": "null"}],
        }
    definitions["Bundle"]["patternProperties"] = {"^x-": {}}
    definitions["Variable"] = {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}$"}
    for name, definition in definitions.items():
        if name not in ("Bundle", "Node", "Condition", "Variable"):
            definition["properties"] = {key: _or_variable(value) for key, value in definition["properties"].items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mainstay.yaml", **schema}


def reference() -> str:
    """The configuration reference, in Markdown."""
    parts = [_INTRODUCTION]
    for section, bodies in _SECTIONS:
        parts.append(f"## {section}\n")
        for body in bodies:
            if body is not bodies[0]:
                parts.append(f"### {body.__name__}\n")
            parts.append(_one_line(inspect.getdoc(body) or "") + "\n")
            parts.append(_table(body))
            if body is kinds.Route:
                rows = [
                    f"| `{name}` | {_schema_words(rule)} | {rule['description']} |"
                    for name, rule in _CONDITION["properties"].items()
                ]
                parts.append(_TREE_TEXT + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _table(body: type[kinds.Body]) -> str:
    kind = types.type_info(body)
    assert isinstance(kind, types.StructType)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in kind.fields:
        default = "**required**" if field.required else _default(field)
        rows.append(f"| `{field.name}` | {_words(field.type)} | {default} | {_meaning(field.type)} |")
    return "\n".join(rows) + "\n"


def _default(field: types.Field) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        made: Any = field.default_factory()  # type: ignore[operator]
        return "none" if made in ([], {}) else "as below"
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default}`"


def _meaning(kind: types.Type) -> str:
    if isinstance(kind, types.Metadata):
        extra = cast(dict[str, str], kind.extra_json_schema or {})
        return extra.get("description", "") or _meaning(kind.type)
    if isinstance(kind, types.UnionType):
        return next((meaning for meaning in (_meaning(option) for option in kind.types) if meaning), "")
    return ""


def _words(kind: types.Type) -> str:
    if isinstance(kind, types.Metadata):
        return _words(kind.type)
    if isinstance(kind, types.UnionType):
        options = [option for option in kind.types if not isinstance(option, types.NoneType)]
        if {type(option) for option in options} == {types.StrType, types.IntType, types.FloatType}:
            return "duration"
        return " or ".join(map(_words, options))
    if isinstance(kind, types.StructType):
        return kind.cls.__name__
    if isinstance(kind, types.ListType):
        return f"list of {_words(kind.item_type)}"
    if isinstance(kind, types.DictType):
        return "text by name"
    if isinstance(kind, types.LiteralType):
        return ", ".join(f"`{value}`" for value in sorted(map(str, kind.values)))
    if isinstance(kind, types.IntType | types.FloatType):
        return _number(kind)
    if isinstance(kind, types.StrType):
        return "text" if kind.pattern is None else "provider/model" if "/.+" in kind.pattern else "name"
    return "true, false" if isinstance(kind, types.BoolType) else "tree"


def _number(kind: types.IntType | types.FloatType) -> str:
    noun = "whole number" if isinstance(kind, types.IntType) else "number"
    low = f" from {kind.ge:g}" if kind.ge is not None else f" above {kind.gt:g}" if kind.gt is not None else ""
    return f"{noun}{low}" + (f" to {kind.le:g}" if kind.le is not None else "")


def _schema_words(rule: dict[str, Any]) -> str:
    kind = rule.get("type")
    if kind == "object":
        return "value or list of values by tag"
    return {"number": "number", "boolean": "true, false"}.get(str(kind), "text or list of text")


def _or_variable(rule: dict[str, Any]) -> dict[str, Any]:
    """``rule``, or an environment variable where it does not take text anyway."""
    variable = {"$ref": "#/$defs/Variable"}
    options = rule.get("anyOf")
    if options is not None:
        texts = [option for option in options if option.get("type") == "string" and "pattern" not in option]
        return rule if texts else {**rule, "anyOf": [*options, variable]}
    if rule.get("type") in ("integer", "number", "boolean") or "enum" in rule:
        kept = {key: rule[key] for key in ("description", "default") if key in rule}
        return {"anyOf": [{key: value for key, value in rule.items() if key not in kept}, variable], **kept}
    return rule


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
