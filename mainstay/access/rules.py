"""Limits and budgets as rules, the pools they have, and what a call claims of them; gateway-side and control-side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from mainstay.core.money import nano_from_usd, usd

Meter = Literal["requests", "tokens", "concurrent", "usd"]
Per = Literal["minute", "day", "month", "total"]
Fallback = Literal["refuse", "allow"]

REQUESTS, TOKENS, CONCURRENT, USD = range(4)
"""The meters as small numbers: what the hot path compares."""

_CODES: dict[str, int] = {"requests": REQUESTS, "tokens": TOKENS, "concurrent": CONCURRENT, "usd": USD}

SPAN = 60
"""Seconds after which a used request or token is idle again."""

MOST = 1 << 62
"""The largest capacity of a pool, in units: what a database's 64-bit integer can add up."""

_LONGEST_SCOPE = 96
_MOST_NAMES = 10_000


class _Names:
    """The names of one rule's pools in the window that is now."""

    __slots__ = ("known", "until", "window")

    def __init__(self) -> None:
        self.until = 0.0
        self.window = ""
        self.known: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit or budget.

    ``amount`` is in whole units of its meter: requests, tokens, calls in flight, nano-dollars. ``sentence`` says what
    it limits, such as "600 requests per minute for key support-web"; ``id`` is its stable name, without ``|``: a rule
    whose amount is edited keeps its id and so what has been spent.
    """

    id: str
    meter: Meter
    per: Per | None
    amount: int
    sentence: str
    soft: bool = False
    warn_at: float | None = None  # a share of the amount, 0 to 1
    unpriced: Fallback = "refuse"
    unreachable: Fallback = "refuse"
    code: int = field(init=False, repr=False, compare=False)
    warn_below: int = field(init=False, repr=False, compare=False)  # warn when fewer units than this are left
    _names: _Names = field(init=False, repr=False, compare=False, default_factory=_Names)

    def __post_init__(self) -> None:
        if "|" in self.id:
            raise ValueError(f"the rule id {self.id!r} may not contain '|'")
        if (self.meter == "usd") != (self.per in ("day", "month", "total")) or (self.meter == "concurrent") != (
            self.per is None
        ):
            raise ValueError(f"a rule over {self.meter} cannot be per {self.per}")
        object.__setattr__(self, "amount", min(max(self.amount, 0), MOST))
        object.__setattr__(self, "code", _CODES[self.meter])
        below = 0 if self.warn_at is None else self.amount - int(self.amount * self.warn_at)
        object.__setattr__(self, "warn_below", below)

    def pool(self, scope: str, now: float) -> str:
        """The name of the pool of ``scope`` in the window that contains ``now`` (seconds since the epoch)."""
        names = self._names
        if now >= names.until:
            names.window, names.until = window_at(self.per, now)
            names.known.clear()
        pool = names.known.get(scope)
        if pool is None:
            if len(names.known) >= _MOST_NAMES:
                names.known.clear()
            pool = names.known[scope] = pool_name(self.id, scope, names.window)
        return pool


class Claim(NamedTuple):
    """What a call wants of one pool before it is admitted."""

    rule: Rule
    pool: str
    units: int


def pool_name(rule: str, scope: str, window: str) -> str:
    """``rule|scope|window``; a long scope is shortened to its beginning and a hash."""
    if len(scope) > _LONGEST_SCOPE:
        scope = f"{scope[:48]}…{hashlib.blake2b(scope.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"
    return f"{rule}|{scope}|{window}"


def parts(pool: str) -> tuple[str, str, str]:
    """Rule, scope and window of a pool's name (the scope may contain anything)."""
    rule, _, rest = pool.partition("|")
    scope, _, window = rest.rpartition("|")
    return rule, scope, window


def window_at(per: Per | None, now: float) -> tuple[str, float]:
    """The name of the window that contains ``now``, in UTC, and when it ends (infinity: never)."""
    if per not in ("day", "month"):
        return "", float("inf")
    at = datetime.fromtimestamp(now, UTC)
    window = at.strftime("%Y-%m-%d" if per == "day" else "%Y-%m")
    end = window_end(window)
    assert end is not None
    return window, end


