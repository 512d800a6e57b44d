"""What texts are about, as a category: topics found in a reference window, and the nearest of them for any text.

Spherical k-means over words (Dhillon and Modha 2001), in plain Python: some seconds for 2,000 texts, once per reference.
A text that is like none of the topics is ``other``; when people begin to ask about something new, it is ``other`` that
grows. Words stand in a topic only if ``least_texts`` texts hold them, so that no single person's name or number does.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mainstay.observe.language import STOP_WORDS
from mainstay.observe.language_profiles import script_of

OTHER = "other"
"""The topic of texts that are like none of the reference's."""

_READ = 4000  # characters of a text
_VOCABULARY = 2000
_ROUNDS = 15
_NAMED = 3
_KEPT = 60  # words kept per topic
_LIKE = 0.12
"""The least cosine of a text with its topic."""

_WORD = re.compile(r"[^\W\d_]{2,}")
_UNSPACED = frozenset({"Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar"})

_Weights = dict[str, float]


def terms(text: str) -> set[str]:
    """The words that a topic may be told by: lower case, no function words; pairs of letters where words are not spaced."""
    found: set[str] = set()
    for word in _WORD.findall(text[:_READ].lower()):
        if script_of(word[0]) in _UNSPACED:
            found.update(word[at : at + 2] for at in range(len(word) - 1))
        elif len(word) > 2 and word not in STOP_WORDS:
            found.add(word)
    return found


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a reference: each one's name (its heaviest words) and words, and how rare each word is."""

    names: tuple[str, ...]
    weights: tuple[Mapping[str, float], ...]
    rarity: Mapping[str, float]

    def of(self, text: str) -> str:
        """The name of the topic that ``text`` is nearest to, or ``other``."""
        words = _unit({word: self.rarity[word] for word in terms(text) if word in self.rarity})
        likeness, at = _nearest(words, self.weights)
        return self.names[at] if likeness >= _LIKE else OTHER

    def state(self) -> dict[str, Any]:
        """The topics as JSON."""
        return {
            "names": list(self.names),
            "weights": [dict(words) for words in self.weights],
            "rarity": dict(self.rarity),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Topics:
        """The topics whose ``state()`` that was."""
        return cls(tuple(state["names"]), tuple(state["weights"]), state["rarity"])


def find_topics(texts: Sequence[str], count: int = 12, *, least_texts: int = 5, seed: int = 0) -> Topics:
    """At most ``count`` topics of ``texts``, fewer where the texts do not hold so many.

    Words that more than half of the texts or fewer than ``least_texts`` hold are not looked at.
    """
    bags = [terms(text) for text in texts]
    held = Counter(word for bag in bags for word in bag)
    common = sorted(
        (word for word, n in held.items() if least_texts <= n <= len(texts) / 2), key=lambda w: (-held[w], w)
    )
    rarity = {word: math.log(len(texts) / held[word]) for word in common[:_VOCABULARY]}
    rows = [_unit({word: rarity[word] for word in sorted(bag) if word in rarity}) for bag in bags]
    rows = [row for row in rows if row]
    if not rows or count < 1:
        return Topics((), (), rarity)
    centres = _clustered(rows, _spread(rows, count, random.Random(seed)), least_texts)
    named: dict[str, _Weights] = {}
    for centre in centres:
        heaviest = sorted(centre, key=lambda word: (-centre[word], word))
        named.setdefault(", ".join(heaviest[:_NAMED]), {word: centre[word] for word in heaviest[:_KEPT]})
    return Topics(tuple(named), tuple(_unit(words) for words in named.values()), rarity)


def _spread(rows: Sequence[_Weights], count: int, chance: random.Random) -> list[_Weights]:
    """First centres far apart (k-means++, Arthur and Vassilvitskii 2007)."""
    centres = [rows[chance.randrange(len(rows))]]
    apart = [1.0 - _cosine(row, centres[0]) for row in rows]
    while len(centres) < count and sum(apart) > 1e-9:
        centres.append(rows[chance.choices(range(len(rows)), apart)[0]])
        apart = [max(0.0, min(old, 1.0 - _cosine(row, centres[-1]))) for old, row in zip(apart, rows, strict=True)]
    return centres


def _clustered(rows: Sequence[_Weights], centres: list[_Weights], least_texts: int) -> list[_Weights]:
    """The centres once the rows no longer change theirs; those of fewer than ``least_texts`` rows are dropped."""
    places: list[int] = []
    for _ in range(_ROUNDS):
        now = [_nearest(row, centres)[1] for row in rows]
        if now == places:
            break
        places = now
        sums: list[defaultdict[str, float]] = [defaultdict(float) for _ in centres]
        for row, place in zip(rows, places, strict=True):
            mine = sums[place]
            for word, weight in row.items():
                mine[word] += weight
        centres = [_unit(total) if total else centre for total, centre in zip(sums, centres, strict=True)]
    sizes = Counter(places)
    order = sorted(range(len(centres)), key=lambda place: (-sizes[place], place))
    return [centres[place] for place in order if sizes[place] >= least_texts]


def _nearest(row: Mapping[str, float], centres: Sequence[Mapping[str, float]]) -> tuple[float, int]:
    best, at = 0.0, -1
    for place, centre in enumerate(centres):
        likeness = _cosine(row, centre)
        if likeness > best or at < 0:
            best, at = likeness, place
    return best, at


def _cosine(row: Mapping[str, float], centre: Mapping[str, float]) -> float:
    return sum(weight * centre[word] for word, weight in row.items() if word in centre)


def _unit(row: Mapping[str, float]) -> _Weights:
    length = math.sqrt(sum(weight * weight for weight in row.values()))
    return {word: weight / length for word, weight in row.items()} if length else {}
