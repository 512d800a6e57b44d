"""The verdict types in force: those there always are, with those that bundles add or narrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from mainstay.core.artifact import Artifact
from mainstay.core.verdict import BUILT_IN, VerdictType
from mainstay.registry import kinds

KIND = "verdict_type"

_FIXED = {"edit": (0.0, 1.0)}
"""Ranges that a bundle cannot change, since Mainstay makes the values itself."""


def in_force(artifacts: Iterable[Artifact]) -> Mapping[str, VerdictType]:
    """Every type by its name."""
    types = dict(BUILT_IN)
    for artifact in artifacts:
        if artifact.kind == KIND:
            body = msgspec.convert(artifact.body, kinds.VerdictType)
            types[body.name] = _typed(body)
    return types


def problems(body: kinds.VerdictType) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with ``body``: the field it is about, and a sentence."""
    found: list[tuple[tuple[str, ...], str]] = []
    there = BUILT_IN.get(body.name)
    if there is not None and there.sort != body.type:
        said = f'"{body.name}" is always of type {there.sort}; give a verdict of another type a name of its own'
        found.append((("type",), said))
    if body.name in _FIXED and (body.min, body.max) not in ((None, None), _FIXED[body.name]):
        found.append((("min",), f'"{body.name}" always goes from 0 to 1; leave min and max out'))
    if body.min is not None and body.max is not None and body.min > body.max:
        found.append((("max",), f"max is less than min ({body.min:g})"))
    of_type = {
        "number": ("min", "max", "low_below", "low_above"),
        "boolean": ("low_when",),
        "category": ("categories", "low_of"),
    }
    for sort, names in of_type.items():
        for name in names:
            if sort != body.type and getattr(body, name) not in (None, []):
                found.append(((name,), f"{name} goes with type: {sort}, not with type: {body.type}"))
    for word in body.low_of:
        if body.categories and word not in body.categories:
            found.append((("low_of",), f'"{word}" is none of the categories ({", ".join(body.categories)})'))
    return found


def _typed(body: kinds.VerdictType) -> VerdictType:
    there = BUILT_IN.get(body.name)
    low, high = _FIXED.get(body.name, (body.min, body.max))
    if there is not None and low is None and high is None:
        low, high = there.low, there.high
    return VerdictType(
        name=body.name,
        sort=body.type,
        low=low,
        high=high,
        unit=body.unit or ("" if there is None else there.unit),
        categories=tuple(body.categories),
        low_below=body.low_below,
        low_above=body.low_above,
        low_when=body.low_when,
        low_of=tuple(body.low_of),
    )