def window_end(window: str) -> float | None:
    """When the window of that name ends, in seconds since the epoch; None for one that never does."""
    if not window:
        return None
    if len(window) == 10:
        return (datetime.fromisoformat(window).replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
    year, month = int(window[:4]), int(window[5:7])
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()


def claims(rules: Iterable[tuple[Rule, str]], now: float, tokens: int, nano: int) -> list[Claim]:
    """What a call of at most ``tokens`` tokens and ``nano`` nano-dollars claims of each rule and scope.

    Tokens are an estimate, so a claim of them is never more than the whole limit; money is a true bound.
    """
    made: list[Claim] = []
    for rule, scope in rules:
        code = rule.code
        if code == USD:
            units = nano
        elif code == TOKENS:
            units = tokens if tokens < rule.amount else rule.amount
            if units == 0 and tokens:
                units = 1  # a limit of 0 lets nothing through
        else:
            units = 1
        made.append(Claim(rule, rule.pool(scope, now), units))
    return made


class LimitTerms(Protocol):
    """How fast a key or team may ask; ``registry.kinds.Limits`` is one."""

    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def tokens_per_minute(self) -> int | None: ...
    @property
    def concurrent(self) -> int | None: ...


class BudgetTerms(Protocol):
    """How much may be spent; ``registry.kinds.Budget`` and ``NamedBudget`` are such."""

    @property
    def usd(self) -> float: ...
    @property
    def per(self) -> Literal["day", "month", "total"]: ...
    @property
    def soft(self) -> bool: ...
    @property
    def warn_at(self) -> float: ...
    @property
    def unpriced(self) -> Fallback: ...
    @property
    def unreachable(self) -> Fallback: ...


class NamedTerms(BudgetTerms, Protocol):
    """A budget over users, tag values or models; ``registry.kinds.NamedBudget`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def by(self) -> Literal["user", "tag", "model", "all"]: ...
    @property
    def tag(self) -> str | None: ...
    @property
    def value(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ScopedRule:
    """A rule with a pool for each user, tag value or model, or for one of them only."""

    rule: Rule
    by: Literal["user", "tag", "model", "all"]
    tag: str | None = None
    value: str | None = None

    def scope(self, user: str | None, tags: Mapping[str, str], model: str | None) -> str | None:
        """The scope of a call under this rule; None if the rule says nothing about it."""
        if self.by == "all":
            return ""
        found = user if self.by == "user" else model if self.by == "model" else tags.get(self.tag or "")
        if not found or (self.value is not None and found != self.value):
            return None
        return found


def key_owner(team: str, key: str) -> tuple[str, str]:
    """The id and the words for a key as the owner of rules (``>`` cannot occur in a name, ``/`` can)."""
    return f"key:{team}>{key}", f"key {key} of team {team}"


def team_owner(team: str) -> tuple[str, str]:
    """The id and the words for a team as the owner of rules."""
    return f"team:{team}", f"team {team}"


def owner_rules(
    owner: tuple[str, str],
    limits: LimitTerms | None,
    budgets: BudgetTerms | Sequence[BudgetTerms] | None,
) -> list[Rule]:
    """The rules of a key or a team from its declared limits and budgets."""
    ident, words = owner
    rules: list[Rule] = []
    if limits is not None:
        meters: list[tuple[Meter, Per | None, int | None, str]] = [
            ("requests", "minute", limits.requests_per_minute, "requests per minute"),
            ("tokens", "minute", limits.tokens_per_minute, "tokens per minute"),
            ("concurrent", None, limits.concurrent, "calls at a time"),
        ]
        for meter, per, amount, unit in meters:
            if amount is not None:
                rules.append(Rule(f"{ident}:{meter}", meter, per, amount, f"{amount} {unit} for {words}"))
    if budgets is not None:
        taken: dict[str, int] = {}
        for terms in budgets if isinstance(budgets, Sequence) else [budgets]:
            name = f"{ident}:usd:{terms.per}" + (":soft" if terms.soft else "")
            taken[name] = count = taken.get(name, 0) + 1
            rules.append(_budget(name if count == 1 else f"{name}:{count}", terms, words))
    return rules


def named_rule(terms: NamedTerms) -> ScopedRule:
    """The rule of a named budget."""
    what = f"{terms.tag}={terms.value}" if terms.by == "tag" and terms.value else terms.value
    words = {
        "all": "all calls",
        "user": f"user {what}" if what else "each user",
        "tag": what or f"each value of the tag {terms.tag}",
        "model": f"model {what}" if what else "each model",
    }[terms.by]
    rule = _budget(f"budget:{terms.name}", terms, f"{words} (budget {terms.name})")
    return ScopedRule(rule, terms.by, terms.tag, terms.value)


def _budget(ident: str, terms: BudgetTerms, words: str) -> Rule:
    amount = nano_from_usd(terms.usd)
    span = "in total" if terms.per == "total" else f"per {terms.per}"
    return Rule(
        ident,
        "usd",
        terms.per,
        amount,
        f"{usd(amount)} USD {span} for {words}",
        soft=terms.soft,
        warn_at=terms.warn_at,
        unpriced=terms.unpriced,
        unreachable=terms.unreachable,
    )
