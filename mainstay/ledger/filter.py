"""The one filter language over calls: ``status>=500 and model=large and tag.feature=search and not outcome=ok``.

::

    filter     = all ("or" all)*
    all        = one ("and" one)*
    one        = "not" one | "(" filter ")" | field operator value | field "in" "(" value ("," value)* ")"
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" (contains, whatever the case) | "!~"
    value      = "null" | a word | "text in double or single quotes, with \\" and \\\\"

What is compared with something absent does not hold; its negation does. ``verdict.NAME`` holds of a call if one of the
verdicts on it, its session or its external id does. The text becomes SQL with parameters: no part of it is ever pasted in.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mainstay.core.errors import Invalid
from mainstay.core.money import nano_from_usd
from mainstay.ledger import judged
from mainstay.ledger.rows import COLUMNS

TEXT_LIMIT = 4096
"""Characters a filter may have."""

_DEPTH_LIMIT = 32
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<operator><=|>=|!=|!~|==|=|<|>|~)
      | (?P<mark>[(),])
      | (?P<word>[^\s()=<>!~,"']+)
    )""",
    re.VERBOSE,
)
_COMPARE = {"=": "=", "==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_INT_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition in SQL and the values of its parameters."""

    sql: str = "true"
    parameters: list[Any] = field(default_factory=list[Any])

    def both(self, other: Filter) -> Filter:
        """The condition that this one and ``other`` hold."""
        return Filter(f"({self.sql}) AND ({other.sql})", [*self.parameters, *other.parameters])


ALL = Filter()
"""Holds of every call."""


Source = Literal["gateway", "otlp", "api", "all"]
"""Whose rows: calls that came through a gateway, or spans and records that applications sent."""


def sent_by(source: Source) -> Filter:
    """The rows that came that way."""
    if source == "all":
        return ALL
    return Filter('"source" IS NULL') if source == "gateway" else Filter('"source" = ?', [source])


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the language: its SQL, its sort (text, int, float, bool, usd, time, list), its parameters."""

    sql: str
    sort: str
    parameters: tuple[Any, ...] = ()


def _fields() -> dict[str, Field]:
    sorts = {
        "VARCHAR": "text",
        "BIGINT": "int",
        "INTEGER": "int",
        "DOUBLE": "float",
        "BOOLEAN": "bool",
        "VARCHAR[]": "list",
    }
    table = {name: Field(f'"{name}"', sorts[sql]) for name, sql in COLUMNS.items() if sql in sorts}
    table["at"] = Field('"at"', "time")
    table["attempts"] = Field('coalesce(len("attempts"), 0)', "int")
    table["cache"] = Field("coalesce(\"cache\", 'off')", "text")
    table["cost_usd"] = Field('"cost_nano"', "usd")
    table["app_cost_usd"] = Field('"app_cost_nano"', "usd")
    table["kind"] = Field("coalesce(\"kind\", 'call')", "text")
    table["source"] = Field("coalesce(\"source\", 'gateway')", "text")
    del table["taken"]
    for short, long in (("latency_ms", "duration_ms"), ("ttft_ms", "first_token_ms")):
        table[short] = table[long]
    return table


FIELDS = _fields()
"""Every field of the language but the tags and attributes, which are ``tag.NAME`` and ``attribute.NAME``."""


def known(name: str, position: int = 0) -> Field:
    """The field ``name``. Raises ``Invalid`` with a suggestion if there is none."""
    head, dot, tag = name.partition(".")
    if dot and head in ("tag", "tags") and tag:
        return Field('map_extract_value("tags", ?)', "text", (tag,))
    if dot and head in ("attribute", "attributes") and tag:
        return Field('map_extract_value("attributes", ?)', "text", (tag,))
    found = FIELDS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, [*FIELDS, "tag."], 1)
        hint = (
            f'did you mean "{near[0]}"?'
            if near
            else f"there are {', '.join(sorted(FIELDS))}, verdict.NAME and tag.NAME"
        )
        raise Invalid(f'unknown field "{name[:60]}" at position {position + 1}; {hint}', field="filter")
    return found


def parse(text: str) -> Filter:
    """The filter that ``text`` describes; an empty one holds of all. Raises ``Invalid`` that names the position."""
    if len(text) > TEXT_LIMIT:
        raise Invalid(f"the filter is longer than {TEXT_LIMIT} characters", field="filter")
    parser = _Parser(_tokens(text), len(text))
    if parser.peek() is None:
        return ALL
    found = parser.either(0)
    left = parser.peek()
    if left is not None:
        raise _wrong(f'expected "and", "or" or the end, not {left.shown}', left.at)
    return found


@dataclass(frozen=True, slots=True)
class _Token:
    sort: str
    text: str
    at: int

    @property
    def shown(self) -> str:
        return f'"{self.text[:40]}"'


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            if text[at] in "\"'":
                raise _wrong("a quoted text has no end", at)
            raise _wrong(f'"{text[at]}" does not belong here', at)
        sort = match.lastgroup or ""
        value = match.group(sort)
        start = match.start(sort)
        if sort == "quoted":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        elif sort == "word" and value.endswith(".") and text[match.end() : match.end() + 1] in ('"', "'"):
            quoted = _TOKEN.match(text, match.end())  # tag."a name with spaces"
            if quoted is not None and quoted.lastgroup == "quoted":
                value += re.sub(r"\\(.)", r"\1", quoted.group("quoted")[1:-1], flags=re.DOTALL)
                match = quoted
        tokens.append(_Token(sort, value, start))
        at = match.end()
    return tokens


def _wrong(message: str, at: int) -> Invalid:
    return Invalid(f"{message} at position {at + 1} of the filter", field="filter")


class _Parser:
    __slots__ = ("_end", "_next", "_tokens")

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self._tokens = tokens
        self._next = 0
        self._end = end

    def peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, expected: str) -> _Token:
        token = self.peek()
        if token is None:
            raise _wrong(f"expected {expected}", self._end)
        self._next += 1
        return token

    def _word(self, word: str) -> bool:
        token = self.peek()
        if token is None or token.sort != "word" or token.text.lower() != word:
            return False
        # A field may be called like a keyword only where an operator follows; none is.
        self._next += 1
        return True

    def either(self, depth: int) -> Filter:
        found = self._all(depth)
        while self._word("or"):
            other = self._all(depth)
            found = Filter(f"({found.sql} OR {other.sql})", [*found.parameters, *other.parameters])
        return found

    def _all(self, depth: int) -> Filter:
        found = self._one(depth)
        while self._word("and"):
            other = self._one(depth)
            found = Filter(f"({found.sql} AND {other.sql})", [*found.parameters, *other.parameters])
        return found

    def _one(self, depth: int) -> Filter:
        token = self.peek()
        if depth > _DEPTH_LIMIT:
            raise _wrong("the filter is nested too deeply", token.at if token else self._end)
        if self._word("not"):
            inner = self._one(depth + 1)
            return Filter(f"(NOT {inner.sql})", inner.parameters)
        if token is not None and token.sort == "mark" and token.text == "(":
            self._next += 1
            inner = self.either(depth + 1)
            self._mark(")")
            return inner
        return self._comparison()

    def _mark(self, mark: str) -> None:
        token = self._take(f'"{mark}"')
        if token.sort != "mark" or token.text != mark:
            raise _wrong(f'expected "{mark}", not {token.shown}', token.at)

    def _comparison(self) -> Filter:
        name = self._take("a field such as status")
        if name.sort != "word":
            raise _wrong(f"expected a field such as status, not {name.shown}", name.at)
        verdict = judged.named(name.text)
        if verdict is not None:
            return self._judged(verdict, name)
        left = known(name.text, name.at)
        if self._word("in"):
            self._mark("(")
            found = self._equal(left, self._value())
            while (token := self.peek()) is not None and token.sort == "mark" and token.text == ",":
                self._next += 1
                other = self._equal(left, self._value())
                found = Filter(f"({found.sql} OR {other.sql})", [*found.parameters, *other.parameters])
            self._mark(")")
            return found
        operator = self._take("an operator such as = or >=")
        if operator.sort != "operator":
            raise _wrong(f"expected an operator such as = or >=, not {operator.shown}", operator.at)
        value = self._value()
        if operator.text in ("!=", "!~"):
            inner = self._equal(left, value) if operator.text == "!=" else self._contains(left, value)
            return Filter(f"(NOT {inner.sql})", inner.parameters)
        if operator.text == "~":
            return self._contains(left, value)
        if _COMPARE[operator.text] == "=":
            return self._equal(left, value)
        if left.sort in ("bool", "list") or _null(value):
            raise _wrong(f'"{operator.text}" does not go with {name.shown} and {value.shown}', operator.at)
        right = _typed(left.sort, value)
        return Filter(f"coalesce({left.sql} {_COMPARE[operator.text]} ?, false)", [*left.parameters, right])

    def _judged(self, verdict: str, name: _Token) -> Filter:
        operator = self._take("an operator such as = or >=")
        if operator.sort != "operator":
            raise _wrong(f"expected an operator such as = or >=, not {operator.shown}", operator.at)
        value = self._value()
        plain = operator.text.replace("!", "").replace("==", "=")
        found = judged.compared(verdict, plain, value.text, value.sort == "quoted")
        if found is None:
            raise _wrong(f'"{operator.text}" does not go with {name.shown} and {value.shown}', operator.at)
        return Filter(f"(NOT {found[0]})" if operator.text.startswith("!") else found[0], found[1])

    def _value(self) -> _Token:
        token = self._take("a value")
        if token.sort not in ("word", "quoted"):
            raise _wrong(f"expected a value, not {token.shown}", token.at)
        return token

    def _equal(self, left: Field, value: _Token) -> Filter:
        if _null(value):
            return Filter(f"({left.sql} IS NULL)", list(left.parameters))
        right = _typed(left.sort, value)
        if left.sort == "list":
            return Filter(f"coalesce(list_contains({left.sql}, ?), false)", [*left.parameters, right])
        return Filter(f"coalesce({left.sql} = ?, false)", [*left.parameters, right])

    def _contains(self, left: Field, value: _Token) -> Filter:
        right = value.text.lower()
        if left.sort == "list":
            return Filter(
                f"coalesce(contains(lower(array_to_string({left.sql}, chr(10))), ?), false)", [*left.parameters, right]
            )
        if left.sort != "text":
            raise _wrong(f'"~" looks into texts, and {left.sql} is none', value.at)
        return Filter(f"coalesce(contains(lower({left.sql}), ?), false)", [*left.parameters, right])


def _null(value: _Token) -> bool:
    return value.sort == "word" and value.text.lower() == "null"


def _typed(sort: str, value: _Token) -> Any:
    text = value.text
    if sort in ("text", "list"):
        return text
    try:
        if sort == "bool":
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if sort == "time":
            return moment(text)
        if sort == "usd":
            number = nano_from_usd(text)
        else:
            number = int(text) if sort == "int" and re.fullmatch(r"[+-]?\d{1,20}", text) else float(text)
        if not abs(number) <= _INT_LIMIT:
            raise ValueError
        return number
    except (ValueError, KeyError):
        wanted = {
            "bool": "true or false",
            "time": "a time such as 2026-11-21T10:00:00Z",
            "usd": "an amount such as 0.15",
        }
        raise _wrong(f"expected {wanted.get(sort, 'a number')}, not {value.shown}", value.at) from None


def moment(text: str) -> int:
    """A time in ISO 8601 (UTC where it names no zone), or seconds since the epoch, in microseconds since the epoch."""
    if re.fullmatch(r"\d{1,11}(\.\d{1,6})?", text):
        return round(float(text) * 1e6)
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
