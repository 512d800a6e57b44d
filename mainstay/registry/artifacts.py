"""Puts artifacts: each body is checked against its kind's type, then kept under its digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.artifact import Artifact, digest
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, NotFound
from mainstay.registry import kinds
from mainstay.registry.pricebook import PriceBook
from mainstay.store import behaviour

KINDS: Mapping[str, type[kinds.Body]] = {
    "provider": kinds.Provider,
    "model": kinds.Model,
    "route": kinds.Route,
    "budget": kinds.NamedBudget,
    "verdict_type": kinds.VerdictType,
    "price_book": PriceBook,
}
"""The kinds of artifact that this room knows, with the types of their bodies."""


class Artifacts:
    """The typed face of the store's artifacts. ``bodies`` has the type of each kind; ``app`` collects it."""

    def __init__(self, store: behaviour.Artifacts, bodies: Mapping[str, type[kinds.Body]], clock: Clock) -> None:
        self._store = store
        self._bodies = bodies
        self._clock = clock

    async def put(
        self,
        connection: AsyncConnection,
        kind: str,
        name: str,
        body: kinds.Body | Mapping[str, Any],
        *,
        by: str,
        why: str,
        parents: tuple[str, ...] = (),
    ) -> Artifact:
        """Keep ``body`` as a version of ``kind/name``; one that is there already is given back as it is.

        Raises ``Invalid`` for an unknown kind or a body that is not of its type.
        """
        shape = self._bodies.get(kind)
        if shape is None:
            raise Invalid(f"there is no kind of artifact {kind!r}; there are {', '.join(self._bodies)}", field="kind")
        try:
            typed = msgspec.convert(msgspec.to_builtins(body), shape)
        except msgspec.ValidationError as error:
            raise Invalid(f"{kind} {name}: {error}", field="body") from None
        named = getattr(typed, "name", name)
        if named != name:
            raise Invalid(f"the body says that its name is {named!r}, not {name!r}", field="name")
        content = plain(typed)
        artifact = Artifact(kind, name, digest(content), content, parents, by, why, float(self._clock.now()))
        if not await self._store.put(connection, artifact):
            there = await self._store.get(connection, kind, name, artifact.digest)
            assert there is not None
            return there
        return artifact

    async def get(self, connection: AsyncConnection, kind: str, name: str, digest: str) -> Artifact:
        """That version. Raises ``NotFound``."""
        found = await self._store.get(connection, kind, name, digest)
        if found is None:
            raise NotFound(f"there is no {kind} {name} with digest {digest}")
        return found

    async def versions(self, connection: AsyncConnection, kind: str, name: str, limit: int = 50) -> list[Artifact]:
        """The last ``limit`` versions, newest first."""
        return await self._store.versions(connection, kind, name, limit)


def plain(body: kinds.Body) -> dict[str, Any]:
    """``body`` as JSON values; what stands at its default is left out, so that a new field changes no digest."""
    return {name: value for name, value in msgspec.to_builtins(body).items() if value != {}}
