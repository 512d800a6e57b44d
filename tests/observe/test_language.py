"""The language of a text: right or ``und``, from a sentence or two on, and unmoved by code, links and names."""

from __future__ import annotations

import pytest

from mainstay.observe.language import UNKNOWN, language, script
from mainstay.observe.language_profiles import ALONE, WORDS
from tests.observe.sentences import SENTENCES


def test_no_sentence_is_taken_for_another_language() -> None:
    wrong = {
        sentence: language(sentence)
        for code, sentences in SENTENCES.items()
        for sentence in sentences
        if language(sentence) not in (code, UNKNOWN)
    }
    assert not wrong


def test_nearly_every_sentence_is_known_and_every_language() -> None:
    cases = [(code, sentence) for code, sentences in SENTENCES.items() for sentence in sentences]
    known = [(code, sentence) for code, sentence in cases if language(sentence) == code]
    assert len(known) >= 0.95 * len(cases)
    assert {code for code, _ in known} == {*SENTENCES}


@pytest.mark.parametrize("code", [code for code, sentences in SENTENCES.items() if len(sentences) > 1])
def test_two_sentences_are_enough(code: str) -> None:
    assert language(" ".join(SENTENCES[code])) == code


def test_every_language_of_the_word_lists_is_tried() -> None:
    assert {code for languages in WORDS.values() for code in languages} <= {*SENTENCES} | {"ne"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ok",
        "12345 67890",
        "😀😀😀",
        "Hi",
        "Kubernetes Prometheus Grafana Terraform Ansible",
        "SELECT id, name, created_at FROM orders WHERE status = 'open' ORDER BY created_at DESC LIMIT 10;",
        "def total(rows):\n    return sum(row.amount for row in rows if row.amount is not None)",
        "```\nthe of and to is this that with for it you\n```",
        "Anna Schmidt, Jean Dupont, Maria García, Luca Rossi, João Silva",
        "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        "Goedemorgen",
    ],
)
def test_what_is_no_language_or_too_little_is_undetermined(text: str) -> None:
    assert language(text) == UNKNOWN


def test_code_and_links_beside_a_sentence_do_not_count() -> None:
    code = "```python\nfor row in the_rows:\n    if row is not None and row.of:\n        do(row)\n```"
    assert language(f"Warum gibt diese Funktion nicht alle Zeilen zurück?\n{code}") == "de"
    assert (
        language(
            "Подскажите, пожалуйста, что это значит и как мне быть? Error: connection refused to https://example.com/the/of/and"
        )
        == "ru"
    )


def test_scripts() -> None:
    assert script("Привет, world") == "Cyrillic"
    assert script("東京タワー") in ("Han", "Kana")
    assert script("123") is None
    assert script("नमस्ते") == "Devanagari"
    assert len(set(ALONE.values())) == len(ALONE)


def test_a_mixed_text_is_what_most_of_it_is() -> None:
    assert language("Спасибо за помощь, я не могу войти в свой аккаунт, потому что Windows update failed") == "ru"
    assert language("日本語 is the Japanese name of the language, and it is written with three scripts") == "en"


def test_a_text_that_is_half_of_each_is_undetermined() -> None:
    assert (
        language("Ich habe das nicht bekommen und es ist noch nicht hier. This is not what you said and it was late.")
        == UNKNOWN
    )
    assert (
        language("Je ne sais pas pourquoi cette page est vide. No sé por qué esta página está en blanco, gracias.")
        == UNKNOWN
    )


def test_a_long_text_is_read_in_part() -> None:
    assert language("Where is my parcel, and when will it be here? " * 100_000) == "en"
