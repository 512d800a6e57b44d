"""Rules: their pools, windows, claims, and how they are made of what is declared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.access.rules import (
    Claim,
    Rule,
    claims,
    key_owner,
    named_rule,
    owner_rules,
    parts,
    pool_name,
    team_owner,
    window_at,
    window_end,
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Limits:
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True)
class Budget:
    usd: float
    per: Literal["day", "month", "total"] = "month"
    soft: bool = False
    warn_at: float = 0.8
    unpriced: Literal["refuse", "allow"] = "refuse"
    unreachable: Literal["refuse", "allow"] = "refuse"
    name: str = "b"
    by: Literal["user", "tag", "model", "all"] = "user"
    tag: str | None = None
    value: str | None = None


@pytest.mark.parametrize(
    ("per", "now", "window", "ends"),
    [
        ("day", "2026-11-21T23:59:59", "2026-11-21", "2026-11-22"),
        ("day", "2026-12-31T00:00:00", "2026-12-31", "2027-01-01"),
        ("month", "2026-11-30T23:59:59", "2026-11", "2026-12-01"),
        ("month", "2026-12-01T00:00:00", "2026-12", "2027-01-01"),
        ("day", "2028-02-28T12:00:00", "2028-02-28", "2028-02-29"),
    ],
)
def test_windows_are_days_and_months_in_utc(per: Literal["day", "month"], now: str, window: str, ends: str) -> None:
    assert window_at(per, at(now)) == (window, at(ends))
    assert window_end(window) == at(ends)


def test_limits_per_minute_and_totals_have_no_window() -> None:
    for per in ("minute", "total", None):
        assert window_at(per, at("2026-11-21")) == ("", float("inf"))
    assert window_end("") is None


def test_a_new_day_is_a_new_pool() -> None:
    rule = Rule("team:t:usd:day", "usd", "day", 10, "ten")
    before = rule.pool("", at("2026-11-21T23:59:59.9"))
    assert before == "team:t:usd:day||2026-11-21"
    assert rule.pool("", at("2026-11-21T23:59:59.99")) is before
    assert rule.pool("", at("2026-11-22T00:00:00")) == "team:t:usd:day||2026-11-22"


@given(st.text(), st.sampled_from(["", "2026-11", "2026-11-21"]))
def test_a_pools_name_can_be_taken_apart_and_is_bounded(scope: str, window: str) -> None:
    name = pool_name("budget:per-user", scope, window)
    rule, found, ended = parts(name)
    assert (rule, ended) == ("budget:per-user", window)
    assert len(name) < 150
    if len(scope) <= 96:
        assert found == scope


def test_long_scopes_do_not_meet() -> None:
    assert pool_name("r", "x" * 200 + "a", "") != pool_name("r", "x" * 200 + "b", "")


def test_a_key_has_its_limits_and_budgets() -> None:
    budgets = [Budget(5, "day"), Budget(40, soft=True), Budget(50), Budget(60)]
    rules = owner_rules(key_owner("support", "web"), Limits(600, 200_000, 50), budgets)
    assert [(rule.id, rule.meter, rule.per, rule.amount, rule.soft) for rule in rules] == [
        ("key:support>web:requests", "requests", "minute", 600, False),
        ("key:support>web:tokens", "tokens", "minute", 200_000, False),
        ("key:support>web:concurrent", "concurrent", None, 50, False),
        ("key:support>web:usd:day", "usd", "day", 5_000_000_000, False),
        ("key:support>web:usd:month:soft", "usd", "month", 40_000_000_000, True),
        ("key:support>web:usd:month", "usd", "month", 50_000_000_000, False),
        ("key:support>web:usd:month:2", "usd", "month", 60_000_000_000, False),
    ]
    assert rules[3].sentence == "5 USD per day for key web of team support"
    assert owner_rules(team_owner("t"), None, None) == []
    assert owner_rules(team_owner("t"), Limits(concurrent=0), Budget(1))[0].amount == 0


def test_keys_whose_names_hold_slashes_do_not_share_rules() -> None:
    assert key_owner("a/b", "c")[0] != key_owner("a", "b/c")[0]


def test_named_budgets_know_whom_they_count() -> None:
    each = named_rule(Budget(1, by="user"))
    assert each.scope("ada", {}, None) == "ada"
    assert each.scope(None, {}, None) is None
    assert named_rule(Budget(1, by="user", value="ada")).scope("bob", {}, None) is None
    tag = named_rule(Budget(1, by="tag", tag="feature"))
    assert tag.scope(None, {"feature": "search"}, None) == "search"
    assert tag.scope(None, {}, None) is None
    assert named_rule(Budget(1, by="model")).scope(None, {}, "small") == "small"
    assert named_rule(Budget(1, by="all")).scope(None, {}, None) == ""


def test_claims_hold_one_request_the_tokens_and_the_money() -> None:
    rules = owner_rules(team_owner("t"), Limits(10, 100, 2), Budget(1, "total"))
    wanted = claims([(rule, "") for rule in rules], at("2026-11-21"), 500, 7_000)
    assert [one.units for one in wanted] == [1, 100, 1, 7_000]  # of tokens at most the whole limit
    assert isinstance(wanted[0], Claim)
    closed = owner_rules(team_owner("t"), Limits(tokens_per_minute=0), None)
    assert claims([(closed[0], "")], 0.0, 500, 0)[0].units == 1  # a limit of 0 lets nothing through


@pytest.mark.parametrize(
    ("meter", "per"), [("usd", "minute"), ("requests", "day"), ("concurrent", "minute"), ("tokens", None)]
)
def test_a_rule_that_makes_no_sense_is_refused(meter: str, per: str | None) -> None:
    with pytest.raises(ValueError, match=f"a rule over {meter} cannot be per {per}"):
        Rule("r", meter, per, 1, "s")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="may not contain"):
        Rule("a|b", "requests", "minute", 1, "s")
