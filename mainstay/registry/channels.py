"""Moves channels. ``move`` is the only function that makes a pointer point elsewhere, and it records who and why."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.core.artifact import Artifact, Change, Channel
from mainstay.core.errors import Invalid, NotFound
from mainstay.registry.snapshot import LABEL
from mainstay.store import behaviour

MAX_SPLIT = 16


class Channels:
    """Where names point, and how that changes."""

    def __init__(
        self, channels: behaviour.Channels, artifacts: behaviour.Artifacts, changes: behaviour.Changes
    ) -> None:
        self._channels = channels
        self._artifacts = artifacts
        self._changes = changes

    async def move(
        self,
        connection: AsyncConnection,
        kind: str,
        name: str,
        split: tuple[tuple[str, int], ...] | str | None,
        *,
        by: str,
        why: str,
        label: str = LABEL,
        shadow: str | None = None,
    ) -> Change | None:
        """Make ``kind/name@label`` point at ``split``: one digest, digests with weights, or None to take it away.

        Gives back the change that was recorded, or None if it pointed there already. Raises ``NotFound`` for a digest that
        was never put under that name, ``Invalid`` for weights that are none.
        """
        parts = ((split, 1),) if isinstance(split, str) else split
        old = await self._channels.get(connection, kind, name, label)
        new = None if parts is None else Channel(kind, name, label, parts, shadow)
        if old == new:
            return None
        if new is None:
            await self._channels.remove(connection, kind, name, label)
        else:
            await self._check(connection, new)
            await self._channels.put(connection, new)
        what = f"channel:{kind}/{name}@{label}"
        return await self._changes.append(
            connection, by=by, why=why, what=what, before=_spoken(old), after=_spoken(new)
        )

    async def in_force(self, connection: AsyncConnection, label: str = LABEL) -> list[Artifact]:
        """What every channel of that label points at; of a split, the version with the greatest weight."""
        found: list[Artifact] = []
        for channel, versions in await self._artifacts.pointed_at(connection, label):
            heaviest = max(range(len(versions)), key=lambda i: channel.split[i][1])
            found.append(versions[heaviest])
        return found

    async def _check(self, connection: AsyncConnection, channel: Channel) -> None:
        digests = [digest for digest, _ in channel.split]
        weights = [weight for _, weight in channel.split]
        if not 1 <= len(digests) <= MAX_SPLIT or len(set(digests)) != len(digests):
            raise Invalid(f"a channel points at 1 to {MAX_SPLIT} different versions", field="split")
        if any(weight < 0 for weight in weights) or not any(weights):
            raise Invalid("weights are whole numbers from 0, at least one of them above", field="split")
        for digest in [*digests, *([channel.shadow] if channel.shadow else [])]:
            if await self._artifacts.get(connection, channel.kind, channel.name, digest) is None:
                raise NotFound(f"there is no {channel.kind} {channel.name} with digest {digest}; put it first")


def _spoken(channel: Channel | None) -> dict[str, Any] | None:
    if channel is None:
        return None
    spoken: dict[str, Any] = {"split": [list(part) for part in channel.split]}
    if channel.shadow is not None:
        spoken["shadow"] = channel.shadow
    return spoken
