"""Prometheus text: exact figures, valid form, bounded cardinality."""

from __future__ import annotations

import re
from pathlib import Path

from mainstay.ledger.counters import Counters, Sample
from mainstay.ledger.record import AttemptRecord, crashed
from tests.ledger.cases import opening, record

GOLDEN = Path(__file__).parent / "metrics.txt"


def test_the_text_is_the_golden_one() -> None:
    counters = Counters()
    attempts = [
        AttemptRecord("small", "alpha", "gpt", 0, 5.0, error="overloaded"),
        AttemptRecord("small", "alpha", "gpt", 0, 5.0, error="timeout"),
        AttemptRecord("large", "beta", "claude", 0, 5.0, rescue="continued"),
    ]
    counters.add(
        record(route="chat", model="large", provider="beta", attempts=attempts, input=21, output=11, cached_input=16,
               cost_nano=1_500_000_001, duration_ms=1200.0, first_token_ms=200.0, overhead_ms=0.4, cache="miss")
    )  # fmt: skip
    counters.add(record(route='odd"\\\n', status=429, outcome="refused", error="rate_limit_exceeded", cost_nano=None))
    counters.add(record(input=5, output=1, cost_nano=None, cache="hit", duration_ms=0.5, stream=False))
    counters.add(crashed(opening(route="chat")))
    text = counters.expose(
        [
            Sample("mainstay_breaker_open", "Whether a target is left alone.", 1, {"target": "small"}),
            Sample("mainstay_breaker_open", "Whether a target is left alone.", 0, {"target": "large"}),
            Sample("mainstay_journal_lag_seconds", "How far\nbehind.", 0.25),
            Sample("mainstay_ledger_stored_total", "Rows.", 4, sort="counter"),
        ]
    )
    assert text == GOLDEN.read_text()


def test_every_line_is_well_formed_and_every_metric_has_its_head_once() -> None:
    line = re.compile(r'([a-z_]+)(\{([a-z_]+="(\\[\\n"]|[^"\\\n])*",?)+\})? (-?[0-9.e+-]+|NaN|[+-]Inf)')
    heads = [one for one in GOLDEN.read_text().split("\n") if one.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) > 15
    body = [one for one in GOLDEN.read_text().split("\n")[:-1] if not one.startswith("#")]
    assert all(line.fullmatch(one) for one in body)


def test_cardinality_is_bounded_and_nothing_is_lost() -> None:
    counters = Counters(values=5, series=20)
    for number in range(500):
        counters.add(record(number, model=f"m{number}", team=f"t{number % 50}", route=f"r{number}"))
    lines = [one for one in counters.expose().split("\n") if one.startswith("mainstay_calls_total{")]
    assert len(lines) <= 21
    assert sum(int(one.rpartition(" ")[2]) for one in lines) == 500
    assert any('model="other"' in one for one in lines)
    assert len(counters.expose().split("\n")) < 600
    assert "m499" not in counters.expose()
