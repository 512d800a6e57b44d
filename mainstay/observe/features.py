"""What drift is measured on that comes from content: length, language, and whether an answer refuses.

Pure functions of the text; what they give (a number, a code) can be kept where the text itself may not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mainstay.observe.language import language, script

RefusedBy = Literal["provider", "filter", "words"]

_HEAD = 400
"""Characters of an answer that are looked at: who declines says so at once."""

_ACT = (
    r"(?:help|assist|comply|fulfil+|provide|create|write|generate|engage|participate|support|answer|discuss|share|"
    r"give|do that|continue|offer|produce|facilitate|respond|process this request)"
)
_OPENING = r"(?:i['’]?m|i am|we['’]?re|we are)"
_NOT = r"(?:can['’]?t|cannot|can not|won['’]?t|will not|am not able to|am unable to|['’]m not able to|['’]m unable to)"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # English
        rf"\b(?:i|we) ?{_NOT} (?:\w+ly )?(?:be able to )?{_ACT}\b",
        rf"\b{_OPENING} (?:\w+ly )?(?:not able|unable|not allowed|not permitted|not comfortable) (?:to )?{_ACT}",
        r"\b(?:i|we) (?:must|have to|need to|will have to)? ?(?:respectfully |politely )?(?:decline|refuse)\b",
        r"\bas an ai(?: language)?(?: model| assistant)?, i (?:can['’]?t|cannot|am (?:not able|unable)|do not|don['’]t)\b",
        r"\b(?:this|that|your) request (?:violates|goes against|falls outside|is against)\b",
        r"\bagainst (?:my|our) (?:guidelines|policy|policies|programming)\b",
        # German
        r"\b(?:dabei|damit|hierbei|bei dieser anfrage) kann ich (?:\w+ )?(?:leider )?nicht (?:helfen|dienen|behilflich sein)\b",
        r"\bich (?:kann|darf|werde) (?:\w+ ){0,6}nicht (?:helfen|unterstützen|erstellen|beantworten|bereitstellen|erfüllen)\b",
        # French
        r"\bje ne (?:peux|suis) pas (?:en mesure (?:de|d['’]) ?)?(?:vous )?(?:aider|répondre|fournir|créer|assister)",
        # Spanish
        r"\bno (?:puedo|me es posible) (?:ayudar|proporcionar|crear|cumplir|responder|asistir|ofrecer)",
        # Italian
        r"\bnon (?:posso|sono in grado di) (?:aiutar|fornir|crear|rispond|soddisfar|assister)",
        # Portuguese
        r"\bnão (?:posso|consigo) (?:ajud|fornec|cri[ae]r|cumprir|respond|atend)",
        # Dutch
        r"\b(?:daar|hier)(?:bij|mee)? kan ik (?:je |u )?(?:helaas )?niet (?:bij )?helpen\b",
        r"\bik kan (?:\w+ ){0,5}niet (?:helpen|beantwoorden|verstrekken|maken)\b",
        # Polish, Russian
        r"\bnie mogę (?:\w+ ){0,2}(?:pomóc|udzielić|odpowiedzieć|stworzyć)",
        r"\bя не могу (?:\w+ ){0,2}(?:помочь|предоставить|ответить|создать|выполнить)",
        # Chinese, Japanese
        r"(?:抱歉|对不起|很遗憾)[，,、 ]{0,2}(?:但)?(?:我|作为).{0,20}(?:无法|不能)(?:帮助|提供|协助|回答|满足|参与)",
        r"(?:申し訳|すみません|恐れ入り).{0,40}(?:お手伝い|お答え|対応|提供)(?:することは|は)?でき(?:ません|かねます)",
    )
)


def refused(answer: str | None, finish: str | None = None, refusal: str | None = None) -> RefusedBy | None:
    """Who refused: the ``provider`` says that the model did, its ``filter`` stopped it, or the answer's ``words`` do.

    ``finish`` is the canonical finish reason, ``refusal`` the provider's own field of that name. The words are found by
    a short list of phrases at the answer's beginning, in eleven languages: good for a rate and its change, not for the
    judgment of one answer. To be unable ("I can't find order 12") is no refusal.
    """
    if refusal or finish == "refusal":
        return "provider"
    if finish == "content_filter":
        return "filter"
    head = (answer or "").lstrip()[:_HEAD]
    return "words" if any(pattern.search(head) for pattern in _PATTERNS) else None


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Of one text: ``characters`` as code points, ``words`` as runs without white space, ``script``, ``language``."""

    characters: int
    words: int
    script: str | None
    language: str


def text_features(text: str) -> TextFeatures:
    """The features of an input or an answer."""
    return TextFeatures(len(text), len(text.split()), script(text), language(text))
