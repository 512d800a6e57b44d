"""Simulations with a known truth: what each drift method states of itself, and what was seen under fixed seeds.

``python -m tests.observe.drift_trials`` writes the tables of docs/guide/drift.md; test_drift_trials.py runs them again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mainstay.observe.drift_adwin import Adwin
from mainstay.observe.drift_categories import compare_js, compare_psi
from mainstay.observe.drift_embeddings import compare_embeddings
from mainstay.observe.drift_finding import Finding
from mainstay.observe.drift_inputs import Counts, Histogram, Sample, geometric_edges
from mainstay.observe.drift_multiple import judge
from mainstay.observe.drift_numbers import compare_ks, compare_wasserstein
from mainstay.observe.drift_streams import Baseline, PageHinkley

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "drift.md"


@dataclass(frozen=True)
class Quiet:
    """Nothing changes: ``run`` says whether the method, by chance, called it significant. ``stated`` is the rate."""

    method: str
    setting: str
    stated: float
    runs: int
    run: Callable[[random.Random], bool]


@dataclass(frozen=True)
class Changed:
    """Something changes: ``run`` gives the delay until the alarm, None for none. ``stated``: which part is found within."""

    method: str
    setting: str
    within: int
    unit: str
    stated: float
    runs: int
    run: Callable[[random.Random], int | None]


@dataclass(frozen=True)
class Seen:
    """Of ``runs`` runs, ``count`` alarmed (within the stated delay); ``median``: the delay of half of them."""

    count: int
    runs: int
    median: int | None = None


def watch(trial: Quiet | Changed) -> Seen:
    """Run a trial, with a seed per run that follows from its name."""
    results = [trial.run(random.Random(f"{trial.method} {trial.setting} {number}")) for number in range(trial.runs)]
    if isinstance(trial, Quiet):
        return Seen(sum(bool(result) for result in results), trial.runs)
    delays = sorted(math.inf if delay is None else delay for delay in results)
    middle = delays[len(delays) // 2]
    return Seen(sum(delay <= trial.within for delay in delays), trial.runs, None if middle == math.inf else int(middle))


def binomial_tail(count: int, runs: int, rate: float) -> float:
    """The probability of ``count`` or more of ``runs`` at ``rate``."""
    if count <= 0:
        return 1.0
    if rate in (0.0, 1.0):
        return rate
    logs = (
        math.lgamma(runs + 1)
        - math.lgamma(k + 1)
        - math.lgamma(runs - k + 1)
        + k * math.log(rate)
        + (runs - k) * math.log1p(-rate)
        for k in range(count, runs + 1)
    )
    return min(1.0, math.fsum(math.exp(log) for log in logs))


def interval(count: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) of the rate behind ``count`` of ``runs``."""
    tail = (1 - level) / 2

    def bisect(is_above: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if is_above(middle) else (middle, high)
        return (low + high) / 2

    least = bisect(lambda rate: binomial_tail(count, runs, rate) > tail) if count else 0.0
    most = bisect(lambda rate: 1 - binomial_tail(count + 1, runs, rate) < tail) if count < runs else 1.0
    return least, most


# What is simulated.

REASONS = ("stop", "length", "tool_calls", "content_filter", "refusal")
SHARES = (0.80, 0.08, 0.07, 0.03, 0.02)
LONG_TAIL = tuple(f"c{k}" for k in range(15))
TAIL_SHARES = tuple(1 / k**1.5 for k in range(1, 16))
MORE_LENGTH = (0.69, 0.19, 0.07, 0.03, 0.02)
FEW_LONG = (0.86, 0.02, 0.07, 0.03, 0.02)
NEWER = (*REASONS, "pause")
NEW_SHARES = (*(part * 0.9 for part in SHARES), 0.1)
EDGES = geometric_edges(0.02, 60, 8)


def drawn(chance: random.Random, names: Sequence[str], shares: Sequence[float], rows: int) -> Counts:
    return Counts.of(chance.choices(names, shares, k=rows))


def normal(chance: random.Random, rows: int, mean: float = 0.0, deviation: float = 1.0) -> Sample:
    return Sample.of(chance.gauss(mean, deviation) for _ in range(rows))


def latencies(chance: random.Random, rows: int, factor: float = 1.0) -> list[float]:
    return [factor * chance.lognormvariate(0.0, 0.8) for _ in range(rows)]


def slowed(chance: random.Random, rows: int) -> list[float]:
    """Latencies of which every twentieth, on average, is ten times as long."""
    return [value * (10.0 if chance.random() < 0.05 else 1.0) for value in latencies(chance, rows)]


def whole(chance: random.Random, rows: int) -> Sample:
    """Small whole numbers, such as the number of attempts: nearly all values are ties."""
    return Sample.of(float(1 + int(chance.expovariate(1.0))) for _ in range(rows))


Topic = list[float]
TOPICS = 6
DIMENSION = 48


@cache
def topics() -> list[Topic]:
    chance = random.Random("topics")
    return [[chance.gauss(0.0, 1.0) for _ in range(DIMENSION)] for _ in range(TOPICS + 1)]


def vectors(chance: random.Random, rows: int, new: float = 0.0) -> list[list[float]]:
    """Embeddings about six topics; the part ``new`` of them is about a seventh."""
    known = topics()
    found: list[list[float]] = []
    for _ in range(rows):
        centre = known[-1] if chance.random() < new else known[chance.randrange(TOPICS)]
        found.append([place + chance.gauss(0.0, 1.0) for place in centre])
    return found


Windows = Callable[[random.Random], Finding]


def significant(windows: Windows) -> Callable[[random.Random], bool]:
    return lambda chance: windows(chance).significant


def at_once(windows: Windows) -> Callable[[random.Random], int | None]:
    """A window is found at once, by its own alarm, or not at all."""
    return lambda chance: 1 if windows(chance).alarm else None


def family(chance: random.Random) -> bool:
    """Ten features of a window in which nothing has changed: is there an alarm about any?"""
    findings = {
        f"feature {k}": compare_js(drawn(chance, REASONS, SHARES, 2000), drawn(chance, REASONS, SHARES, 500), floor=0.0)
        for k in range(10)
    }
    return any(judged.alarm for judged in judge(findings, 0.01))


def page_hinkley(values: int, baseline: Baseline | None) -> Callable[[random.Random], bool]:
    def run(chance: random.Random) -> bool:
        detector = PageHinkley(baseline=baseline)
        return any(detector.update(chance.gauss(20.0, 4.0)) is not None for _ in range(values))

    return run


def adwin(values: int, rate: float) -> Callable[[random.Random], bool]:
    def run(chance: random.Random) -> bool:
        detector = Adwin()
        return any(detector.update(float(chance.random() < rate)) is not None for _ in range(values))

    return run


def page_hinkley_delay(shift: float) -> Callable[[random.Random], int | None]:
    def run(chance: random.Random) -> int | None:
        detector = PageHinkley(baseline=Baseline(20.0, 4.0))
        detector.update(20.0)
        for value in range(1, 2001):
            if detector.update(chance.gauss(20.0 + 4.0 * shift, 4.0)) is not None:
                return value
        return None

    return run


def learned_delay(chance: random.Random) -> int | None:
    detector = PageHinkley(direction="up")
    for _ in range(1500):
        if detector.update(chance.gauss(20.0, 4.0)) is not None:
            return None
    for value in range(1, 2001):
        if detector.update(chance.gauss(24.0, 4.0)) is not None:
            return value
    return None


def adwin_delay(before: float, after: float) -> Callable[[random.Random], int | None]:
    def run(chance: random.Random) -> int | None:
        detector = Adwin(direction="up")
        for _ in range(2000):
            if detector.update(float(chance.random() < before)) is not None:
                return None
        for value in range(1, 4001):
            if detector.update(float(chance.random() < after)) is not None:
                return value
        return None

    return run


def binned(chance: random.Random, rows: int, factor: float = 1.0) -> Histogram:
    return Histogram.of(EDGES, latencies(chance, rows, factor))


QUIET = (
    Quiet(
        "PSI",
        "5 categories, 5,000 rows against 1,000: chi-square",
        0.01,
        1000,
        significant(lambda c: compare_psi(drawn(c, REASONS, SHARES, 5000), drawn(c, REASONS, SHARES, 1000))),
    ),
    Quiet(
        "PSI",
        "15 categories, many of them rare, 300 against 100: permutation",
        0.01,
        400,
        significant(
            lambda c: compare_psi(drawn(c, LONG_TAIL, TAIL_SHARES, 300), drawn(c, LONG_TAIL, TAIL_SHARES, 100))
        ),
    ),
    Quiet(
        "PSI",
        "15 categories, 20,000 against 2,000: chi-square, rare ones as one",
        0.01,
        400,
        significant(
            lambda c: compare_psi(drawn(c, LONG_TAIL, TAIL_SHARES, 20000), drawn(c, LONG_TAIL, TAIL_SHARES, 2000))
        ),
    ),
    Quiet(
        "Jensen–Shannon",
        "5 categories, 5,000 rows against 1,000: G-test",
        0.01,
        1000,
        significant(lambda c: compare_js(drawn(c, REASONS, SHARES, 5000), drawn(c, REASONS, SHARES, 1000))),
    ),
    Quiet(
        "Jensen–Shannon",
        "15 categories, many of them rare, 300 against 100: permutation",
        0.01,
        400,
        significant(lambda c: compare_js(drawn(c, LONG_TAIL, TAIL_SHARES, 300), drawn(c, LONG_TAIL, TAIL_SHARES, 100))),
    ),
    Quiet(
        "Kolmogorov–Smirnov",
        "normal, 60 against 40: exact",
        0.01,
        1000,
        significant(lambda c: compare_ks(normal(c, 60), normal(c, 40))),
    ),
    Quiet(
        "Kolmogorov–Smirnov",
        "small whole numbers, 60 against 40: exact, given the ties",
        0.01,
        1000,
        significant(lambda c: compare_ks(whole(c, 60), whole(c, 40))),
    ),
    Quiet(
        "Kolmogorov–Smirnov",
        "lognormal, 2,000 against 1,000: asymptotic",
        0.01,
        500,
        significant(lambda c: compare_ks(Sample.of(latencies(c, 2000)), Sample.of(latencies(c, 1000)))),
    ),
    Quiet(
        "Kolmogorov–Smirnov",
        "lognormal in a histogram, 8 edges per doubling, 2,000 against 1,000",
        0.01,
        500,
        significant(lambda c: compare_ks(binned(c, 2000), binned(c, 1000))),
    ),
    Quiet(
        "Wasserstein",
        "lognormal, 300 against 100: permutation",
        0.01,
        300,
        significant(lambda c: compare_wasserstein(Sample.of(latencies(c, 300)), Sample.of(latencies(c, 100)))),
    ),
    Quiet(
        "Wasserstein",
        "lognormal, 2,000 against 1,000: Brownian bridge",
        0.01,
        300,
        significant(lambda c: compare_wasserstein(Sample.of(latencies(c, 2000)), Sample.of(latencies(c, 1000)))),
    ),
    Quiet(
        "Wasserstein",
        "lognormal in a histogram, 8 edges per doubling, 2,000 against 1,000",
        0.01,
        300,
        significant(lambda c: compare_wasserstein(binned(c, 2000), binned(c, 1000))),
    ),
    Quiet(
        "Embeddings (MMD)",
        "6 topics, 48 dimensions, 80 against 80: permutation at 5 %",
        0.05,
        100,
        significant(lambda c: compare_embeddings(vectors(c, 80), vectors(c, 80), alpha=0.05)),
    ),
    Quiet("Benjamini–Hochberg", "any alarm of 10 features in a window, no effect asked for", 0.01, 400, family),
    Quiet(
        "Page–Hinkley",
        "with a baseline: any alarm in 1,000 values (one in 10,000 is about 10 %)",
        0.10,
        400,
        page_hinkley(1000, Baseline(20.0, 4.0)),
    ),
    Quiet(
        "Page–Hinkley",
        "learning from its first 500 values: any alarm in the 1,000 that follow",
        0.10,
        400,
        page_hinkley(1500, None),
    ),
    Quiet("ADWIN", "events at 5 %: any alarm in 10,000 values", 0.01, 100, adwin(10_000, 0.05)),
    Quiet("ADWIN", "events at 50 %: any alarm in 10,000 values", 0.01, 100, adwin(10_000, 0.5)),
)


CHANGED = (
    Changed(
        "PSI",
        "finish=length from 2 % to 19 %, 5,000 rows against 400",
        1,
        "window",
        0.99,
        200,
        at_once(lambda c: compare_psi(drawn(c, REASONS, FEW_LONG, 5000), drawn(c, REASONS, MORE_LENGTH, 400))),
    ),
    Changed(
        "PSI",
        "a new category with 10 % of the rows, 5,000 against 200",
        1,
        "window",
        0.99,
        40,
        at_once(lambda c: compare_psi(drawn(c, REASONS, SHARES, 5000), drawn(c, NEWER, NEW_SHARES, 200))),
    ),
    Changed(
        "Jensen–Shannon",
        "finish=length from 2 % to 19 %, 5,000 rows against 400",
        1,
        "window",
        0.99,
        200,
        at_once(lambda c: compare_js(drawn(c, REASONS, FEW_LONG, 5000), drawn(c, REASONS, MORE_LENGTH, 400))),
    ),
    Changed(
        "Kolmogorov–Smirnov",
        "normal, the mean up by half a deviation, 1,000 against 200",
        1,
        "window",
        0.99,
        200,
        at_once(lambda c: compare_ks(normal(c, 1000), normal(c, 200, 0.5))),
    ),
    Changed(
        "Kolmogorov–Smirnov",
        "latencies in a histogram, half as long again, 2,000 against 500",
        1,
        "window",
        0.99,
        200,
        at_once(lambda c: compare_ks(binned(c, 2000), binned(c, 500, 1.5))),
    ),
    Changed(
        "Wasserstein",
        "normal, the mean up by half a deviation, 1,000 against 200",
        1,
        "window",
        0.99,
        40,
        at_once(lambda c: compare_wasserstein(normal(c, 1000), normal(c, 200, 0.5))),
    ),
    Changed(
        "Wasserstein",
        "every twentieth latency ten times as long (KS cannot see it), 1,000 against 200",
        1,
        "window",
        0.8,
        60,
        at_once(lambda c: compare_wasserstein(Sample.of(latencies(c, 1000)), Sample.of(slowed(c, 200)))),
    ),
    Changed(
        "Embeddings (MMD)",
        "a new topic with 25 % of the rows, 150 against 150",
        1,
        "window",
        0.9,
        40,
        at_once(lambda c: compare_embeddings(vectors(c, 150), vectors(c, 150, 0.25))),
    ),
    Changed("Page–Hinkley", "the mean up by 1 deviation", 40, "value", 0.95, 400, page_hinkley_delay(1.0)),
    Changed("Page–Hinkley", "the mean down by half a deviation", 150, "value", 0.95, 400, page_hinkley_delay(-0.5)),
    Changed(
        "Page–Hinkley", "up by 1 deviation after 1,500 values, with no baseline", 40, "value", 0.85, 400, learned_delay
    ),
    Changed("ADWIN", "events from 5 % to 20 % after 2,000 values", 256, "value", 0.9, 200, adwin_delay(0.05, 0.2)),
    Changed("ADWIN", "events from 2 % to 10 % after 2,000 values", 448, "value", 0.9, 200, adwin_delay(0.02, 0.1)),
    Changed("ADWIN", "events from 2 % to 5 % after 2,000 values", 2000, "value", 0.4, 200, adwin_delay(0.02, 0.05)),
)


def share(value: float) -> str:
    return f"{value * 100:.3g} %"


def quiet_row(trial: Quiet, seen: Seen) -> str:
    low, high = interval(seen.count, seen.runs)
    found = f"{seen.count} of {seen.runs}"
    return f"| {trial.method} | {trial.setting} | {share(trial.stated)} | {found} | {share(low)} to {share(high)} |"


def changed_row(trial: Changed, seen: Seen) -> str:
    unit = trial.unit if trial.within == 1 else f"{trial.unit}s"
    stated = f"{share(trial.stated)} within {trial.within:,} {unit}"
    found = f"{seen.count} of {seen.runs}"
    median = "–" if seen.median is None else f"{seen.median:,}"
    return f"| {trial.method} | {trial.setting} | {stated} | {found} | {median} |"


def tables() -> str:
    """Both tables, as the guide has them."""
    lines = [
        "| method | nothing changes | stated at most | significant by chance | 95 % interval of the rate |",
        "|---|---|---|---|---|",
        *(quiet_row(trial, watch(trial)) for trial in QUIET),
        "",
        "| method | what changes | stated | found in time | median delay |",
        "|---|---|---|---|---|",
        *(changed_row(trial, watch(trial)) for trial in CHANGED),
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the tables into the guide."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split("<!-- trials -->\n")
    _, after = rest.split("<!-- end of trials -->")
    PAGE.write_text(f"{before}<!-- trials -->\n\n{tables()}\n\n<!-- end of trials -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
