"""What a comparison of two windows found: how far apart they are, whether that may be chance, and what moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Method = Literal["psi", "js", "ks", "wasserstein", "mmd"]
Size = Literal["none", "moderate", "large"]
How = Literal["chi-square", "permutation", "exact", "asymptotic", "bridge"]


def percent(share: float) -> str:
    """A share as people write it: two significant digits below 10 %, whole numbers above."""
    value = share * 100
    if value >= 9.95 or value == 0:
        return f"{value:.0f} %"
    return f"{value:.2g} %" if value >= 0.001 else "under 0.001 %"


@dataclass(frozen=True, slots=True)
class Shift:
    """One category's share, ``before`` in the reference and ``after`` in the window.

    ``part`` is its part of the whole divergence, from 0 to 1. ``new``: the reference has none of it; ``gone``: the
    window has none.
    """

    category: str
    before: float
    after: float
    part: float

    @property
    def kind(self) -> Literal["new", "gone", "more", "less"]:
        """What became of it."""
        if self.before == 0:
            return "new"
        if self.after == 0:
            return "gone"
        return "more" if self.after > self.before else "less"

    def sentence(self, feature: str) -> str:
        """``finish=length went from 2 % to 19 %``."""
        name = f"{feature}={self.category}"
        if self.kind == "new":
            return f"{name} is new: {percent(self.after)}"
        if self.kind == "gone":
            return f"{name} is gone: it was {percent(self.before)}"
        return f"{name} went from {percent(self.before)} to {percent(self.after)}"


@dataclass(frozen=True, slots=True)
class Moved:
    """A summary of a number (``what``: its median, a percentile), in the feature's unit; or a share, as ``share`` says."""

    what: str
    before: float
    after: float
    share: bool = False

    def sentence(self, feature: str) -> str:
        """``input_tokens: the median went from 210 to 540``."""
        if self.share:
            return f"{feature}: {self.what} went from {percent(self.before)} to {percent(self.after)}"
        return f"{feature}: {self.what} went from {self.before:.4g} to {self.after:.4g}"


@dataclass(frozen=True, slots=True)
class Finding:
    """The comparison of a window with its reference by one method.

    ``value`` is the statistic, ``p_value`` the probability of one as large where nothing has changed, ``how`` the way it
    was found. ``effect`` is what is held against ``floor``: the value less what chance alone makes of it, where that can
    be said. ``threshold`` is the value from which on the change is significant at ``alpha``, None where the p-value
    was found by permutation. ``reasons`` explain the value, the most important first. ``examples`` are positions in
    the window of the rows that are most unlike the reference (embeddings). ``note`` says what the value is measured in.
    """

    method: Method
    value: float
    effect: float
    floor: float
    size: Size
    p_value: float
    alpha: float
    how: How
    reference_rows: int
    window_rows: int
    threshold: float | None = None
    reasons: tuple[Shift | Moved, ...] = ()
    examples: tuple[int, ...] = ()
    note: str = field(default="")

    @property
    def significant(self) -> bool:
        """Chance makes such a value at most at the rate ``alpha``."""
        return self.p_value <= self.alpha

    @property
    def material(self) -> bool:
        """The change is large enough to matter, chance or not."""
        return self.effect >= self.floor

    @property
    def alarm(self) -> bool:
        """Significant and material: a million rows make everything significant, ten rows everything large."""
        return self.significant and self.material

    def sentences(self, feature: str, most: int = 3) -> list[str]:
        """Why, in at most ``most`` sentences about ``feature``."""
        return [reason.sentence(feature) for reason in self.reasons[:most]]


def size_of(effect: float, moderate: float, large: float) -> Size:
    """The label of an effect."""
    return "large" if effect >= large else "moderate" if effect >= moderate else "none"
