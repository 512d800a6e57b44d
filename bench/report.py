"""What was measured as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cases import Case, Measured
from bench.servers import ROOT

PAGE = ROOT / "docs" / "reference" / "performance.md"


@dataclass
class Line:
    """All rounds of one server in one case."""

    case: Case
    server: str
    rounds: list[Measured] = field(default_factory=list[Measured])
    against: list[Measured] = field(default_factory=list[Measured])
    """The rounds of nginx that each of them followed."""
    percentiles: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    added: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """The same, less those of the direct way in the same round."""

    @property
    def micros(self) -> float:
        """The median of the rounds."""
        return statistics.median(one.micros for one in self.rounds)

    @property
    def ratios(self) -> list[float]:
        """Each round against the round of nginx beside it."""
        return [one.micros / other.micros for one, other in zip(self.rounds, self.against, strict=True)]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        found["case"] = self.case.name
        return found


def closed_table(lines: Sequence[Line], unit: str) -> str:
    """Processor time per ``unit`` ("request", "event") and its ratio to nginx."""
    table = [
        f"| case | who | µs of CPU per {unit} (least to most) | behind it | against nginx (least to most) | {unit}s/s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for line in lines:
        micros = [one.micros for one in line.rounds]
        behind = statistics.median(one.behind for one in line.rounds)
        rate = statistics.median(one.per_second for one in line.rounds)
        ratio = "1"
        if line.against:
            ratios = line.ratios
            ratio = f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})"
        table.append(
            f"| {line.case.name} | {line.server} | {line.micros:.1f} ({min(micros):.1f} to {max(micros):.1f}) "
            f"| {f'{behind:.1f}' if behind >= 0.05 else ''} | {ratio} | {rate:,.0f} |"
        )
    return "\n".join(table)


def latency_table(lines: Sequence[Line]) -> str:
    """Added latency in milliseconds: the medians of the rounds."""
    table = [
        "| open loop | who | added p50, ms | added p90, ms | added p99, ms (least to most) |",
        "|---|---|---:|---:|---:|",
    ]
    for line in lines:
        if not line.added:
            values = [statistics.median(one[p] for one in line.percentiles) for p in ("p50", "p90", "p99")]
            table.append(
                f"| {line.case.name} | {line.server}, in all | " + " | ".join(f"{v:.2f}" for v in values) + " |"
            )
            continue
        p50, p90, p99 = ([one[p] for one in line.added] for p in ("p50", "p90", "p99"))
        table.append(
            f"| {line.case.name} | {line.server} | {statistics.median(p50):.2f} | {statistics.median(p90):.2f} "
            f"| {statistics.median(p99):.2f} ({min(p99):.2f} to {max(p99):.2f}) |"
        )
    return "\n".join(table)


def facts_table(facts: dict[str, str]) -> str:
    """Other figures."""
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in facts.items())])


def into_page(mark: str, text: str, page: Path = PAGE) -> None:
    """Put ``text`` between the page's marks of that name. Raises ``ValueError`` where they are not there."""
    before, begin, rest = page.read_text().partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise ValueError(f"{page.name} has no place for {mark}")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")
