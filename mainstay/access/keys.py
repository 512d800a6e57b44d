"""Teams and keys: made, rotated, expired, revoked, listed, as declared by a bundle or asked for by a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, cast

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstay.access.authenticate import LONGEST, hash_secret, new_secret
from mainstay.access.authority import exceeds
from mainstay.core.artifact import Put
from mainstay.core.clock import Clock
from mainstay.core.errors import Conflict, Forbidden, Invalid, NotFound
from mainstay.core.ids import Ids
from mainstay.store.keys import KeyRow, KeysPort, TeamRow

LONGEST_OVERLAP = 90 * 86_400.0
"""Seconds for which a rotated secret may stay valid beside the new one, at most."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_KEPT = 90 * 86_400.0
_DETAILS = 4


class DeclaredTeam(Protocol):
    """A team as declared: a msgspec struct such as ``registry.kinds.Team``."""

    @property
    def name(self) -> str: ...


class DeclaredKey(Protocol):
    """A key as declared: a msgspec struct such as ``registry.kinds.Key``."""

    @property
    def name(self) -> str: ...
    @property
    def team(self) -> str: ...
    @property
    def secret(self) -> str | None: ...
    @property
    def expires(self) -> str | None: ...


class Log(Protocol):
    """Where changes are recorded, in the transaction that makes them."""

    async def append(
        self, connection: AsyncConnection, *, by: str, why: str, what: str, before: Any, after: Any
    ) -> object: ...


class Opens(NamedTuple):
    """One secret of a key as a Snapshot needs it: until when it opens, in seconds since the epoch (None: for ever)."""

    id: str
    hash: str
    until: float | None


