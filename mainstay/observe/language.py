"""Which script and language a text is written in; ``und`` rather than a guess where that is not clear.

Enough to see that traffic which was English is now a tenth Portuguese; no judgment of one short message. Texts of one
script and one language of that script are known from two or three words on; languages that share a script need some of
their commonest words, hence a sentence or two. Languages that are not in the tables come out as ``und``, or rarely as
the nearest relative that is.
"""

from __future__ import annotations

import re
from collections import Counter

from mainstay.observe.language_profiles import ALONE, LETTERS, WORDS, script_of

UNKNOWN = "und"
"""ISO 639-2's code for a language that is undetermined."""

_READ = 2000  # characters: more do not change the answer
_WORDS = 200
_LEAST_LETTERS = 2
_LEAST_SCORE = 1.5
_LEAST_PART = 0.12  # of all words; of code and lists of names it is less
_LEAD = 1.25  # times the second best
_OWN_LETTER = 0.5

_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+|<[^<>\n]*>", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
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
    prose = _NOT_PROSE.sub(" ", text[:_READ])
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


def _scripts(text: str) -> Counter[str]:
    return Counter(name for letter in text if (name := script_of(letter)) is not None)


def _by_words(name: str, prose: str) -> str:
    """The language of that script whose commonest words and own letters the text holds, with a lead on all others."""
    words = [word.lower().replace("’", "'") for word in _WORD.findall(prose)[:_WORDS]]
    languages, shared = _KNOWN.get(name, {}), _SHARED.get(name, Counter[str]())
    scores = dict.fromkeys(languages, 0.0)
    for word in words:
        for code, common in languages.items():
            if word in common:
                scores[code] += 0.5 + 0.5 / shared[word]
            own = LETTERS.get(code)
            if own is not None and not set(own).isdisjoint(word):
                scores[code] += _OWN_LETTER
    if not scores:
        return UNKNOWN
    ranked = sorted(scores, key=lambda code: (-scores[code], code))
    best, second = scores[ranked[0]], scores[ranked[1]]
    certain = best >= _LEAST_SCORE and best >= _LEAST_PART * len(words) and best >= _LEAD * second
    return ranked[0] if certain else UNKNOWN
