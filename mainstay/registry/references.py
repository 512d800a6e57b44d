"""What artifacts in force say about each other: whether every name that one uses is there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from mainstay.core.artifact import Artifact
from mainstay.core.errors import Invalid
from mainstay.core.route import names, parse


def broken(artifacts: Iterable[Artifact]) -> list[str]:
    """A sentence for each name that something in ``artifacts`` needs and that is not among them."""
    found = list(artifacts)
    there: dict[str, set[str]] = {"provider": set(), "model": set(), "route": set()}
    for artifact in found:
        there.setdefault(artifact.kind, set()).add(artifact.name)
    sentences: list[str] = []
    for artifact in sorted(found, key=lambda one: (one.kind, one.name)):
        body = cast(dict[str, Any], artifact.body)
        if artifact.kind == "model":
            provider = str(body["target"]).partition("/")[0]
            if provider not in there["provider"]:
                sentences.append(f'model "{artifact.name}" needs the provider "{provider}"')
        elif artifact.kind == "route":
            if artifact.name in there["model"]:
                sentences.append(f'"{artifact.name}" is both a model and a route')
            try:
                needed = dict.fromkeys(names(parse(body["to"])))
            except Invalid as error:
                sentences.append(f'route "{artifact.name}": {error.message}')
                continue
            for name in needed:
                if name not in there["model"] and name not in there["route"]:
                    sentences.append(f'route "{artifact.name}" needs the model or route "{name}"')
    return sentences