class Keys:
    """Teams and keys. Every method acts within the caller's transaction, and records its change there.

    Secrets are kept as hashes keyed with ``pepper``; a secret that is made here is told once and known nowhere after.
    """

    def __init__(self, store: KeysPort, log: Log, pepper: str, clock: Clock, ids: Ids) -> None:
        self._store = store
        self._log = log
        self._pepper = pepper
        self._clock = clock
        self._ids = ids

    # teams

    async def teams(self, connection: AsyncConnection) -> set[str]:
        """The names of all teams."""
        return {team.name for team in await self._store.teams(connection)}

    async def list_teams(self, connection: AsyncConnection) -> list[TeamRow]:
        """All teams by name."""
        return await self._store.teams(connection)

    async def put_team(self, connection: AsyncConnection, team: DeclaredTeam, *, by: str, why: str) -> Put:
        """Make the team be as declared."""
        name, body = _name(team.name), _body(team)
        there = await self._store.teams(connection, name)
        before = there[0].body if there else None
        if before == body:
            return Put("unchanged")
        await self._store.put_team(connection, TeamRow(name, body, self._clock.now()))
        await self._log.append(connection, by=by, why=why, what=f"team:{name}", before=before, after=body)
        return Put("added") if before is None else Put("changed", _differences(before, body))

    async def remove_team(self, connection: AsyncConnection, name: str, *, by: str, why: str) -> bool:
        """Remove the team; False, and nothing done, if it still has keys or there is none."""
        there = await self._store.teams(connection, name)
        if not there or await self._store.keys(connection, name):
            return False
        await self._store.remove_team(connection, name)
        await self._log.append(connection, by=by, why=why, what=f"team:{name}", before=there[0].body, after=None)
        return True

    # keys as declared

    async def put_key(self, connection: AsyncConnection, key: DeclaredKey, *, by: str, why: str) -> Put:
        """Make the key be as declared. One without a secret keeps the one it has; a new one gets one made.

        Another secret than before takes its place at once: to let both be valid for a while, ``rotate``.
        """
        before = await self._store.key(connection, _name(key.team), _name(key.name))
        if before is None:
            _, made = await self._add(connection, key, by, why)
            return Put("added", secret=None if key.secret else made)
        after = replace(before, body=_body(key), expires=_expiry(key.expires))
        details = _differences(_shown(before), _shown(after))
        if key.secret and hash_secret(key.secret, self._pepper) not in (before.hash, before.previous_hash):
            hashed, last4 = await self._hashed(connection, key.secret)
            after = replace(
                after, hash=hashed, last4=last4, previous_hash=None, previous_last4=None, previous_until=None
            )
            details = (*details, "secret changed")
        if after == before:
            return Put("unchanged")
        await self._change(connection, before, after, by, why)
        return Put("changed", details)

    async def may_put(self, connection: AsyncConnection, key: DeclaredKey, maker: KeyRow | None) -> None:
        """Raise ``Forbidden`` if ``put_key`` would grant more than ``maker`` has; what is so already grants nothing."""
        before = await self._store.key(connection, _name(key.team), _name(key.name))
        body, expires = _body(key), _expiry(key.expires)
        if before is not None and (before.body, before.expires) == (body, expires):
            known = (before.hash, before.previous_hash)
            if not key.secret or hash_secret(key.secret, self._pepper) in known:
                return
        _allow(key.team, body, expires, maker)

    async def remove_key(self, connection: AsyncConnection, team: str, name: str, *, by: str, why: str) -> bool:
        """Revoke the key, so that its name is free again; False if there is none."""
        before = await self._store.key(connection, team, name)
        if before is None:
            return False
        after = replace(before, revoked=self._clock.now(), previous_hash=None, previous_last4=None, previous_until=None)
        await self._change(connection, before, after, by, why)
        await self._store.forget_keys(connection, self._clock.now() - _KEPT)
        return True

    # keys as asked for

    async def create(
        self, connection: AsyncConnection, key: DeclaredKey, *, by: str, why: str, maker: KeyRow | None = None
    ) -> tuple[KeyRow, str]:
        """A new key and its secret, which is told this once.

        ``maker`` is the key of who asks; None is whoever may open the installation's own socket. Raises ``Forbidden``
        if it would grant more than its maker has, ``Conflict`` for a name that is taken, ``NotFound`` for the team.
        """
        if await self._store.key(connection, _name(key.team), _name(key.name)) is not None:
            raise Conflict(f"team {key.team} has a key {key.name} already; rotate it, or choose another name")
        _allow(key.team, _body(key), _expiry(key.expires), maker)
        return await self._add(connection, key, by, why)

    async def rotate(
        self,
        connection: AsyncConnection,
        team: str,
        name: str,
        *,
        overlap: float,
        by: str,
        why: str,
        maker: KeyRow | None = None,
    ) -> tuple[KeyRow, str]:
        """A new secret for the key, told this once; the old one stays valid for ``overlap`` more seconds.

        Whoever rotates a key learns its secret, so it must not grant more than they have.
        """
        if not 0 <= overlap <= LONGEST_OVERLAP:
            raise Invalid(f"overlap is from 0 to {LONGEST_OVERLAP:.0f} seconds", field="overlap")
        before = await self.get(connection, team, name)
        _allow(team, before.body, before.expires, maker)
        secret = new_secret()
        hashed, last4 = await self._hashed(connection, secret)
        after = replace(before, hash=hashed, last4=last4, previous_hash=None, previous_last4=None, previous_until=None)
        if overlap > 0:
            after.previous_hash, after.previous_last4 = before.hash, before.last4
            after.previous_until = self._clock.now() + overlap
        await self._change(connection, before, after, by, why)
        return after, secret

    async def expire(
        self,
        connection: AsyncConnection,
        team: str,
        name: str,
        at: float | None,
        *,
        by: str,
        why: str,
        maker: KeyRow | None = None,
    ) -> KeyRow:
        """Let the key end at that moment (seconds since the epoch; None: never)."""
        before = await self.get(connection, team, name)
        _allow(team, before.body, at, maker)
        after = replace(before, expires=at)
        if after != before:
            await self._change(connection, before, after, by, why)
        return after

    async def revoke(self, connection: AsyncConnection, team: str, name: str, *, by: str, why: str) -> None:
        """End the key now. Raises ``NotFound`` if there is none of that name in force."""
        if not await self.remove_key(connection, team, name, by=by, why=why):
            raise _unknown(team, name)

    async def get(self, connection: AsyncConnection, team: str, name: str) -> KeyRow:
        """The key of that name in force. Raises ``NotFound``."""
        found = await self._store.key(connection, team, name)
        if found is None:
            raise _unknown(team, name)
        return found

    async def list(
        self, connection: AsyncConnection, team: str | None = None, *, revoked: bool = False
    ) -> list[KeyRow]:
        """Keys by team and name; without their secrets, which nobody knows."""
        return await self._store.keys(connection, team, revoked)

    # inside

    async def _add(self, connection: AsyncConnection, key: DeclaredKey, by: str, why: str) -> tuple[KeyRow, str]:
        if not await self._store.teams(connection, key.team):
            raise NotFound(f"there is no team {key.team!r}; make it first", code="team_not_found")
        secret = key.secret or new_secret()
        hashed, last4 = await self._hashed(connection, secret)
        now = self._clock.now()
        row = KeyRow(
            self._ids.make("key_"), key.team, key.name, hashed, last4, now, by, _body(key), expires=_expiry(key.expires)
        )
        await self._change(connection, None, row, by, why)
        return row, secret

    async def _hashed(self, connection: AsyncConnection, secret: str) -> tuple[str, str]:
        if not secret.isascii() or not secret.isprintable() or " " in secret or len(secret) > LONGEST:
            raise Invalid(f"a secret is at most {LONGEST} visible ASCII characters without spaces", field="secret")
        hashed = hash_secret(secret, self._pepper)
        other = await self._store.by_hash(connection, hashed)
        if other is not None:
            raise Conflict(f"the key {other.name} of team {other.team} has the same secret; give each key its own")
        # Of a short secret the last characters would be much of it.
        return hashed, secret[-4:] if len(secret) >= 16 else ""

    async def _change(
        self, connection: AsyncConnection, before: KeyRow | None, after: KeyRow, by: str, why: str
    ) -> None:
        await self._store.put_key(connection, after)
        await self._log.append(
            connection,
            by=by,
            why=why,
            what=f"key:{after.team}/{after.name}",
            before=None if before is None else _shown(before),
            after=_shown(after),
        )


