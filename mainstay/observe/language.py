"""Which script and language a text is written in; ``und`` rather than a guess where that is not clear.

Enough to see that traffic which was English is now a tenth Portuguese; no judgment of one short message. Texts of one
script and one language of that script are known from two or three words on; languages that share a script need some of
their commonest words, hence a sentence or two. Languages that are not in the tables come out as ``und``, or rarely as
the nearest relative that is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from mainstay.observe.language_profiles import ALONE, LETTERS, WORDS, script_of

UNKNOWN = "und"
"""ISO 639-2's code for a language that is undetermined."""

_READ = 2000  # characters: more do not change the answer
_WORDS = 200
_LEAST_LETTERS = 2
_LEAST_SCORE = 1.2
_LEAST_PART = 0.12  # of all words; of code and lists of names it is less
_LEAST_APART = 0.5
_LEAD = 1.5  # times that of any other language
_OWN_LETTER = 0.5
_CODE_PART = 1 / 6  # of a line's words; with so many marks of a program it is one

_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+|[!-~]*\d[!-~]*|<[^<>\n]*>", re.DOTALL)
_CODE_MARK = re.compile(r"\w\(|\w\.\w|\w_\w|[={}\[\]]|;$|\):?$|</")
# Vowel signs and joiners of Arabic and the Indic scripts are no letters to Python, but stand within words.
_LETTER = r"(?:[^\W\d_]|[\u0300-\u036f\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f\u0951-\u0957\u200c\u200d])"
_WORD = re.compile(rf"{_LETTER}+(?:['’]{_LETTER}+)*")
_KNOWN: dict[str, dict[str, frozenset[str]]] = {
    script: {code: frozenset(words.split()) for code, words in languages.items()} for script, languages in WORDS.items()
}
_SHARED: dict[str, Counter[str]] = {
    script: Counter(word for words in languages.values() for word in words) for script, languages in _KNOWN.items()
}
STOP_WORDS = frozenset(word for languages in _KNOWN.values() for words in languages.values() for word in words)
"""The commonest words of every language in the tables."""


def script(text: str) -> str | None:
    """The script of most of the letters (``Latin``, ``Cyrillic``, ``Han`` …), None where there are hardly any letters."""
    found = _scripts(text[:_READ])
    return max(found, key=lambda name: (found[name], name)) if found.total() >= _LEAST_LETTERS else None


def language(text: str) -> str:
    """The ISO 639-1 code of the text's language, or ``und``."""
    prose = _prose(text[:_READ])
    found = _scripts(prose)
    letters = found.total()
    if letters < _LEAST_LETTERS:
        return UNKNOWN
    eastern = found["Han"] + found["Kana"]
    if eastern * 3 > letters:  # one of its letters says as much as three of an alphabet
        return "ja" if found["Kana"] * 10 >= eastern else "zh"
    main = max(found, key=lambda name: (found[name], name))
    if found[main] * 2 < letters:
        return UNKNOWN
    return ALONE.get(main) or _by_words(main, prose)


def _prose(text: str) -> str:
    """The text without code, links and addresses: programs hold the commonest English words too."""
    lines: list[str] = []
    for line in _NOT_PROSE.sub(" ", text).splitlines():
        marks = len(_CODE_MARK.findall(line.strip()))
        if marks < 2 or marks < _CODE_PART * len(line.split()):
            lines.append(line)
    return "\n".join(lines)


def _scripts(text: str) -> Counter[str]:
    return Counter(name for letter in text if (name := script_of(letter)) is not None)


def _by_words(name: str, prose: str) -> str:
    """The language of that script whose commonest words and own letters the text holds, with a lead on all others."""
    words = [word.lower().replace("’", "'") for word in _WORD.findall(prose)[:_WORDS]]
    languages, shared = _KNOWN.get(name, {}), _SHARED.get(name, Counter[str]())
    evidence = {code: _evidence(words, common, LETTERS.get(code, ""), shared) for code, common in languages.items()}
    if not evidence:
        return UNKNOWN
    best = max(evidence, key=lambda code: (sum(evidence[code].values()), code))
    found = evidence[best]
    told = sum(words.count(word) for word in found)
    if sum(found.values()) < _LEAST_SCORE or told < _LEAST_PART * len(words):
        return UNKNOWN
    # Relatives share most of their words, so what decides between two are those that only one of them has.
    for code, other in evidence.items():
        ours = sum(score for word, score in found.items() if word not in other)
        theirs = sum(score for word, score in other.items() if word not in found)
        if code != best and (ours < _LEAST_APART or ours < _LEAD * theirs):
            return UNKNOWN
    return best


def _evidence(
    words: Sequence[str], common: frozenset[str], letters: str, shared: Mapping[str, int]
) -> dict[str, float]:
    """The words that speak for a language, and how much: less the more languages have them, less for mere letters."""
    found: dict[str, float] = {}
    for word in words:
        if word in common:
            found[word] = found.get(word, 0.0) + 1 / math.sqrt(shared[word])
        elif letters and not set(letters).isdisjoint(word):
            found[word] = found.get(word, 0.0) + _OWN_LETTER
    return found
