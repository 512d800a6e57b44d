"""Verdicts and outcomes as figures for Prometheus: a bounded number of series over the last 24 hours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mainstay.ledger.counters import Sample
from mainstay.observe.outcomes import Outcome

BY = ("team", "workflow")
"""The labels of the outcome figures."""

GROUPS = 100
"""Groups that are shown; those with the most tasks."""

_SERIES = 500


def samples(
    accepted: Mapping[tuple[str, str], int], unmatched: int, outcomes: Iterable[Outcome] = ()
) -> Iterable[Sample]:
    """The figures: ``accepted`` by verdict type and by who judged, ``outcomes`` by team and workflow."""
    words = "Verdicts taken in since the control process started, by type and by who judged."
    for (name, by), count in sorted(accepted.items())[:_SERIES]:
        yield Sample("mainstay_verdicts_total", words, float(count), {"verdict": name, "by": by}, "counter")
    words = "Verdicts about calls, sessions or external ids of which no call is known yet."
    yield Sample("mainstay_verdicts_unmatched", words, float(unmatched))
    for one in outcomes:
        labels = {name: one.group.get(name) or "" for name in BY}
        yield Sample("mainstay_outcome_tasks", "Tasks of the last 24 hours.", float(one.tasks), labels)
        for name, share, words in (
            ("feedback", one.feedback, "Share of the tasks of the last 24 hours on which somebody but a judge spoke."),
            ("success", one.success, "Share of the judged tasks of the last 24 hours that succeeded."),
            (
                "override",
                one.override,
                "Share of the decided tasks of the last 24 hours that a person changed or took.",
            ),
        ):
            if share.value is not None:
                yield Sample(f"mainstay_outcome_{name}_ratio", words, share.value, labels)
        cost = one.per_success_nano
        if cost is not None:
            words = "What the judged tasks of the last 24 hours cost over those that succeeded, in US dollars."
            yield Sample("mainstay_outcome_cost_per_success_usd", words, cost / 1e9, labels)
        for name, score in sorted(one.scores.items())[:20]:
            if score.mean is not None:
                words = "Mean of the verdicts on the calls of the last 24 hours; of booleans the share of true."
                yield Sample("mainstay_outcome_score", words, score.mean, {**labels, "verdict": name})
