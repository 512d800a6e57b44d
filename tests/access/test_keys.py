"""Teams and keys on a real database: declared, made, rotated, expired, revoked; and what one key may give another."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstay.access.authenticate import KeyRing, hash_secret, is_secret
from mainstay.access.authority import exceeds
from mainstay.access.keys import Keys, opens
from mainstay.core.clock import FixedClock
from mainstay.core.errors import Conflict, Forbidden, Invalid, NotFound
from mainstay.core.ids import Ids
from mainstay.registry import kinds
from mainstay.store.database import Database
from mainstay.store.keys import KeyRow, SqlKeys

PEPPER = "5f" * 32
WHO: dict[str, str] = {"by": "ada", "why": "a test"}


class Recorder:
    """The log of changes."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []

    async def append(self, connection: object, **change: Any) -> None:
        self.changes.append(change)


class Room:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FixedClock()
        self.log = Recorder()
        self.keys = Keys(SqlKeys(), self.log, PEPPER, self.clock, Ids(self.clock, seed=1))

    async def do(self, name: str, *given: Any, **named: Any) -> Any:
        async with self.database.write() as connection:
            return await getattr(self.keys, name)(connection, *given, **named)

    async def finds(self, secret: str) -> str | None:
        async with self.database.read() as connection:
            rows = await self.keys.list(connection)
        now = self.clock.now()
        entries = {one.hash: (row.name, one.until) for row in rows for one in opens(row, now)}
        return KeyRing(entries, PEPPER).find(secret, now)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[Room]:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'control.db'}")
    room = Room(database)
    await room.do("put_team", kinds.Team(name="support"), **WHO)
    yield room
    await database.close()


def key(name: str = "web", team: str = "support", **body: Any) -> kinds.Key:
    return msgspec.convert({"name": name, "team": team, **body}, kinds.Key)


async def test_a_declared_key_is_put_once(room: Room) -> None:
    declared = key(secret="web-secret-of-the-bundle", limits={"requests_per_minute": 600}, budget={"usd": 5})
    put = await room.do("put_key", declared, **WHO)
    assert (put.state, put.secret) == ("added", None)
    assert await room.finds("web-secret-of-the-bundle") == "web"
    changes = len(room.log.changes)
    assert (await room.do("put_key", declared, **WHO)).state == "unchanged"
    assert len(room.log.changes) == changes

    edited = key(secret="web-secret-of-the-bundle", limits={"requests_per_minute": 300}, budget={"usd": 5})
    put = await room.do("put_key", edited, **WHO)
    assert put.state == "changed"
    assert put.details == ('limits {"requests_per_minute":600} → {"requests_per_minute":300}',)
    assert (await room.do("put_key", key(secret="another-secret-now"), **WHO)).details[-1] == "secret changed"
    assert await room.finds("web-secret-of-the-bundle") is None
    assert await room.finds("another-secret-now") == "web"


async def test_a_declared_key_without_a_secret_gets_one_and_keeps_it(room: Room) -> None:
    put = await room.do("put_key", key(), **WHO)
    assert is_secret(put.secret)
    again = await room.do("put_key", key(), **WHO)
    assert (again.state, again.secret) == ("unchanged", None)
    assert await room.finds(put.secret) == "web"


async def test_teams_are_put_once_and_removed_when_empty(room: Room) -> None:
    team = kinds.Team(name="sales", budget=kinds.Budget(usd=50))
    assert (await room.do("put_team", team, **WHO)).state == "added"
    assert (await room.do("put_team", team, **WHO)).state == "unchanged"
    assert (await room.do("put_team", kinds.Team(name="sales"), **WHO)).state == "changed"
    await room.do("put_key", key(team="sales"), **WHO)
    assert not await room.do("remove_team", "sales", **WHO)
    assert await room.do("remove_key", "sales", "web", **WHO)
    assert not await room.do("remove_key", "sales", "web", **WHO)
    assert await room.do("remove_team", "sales", **WHO)
    assert not await room.do("remove_team", "sales", **WHO)
    async with room.database.read() as connection:
        assert await room.keys.teams(connection) == {"support"}


async def test_a_key_is_created_and_its_secret_is_nowhere_afterwards(room: Room) -> None:
    row, secret = await room.do("create", key(models=["chat"]), **WHO)
    assert is_secret(secret)
    assert row.last4 == secret[-4:]
    assert row.id.startswith("key_")
    with pytest.raises(Conflict, match="has a key web already"):
        await room.do("create", key(), **WHO)
    with pytest.raises(NotFound, match="no team"):
        await room.do("create", key(team="nobody"), **WHO)
    for change in room.log.changes:
        assert secret not in str(change)
        assert row.hash not in str(change)
    assert room.log.changes[-1]["what"] == "key:support/web"
    assert room.log.changes[-1]["before"] is None
    files = b"".join(path.read_bytes() for path in Path(str(room.database.engine.url.database)).parent.iterdir())
    assert row.hash.encode() in files
    assert secret.encode() not in files


async def test_a_rotated_key_opens_with_both_secrets_for_a_while(room: Room) -> None:
    _, first = await room.do("create", key(), **WHO)
    _, second = await room.do("rotate", "support", "web", overlap=60.0, **WHO)
    assert [await room.finds(one) for one in (first, second)] == ["web", "web"]
    room.clock.advance(60)
    assert [await room.finds(one) for one in (first, second)] == [None, "web"]
    _, third = await room.do("rotate", "support", "web", overlap=0.0, **WHO)
    assert [await room.finds(one) for one in (second, third)] == [None, "web"]
    with pytest.raises(Invalid, match="overlap is from 0"):
        await room.do("rotate", "support", "web", overlap=1e9, **WHO)


