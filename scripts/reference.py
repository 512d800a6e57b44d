"""Writes the parts of docs/reference that follow from the code: bundles, metrics, providers, fields of each format.

`make docs` writes them; tests/docs/test_reference.py fails when one of them is no longer what the code says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mainstay import tracing
from mainstay.edge.control_system import samples
from mainstay.ledger.counters import Counters, Sample
from mainstay.observe import outcome_metrics
from mainstay.observe.otlp_out import Told
from mainstay.observe.outcomes import Outcome, Score, Share
from mainstay.registry import schema
from mainstay.upstream.providers import PROVIDERS
from mainstay.wire.bedrock_embeddings import COHERE, TITAN
from mainstay.wire.dialects import dialects
from mainstay.wire.gemini_embeddings import BATCH, PREDICT

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"

NAMES = {
    "openai": "OpenAI chat completions",
    "openai-responses": "OpenAI responses",
    "anthropic": "Anthropic messages",
    "gemini": "Gemini generateContent",
    "bedrock": "Bedrock Converse",
}
_UNITS = (
    ("_seconds", "seconds"),
    ("_usd_total", "US dollars"),
    ("_usd", "US dollars"),
    ("_ratio", "share"),
    ("_bytes", "bytes"),
    ("_total", "count"),
)
_STATES = {"mainstay_breaker_state": "state", "mainstay_outcome_score": "as the type says"}


class _Everything(dict[str, float]):
    """A gateway's gauges, of which every one is there."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> float:
        return 0.0


def _judged() -> Iterable[Sample]:
    """Every figure about verdicts, once."""
    share, score = Share(1, 1), Score(1, 1.0, None)
    one = Outcome({}, 1, 1, 0, share, share, share, 0, 0, {"": score})
    return outcome_metrics.samples({("", ""): 1}, 0, [one])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows),
        "",
    ]


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS if name.endswith(end)), _STATES.get(name, "count"))


def metrics() -> str:
    """Every metric of ``/metrics``: its sort, unit, labels and meaning."""
    counted = [metric for metric in vars(Counters()).values() if hasattr(metric, "labels")]
    rows = [
        (metric.name, "histogram" if hasattr(metric, "bounds") else "counter", metric.labels, metric.help)
        for metric in counted
    ]
    gateway = SimpleNamespace(gateway="", gauges=_Everything(), breakers={"": "closed"})
    status: Any = SimpleNamespace(lag_seconds=0.0, lag_bytes=0, stored=0, dropped=0)
    control: Any = SimpleNamespace(
        ingest=SimpleNamespace(status=lambda: status),
        link=SimpleNamespace(gateways=lambda: [gateway]),
        judging=SimpleNamespace(samples=_judged),
        tracing=SimpleNamespace(samples=lambda: tracing.samples(0, 0, 0, Told(), 0.0)),
    )
    rows += [(sample.name, sample.sort, tuple(sample.labels), sample.help) for sample in samples(control)]
    lines = [
        "# Metrics",
        "",
        "*Made from the code by `make docs`; edit the help texts there, not this file.*",
        "",
        "`GET /metrics` has these in Prometheus's text format, summed over all gateway processes where they have no label",
        "`gateway`. Counters and histograms begin at zero when the control process starts. A label has at most 200 values",
        "and a metric 2,000 label sets; what comes on top counts under `other`.",
        "",
    ]
    cells = [
        (f"`{name}`", sort, _unit(name), ", ".join(f"`{label}`" for label in labels) or "", text)
        for name, sort, labels, text in rows
    ]
    return "\n".join([*lines, *_table(("metric", "sort", "unit", "labels", "meaning"), cells)])


def providers() -> str:
    """The rows of the provider table."""
    lines = [
        "# Provider kinds",
        "",
        "*Made from `mainstay/upstream/providers.py` by `make docs`; edit that, not this file.*",
        "",
        "What `kind` stands for: the wire format, the address, how the key is shown, what must be given beside a key. See",
        "[Providers](../guide/providers.md) for how to use them.",
        "",
    ]
    rows = [
        (
            f"`{row.kind}`",
            f"`{row.wire}`",
            f"`{row.base_url}`",
            {"sigv4": "AWS signature, or bearer", "google": "bearer, from a service account or a token"}.get(
                row.auth, f"`{row.auth}`" if row.auth not in ("bearer", "none") else row.auth
            ),
            ", ".join(f"`{name}`" for name in row.needs),
        )
        for row in PROVIDERS.values()
    ]
    return "\n".join([*lines, *_table(("kind", "wire", "address", "key shown as", "must be given"), rows)])


def fields() -> str:
    """What becomes of each request field of each format when it is translated into another."""
    known = dialects().by_name
    lines = [
        "# Fields and translation",
        "",
        "*Made from the tables of `mainstay/wire` by `make docs`; edit those, not this file.*",
        "",
        "These tables hold where a call is **translated**: the target speaks another format than the caller. Where both",
        "speak the same, the body passes through untouched and none of this applies. A *hint* cannot change the answer: a",
        "target without a word for it does not get it, and `x-mainstay-dropped` names it. A *refused* field would change",
        "the answer and has no equivalent: the reply is a 400 that names it. So is any field that is in no table.",
        "",
        "## What each format can be told",
        "",
        "Of what callers can mean, in any format. *mapped*: said; *hint*: dropped and named; *refused*: a 400.",
        "",
    ]
    said: dict[str, list[str]] = {}
    for dialect in known.values():
        for name, fate in dialect.expresses.items():
            said.setdefault(name, []).append(str(fate))
    rows = [(f"`{name}`", *fates) for name, fates in said.items()]
    lines += _table(("meaning", *(f"`{name}`" for name in known)), rows)
    for dialect in known.values():
        lines += [f"## {NAMES[dialect.name]} (`{dialect.name}`)", ""]
        lines += _table(
            ("field", "becomes", "note"),
            (
                (f"`{name}`", f"`{field.to}`" if field.to else "see the note", field.note)
                for name, field in dialect.fields.items()
                if field.fate == "mapped"
            ),
        )
        for fate, words in (("hint", "Hints"), ("refused", "Refused")):
            grouped: dict[str, list[str]] = {}
            for name, field in dialect.fields.items():
                if field.fate == fate:
                    grouped.setdefault(field.note, []).append(f"`{name}`")
            if grouped:
                lines += [f"{words}:", ""]
                lines += [f"* {', '.join(names)}{f': {note}' if note else ''}" for note, names in grouped.items()]
                lines.append("")
    lines += [
        "## Embeddings",
        "",
        "Of OpenAI's embeddings request, toward a target that makes embeddings in another format.",
        "",
    ]
    embedders = (BATCH, PREDICT, TITAN, COHERE)
    names = dict.fromkeys(name for embedder in embedders for name in embedder.fields)
    lines += _table(
        ("field", *(embedder.title for embedder in embedders)),
        ((f"`{name}`", *(str(embedder.fields[name]) for embedder in embedders)) for name in names),
    )
    return "\n".join(lines)


def documents() -> dict[str, str]:
    """Every generated document by its file name."""
    made = {
        "configuration.md": schema.reference(),
        "metrics.md": metrics(),
        "providers.md": providers(),
        "fields.md": fields(),
    }
    return {name: text.rstrip() + "\n" for name, text in made.items()}


def main() -> None:
    """Write them all."""
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