def opens(key: KeyRow, now: float) -> list[Opens]:
    """The secrets that open this key from ``now`` on: its own, and while it is being rotated the one before."""
    if key.revoked is not None:
        return []
    found = [Opens(key.id, key.hash, key.expires)]
    if key.previous_hash is not None and key.previous_until is not None and key.previous_until > now:
        until = key.previous_until if key.expires is None else min(key.previous_until, key.expires)
        found.append(Opens(f"{key.id}.previous", key.previous_hash, until))
    return [one for one in found if one.until is None or one.until > now]


def _allow(team: str, body: Mapping[str, Any], expires: float | None, maker: KeyRow | None) -> None:
    if maker is None:
        return
    more = exceeds(body, expires, maker.body, maker.expires)
    if more is None and not maker.body.get("admin") and team != maker.team:
        more = f"it would be of team {team}"
    if more is not None:
        raise Forbidden(f"a key may not grant more than the one that makes it: {more}", code="exceeds_own_rights")


def _unknown(team: str, name: str) -> NotFound:
    return NotFound(f"team {team} has no key {name} in force", code="key_not_found")


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a name; use letters, digits and . _ : @ / -", field="name")
    return name


def _body(declared: object) -> dict[str, Any]:
    """What is declared, as plain JSON, without what has columns of its own."""
    plain = cast(dict[str, Any], msgspec.to_builtins(declared))
    return {
        name: value
        for name, value in plain.items()
        if name not in ("name", "team", "secret", "expires") and value is not None
    }


def _expiry(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Invalid(f"{text!r} is not a date; write 2027-01-31 or 2027-01-31T12:00:00Z", field="expires") from None


def _shown(key: KeyRow) -> dict[str, Any]:
    """A key for the log of changes: no secret, no hash."""
    shown: dict[str, Any] = {**key.body, "id": key.id, "last4": key.last4}
    for name, at in (
        ("expires", key.expires),
        ("previous_until", key.previous_until),
        ("revoked", key.revoked),
    ):
        if at is not None:
            shown[name] = datetime.fromtimestamp(at, UTC).isoformat()
    return shown


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    found = [
        f"{name} {msgspec.json.encode(before.get(name)).decode()} → {msgspec.json.encode(after.get(name)).decode()}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if len(found) > _DETAILS:
        found[_DETAILS - 1 :] = [f"{len(found) - _DETAILS + 1} more"]
    return tuple(found)
