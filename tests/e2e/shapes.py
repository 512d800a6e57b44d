"""Strict checks of request bodies: against the SDKs' own TypedDicts, and against shapes written down by hand."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

ANY = object()
"""Anything at all."""


class OneOf:
    """An object with exactly one of ``keys``, and perhaps some of ``beside``."""

    def __init__(self, keys: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> None:
        self.keys, self.beside = keys, beside or {}


def wrong(value: Any, shape: Any, at: str = "") -> list[str]:
    """What is wrong with ``value``: a shape is a type, ``ANY``, a set of literals, a list of one shape, an ``OneOf``, or a
    dictionary of all fields that there are, those with ``!`` being required."""
    if shape is ANY:
        return []
    if isinstance(shape, frozenset):
        return [] if value in shape else [f"{at} is {value!r}, not one of {sorted(shape)}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{at} is no list"]
        return [problem for i, one in enumerate(value) for problem in wrong(one, shape[0], f"{at}[{i}]")]
    if isinstance(shape, OneOf):
        if not isinstance(value, dict):
            return [f"{at} is no object"]
        chosen = [key for key in value if key in shape.keys]
        if len(chosen) != 1:
            return [f"{at} has {chosen or 'none'} of {sorted(shape.keys)}, of which there must be one"]
        return wrong(value, {**shape.keys, **shape.beside}, at)
    if isinstance(shape, dict):
        return _wrong_object(value, shape, at)
    if shape is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif shape is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = isinstance(value, shape)
    return [] if good else [f"{at} is {value!r:.60}, no {shape.__name__}"]


def _wrong_object(value: Any, shape: dict[str, Any], at: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{at} is {value!r:.60}, no object"]
    known = {name.rstrip("!"): inner for name, inner in shape.items()}
    problems = [f"{at}.{name} is missing" for name in shape if name.endswith("!") and name[:-1] not in value]
    for name, inner in value.items():
        if name not in known:
            problems.append(f"{at}.{name} does not exist")
        else:
            problems += wrong(inner, known[name], f"{at}.{name}")
    return problems


def unlike(value: Any, hint: Any, at: str = "") -> list[str]:
    """What keeps ``value``, decoded JSON, from being of the type ``hint``, as an SDK's TypedDicts declare it.

    Stricter than a type checker: a field that the TypedDict does not have is a problem, at any depth.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Required, NotRequired, typing.Annotated):
        return unlike(value, arguments[0], at)
    if hint is Any or hint is object:
        return []
    if isinstance(hint, typing.TypeVar):
        return []
    if origin is Union or origin is types.UnionType:
        best: list[str] | None = None
        for option in arguments:
            problems = unlike(value, option, at)
            if not problems:
                return []
            if best is None or _rank(problems, at) < _rank(best, at):
                best = problems
        return best or []
    if origin is Literal:
        return [] if value in arguments else [f"{at} is {value!r:.60}, not one of {arguments}"]
    if hint is None or hint is type(None):
        return [] if value is None else [f"{at} is not null"]
    if is_typeddict(hint):
        return _unlike_typed(value, hint, at)
    if origin in (list, Iterable, Sequence) or (
        origin is not None and origin.__name__ in ("Iterable", "SequenceNotStr")
    ):
        if not isinstance(value, list):
            return [f"{at} is no list"]
        return [problem for i, one in enumerate(value) for problem in unlike(one, arguments[0], f"{at}[{i}]")]
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            return [f"{at} is no object"]
        return [problem for name, one in value.items() for problem in unlike(one, arguments[1], f"{at}.{name}")]
    if hint is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif hint is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(hint, type):
        good = isinstance(value, hint)
    else:
        raise TypeError(f"{at}: the hint {hint!r} is of no known sort")
    return [] if good else [f"{at} is {value!r:.60}, no {hint.__name__}"]


def _rank(problems: list[str], at: str) -> tuple[int, int]:
    """How far off: another ``type`` than the option's counts most."""
    other = any(problem.startswith((f"{at} is", f"{at}.type is", f"{at}.role is")) for problem in problems)
    return other, len(problems)


def _unlike_typed(value: Any, hint: Any, at: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{at} is {value!r:.60}, no object"]
    hints = get_type_hints(hint, include_extras=True)
    problems: list[str] = []
    for name, inner in hints.items():
        required = _required(inner, hint, name)
        if required and name not in value:
            problems.append(f"{at}.{name} is missing")
    for name, inner in value.items():
        if name not in hints:
            problems.append(f"{at}.{name} does not exist in {hint.__name__}")
        else:
            problems += unlike(inner, hints[name], f"{at}.{name}")
    return problems


def _required(inner: Any, hint: Any, name: str) -> bool:
    while get_origin(inner) is typing.Annotated:
        inner = get_args(inner)[0]
    if get_origin(inner) is Required:
        return True
    return name in hint.__required_keys__ and get_origin(inner) is not NotRequired