async def test_a_key_expires_and_may_be_given_more_time(room: Room) -> None:
    _, secret = await room.do("create", key(expires="2027-01-15T08:00:10Z"), **WHO)  # ten seconds from now
    assert await room.finds(secret) == "web"
    room.clock.advance(10)
    assert await room.finds(secret) is None
    await room.do("expire", "support", "web", None, **WHO)
    assert await room.finds(secret) == "web"
    with pytest.raises(Invalid, match="is not a date"):
        await room.do("create", key("other", expires="tomorrow"), **WHO)


async def test_a_revoked_key_opens_nothing_and_frees_its_name(room: Room) -> None:
    _, secret = await room.do("create", key(), **WHO)
    await room.do("rotate", "support", "web", overlap=60.0, **WHO)
    await room.do("revoke", "support", "web", **WHO)
    assert await room.finds(secret) is None
    with pytest.raises(NotFound, match="no key web in force"):
        await room.do("revoke", "support", "web", **WHO)
    row, _ = await room.do("create", key(), **WHO)
    listed = await room.do("list", "support", revoked=True)
    assert [one.revoked is None for one in listed] == [False, True]
    assert listed[1].id == row.id
    assert "revoked" in room.log.changes[-2]["after"]


async def test_no_two_keys_share_a_secret_and_odd_ones_are_refused(room: Room) -> None:
    await room.do("put_key", key(secret="the-same-secret"), **WHO)
    with pytest.raises(Conflict, match="has the same secret"):
        await room.do("put_key", key("other", secret="the-same-secret"), **WHO)
    for secret in ("with space", "ü" * 8, "new\nline", "x" * 2_000):
        with pytest.raises(Invalid, match="visible ASCII"):
            await room.do("put_key", key("other", secret=secret), **WHO)


async def test_a_failed_change_leaves_nothing(room: Room) -> None:
    class Broken(Recorder):
        async def append(self, connection: object, **change: Any) -> None:
            raise RuntimeError("the log is full")

    room.keys = Keys(SqlKeys(), Broken(), PEPPER, room.clock, Ids(room.clock))
    with pytest.raises(RuntimeError):
        await room.do("create", key(), **WHO)
    assert await room.do("list") == []


async def test_a_key_never_grants_more_than_its_maker_has(room: Room) -> None:
    maker, _ = await room.do(
        "create", key("maker", admin=True, models=["chat"], budget={"usd": 5, "per": "day"}), **WHO
    )
    fine = key("fine", models=["chat"], budget={"usd": 1, "per": "day"})
    await room.do("create", fine, maker=maker, **WHO)
    for name, body in {
        "all models": {"budget": {"usd": 1, "per": "day"}},
        "no budget": {"models": ["chat"]},
        "another period": {"models": ["chat"], "budget": {"usd": 1, "per": "month"}},
    }.items():
        with pytest.raises(Forbidden, match="may not grant more"):
            await room.do("create", key(name.replace(" ", "-"), **body), maker=maker, **WHO)
    await room.do("create", key("mighty", admin=True), **WHO)
    with pytest.raises(Forbidden, match="open all models"):  # its secret would be the maker's to use
        await room.do("rotate", "support", "mighty", overlap=0.0, maker=maker, **WHO)


OWN: dict[str, Any] = {
    "models": ["chat", "small"],
    "limits": {"requests_per_minute": 60, "concurrent": 2},
    "budget": [{"usd": 5, "per": "day"}, {"usd": 50, "soft": True}],
}


@pytest.mark.parametrize(
    ("body", "expires", "more"),
    [
        (OWN, 100.0, None),
        ({**OWN, "models": ["chat"]}, 50.0, None),
        ({**OWN, "models": []}, 50.0, None),
        ({**OWN, "admin": True}, 100.0, "administrator"),
        ({**OWN, "models": ["chat", "large"]}, 100.0, "open large"),
        ({**OWN, "models": None}, 100.0, "all models"),
        ({**OWN, "limits": {"requests_per_minute": 61, "concurrent": 2}}, 100.0, "requests_per_minute"),
        ({**OWN, "limits": {"requests_per_minute": 60}}, 100.0, "concurrent"),
        ({**OWN, "budget": {"usd": 5, "per": "day", "soft": True}}, 100.0, "budget of at most 5 USD per day"),
        ({**OWN, "budget": {"usd": 5.01, "per": "day"}}, 100.0, "budget of at most 5 USD per day"),
        (OWN, None, "live longer"),
        (OWN, 101.0, "live longer"),
    ],
)
def test_rights_are_compared_one_by_one(body: dict[str, Any], expires: float | None, more: str | None) -> None:
    found = exceeds(body, expires, OWN, 100.0)
    assert found is None if more is None else more in (found or "")
    assert exceeds(body, expires, {"admin": True}, None) is None


def test_a_key_that_is_revoked_or_past_opens_nothing() -> None:
    row = KeyRow("key_1", "t", "k", hash_secret("s", PEPPER), "", 0.0, "ada", {}, expires=10.0)
    assert len(opens(row, 9.0)) == 1
    assert opens(row, 10.0) == []
    row.expires, row.revoked = None, 5.0
    assert opens(row, 6.0) == []
