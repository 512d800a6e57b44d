"""The filter language: what it selects, what it refuses, and that nothing is ever pasted into SQL."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.core.errors import Invalid
from mainstay.ledger.filter import ALL, parse
from mainstay.ledger.rows import COLUMNS
from tests.ledger.cases import AT, Control, record
from tests.ledger.test_query import fill

ROWS = [
    record(
        0, model="large", status=503, outcome="failed", tags={"feature": "search"}, user="Ann Smith", duration_ms=2500.0
    ),
    record(
        1,
        model="large",
        status=200,
        tags={"feature": "search", "a tier": 'it\'s "free"'},
        user="Joanna",
        why=["when[0]"],
    ),
    record(2, model="small", status=200, tags={}, user=None, cost_nano=150_000_000, cache="hit", dropped=["user"]),
    record(
        3,
        model=None,
        status=429,
        outcome="refused",
        error="rate_limit_exceeded",
        stream=False,
        cost_nano=None,
        at=AT + 10_000_000,
    ),
]

CASES = [
    ("", {0, 1, 2, 3}),
    ("status>=500", {0}),
    ("status>=500 and model=large and tag.feature=search and not outcome=ok", {0}),
    ("model=large and status<400", {1}),
    ("model!=large", {2, 3}),
    ("not model=large", {2, 3}),
    ("model=null", {3}),
    ("model!=null", {0, 1, 2}),
    ("model in (small, 'large')", {0, 1, 2}),
    ("not model in (small, large)", {3}),
    ('user~"ann"', {0, 1}),
    ("user~SMITH", {0}),
    ("user!~ann", {2, 3}),
    ("tag.feature=search or status=429", {0, 1, 3}),
    ("status=429 or status=503 and model=large", {0, 3}),
    ("(status=429 or status=503) and model=large", {0}),
    ('tag."a tier"=\'it\\\'s "free"\'', {1}),
    ("tag.absent=null", {0, 1, 2, 3}),
    ("tag.feature!=search", {2, 3}),
    ("duration_ms>2000", {0}),
    ("duration_ms > 2e3", {0}),
    ("cost_usd>=0.15", {2}),
    ("cost_usd=null", {3}),
    ("not cost_usd<0.15", {2, 3}),
    ("stream=false", {3}),
    ("cache=hit", {2}),
    ("cache=off", {0, 1, 3}),
    ("attempts=0", {0, 1, 2, 3}),
    ("why=when[0]", {1}),
    ("why~WHEN", {1}),
    ("dropped=user", {2}),
    ("at>=2026-11-18T11:06:45Z", {3}),
    ("at<'2026-11-18 11:06:45'", {0, 1, 2}),
    ("NOT model=large AND NOT status=429", {2}),
    ("id=" + ROWS[1].id, {1}),
]


async def test_what_a_filter_selects(control: Control) -> None:
    await fill(control, *ROWS)
    for text, expected in CASES:
        page = await control.ledger.calls(parse(text))
        assert {int(one["id"][-2:]) for one in page.rows} == expected, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle=large", 'unknown field "modle" at position 1; did you mean "model"?'),
        ("status=200 and  teem=x", 'unknown field "teem" at position 17; did you mean "team"?'),
        ("zzzz=1", "and tag.NAME"),
        ("status", "expected an operator such as = or >= at position 7"),
        ("status=", "expected a value at position 8"),
        ("status=abc", 'expected a number, not "abc" at position 8'),
        ("status=nan", "expected a number"),
        ("status=99999999999999999999999", "expected a number"),
        ("stream=maybe", 'expected true or false, not "maybe" at position 8'),
        ("at>yesterday", "expected a time such as"),
        ("cost_usd>cheap", "expected an amount"),
        ("status=200 status=300", 'expected "and", "or" or the end, not "status" at position 12'),
        ("(status=200", 'expected ")" at position 12'),
        ("status=200)", 'not ")" at position 11'),
        ("user='ann", "a quoted text has no end at position 6"),
        ("user=ann; drop table x", "expected \"and\", \"or\" or the end"),
        ("status~5", "looks into texts"),
        ("stream>true", 'does not go with "stream"'),
        ("status>null", 'does not go with "status"'),
        ("model not in (small)", "expected an operator"),
        ("and", 'unknown field "and"'),
        ("=5", "expected a field"),
        ("tag.=x", 'unknown field "tag."'),
        ("!", '"!" does not belong here at position 1'),
        ("not " * 40 + "status=1", "nested too deeply"),
        ("(" * 40, "nested too deeply"),
        ("x" * 5000, "longer than 4096"),
    ],
)  # fmt: skip
def test_what_a_filter_refuses(text: str, message: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse(text)
    assert message in refusal.value.message
    assert refusal.value.field == "filter"


_columns = ", ".join(f'NULL::{sql} AS "{name}"' for name, sql in COLUMNS.items())
_words = st.one_of(
    st.sampled_from(["status", "model", "tag.x", "and", "or", "not", "in", "(", ")", ",", "=", "~", ">=", "!="]),
    st.sampled_from(["null", "5", "'a\"b'", '"', "'; --"]),
    st.text(max_size=5),
)  # fmt: skip


@pytest.fixture(scope="module")
def empty() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@settings(max_examples=400, deadline=None)
@given(st.lists(_words, max_size=12))
def test_any_text_is_refused_or_runs(empty: duckdb.DuckDBPyConnection, words: list[str]) -> None:
    try:
        found = parse(" ".join(words))
    except Invalid:
        return
    assert found.sql.count("?") == len(found.parameters)
    empty.execute(f"SELECT 1 FROM (SELECT {_columns}) WHERE {found.sql}", found.parameters).fetchall()


@given(st.text(max_size=20))
def test_a_value_reaches_the_database_as_a_parameter_only(value: str) -> None:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    found = parse(f"user={quoted}")
    assert found.parameters == [value]
    assert found.sql == 'coalesce("user" = ?, false)'


def test_an_empty_filter_holds_of_all() -> None:
    assert parse("  ") == ALL
