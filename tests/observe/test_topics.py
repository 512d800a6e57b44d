"""Topics: found in a reference without being told, named by their words, stable, and ``other`` for what is new."""

from __future__ import annotations

import json
import random
from collections import Counter

from mainstay.observe.drift_categories import compare_psi
from mainstay.observe.drift_inputs import Counts
from mainstay.observe.topics import OTHER, Topics, find_topics, terms

WORDS = {
    "delivery": "parcel delivery courier tracking shipment address warehouse delayed package driver",
    "billing": "invoice payment card charged subscription receipt billing price tax amount",
    "account": "password login account email verification locked username reset browser session",
}
NEW = "allergy ingredient recipe gluten nuts vegan kitchen oven sugar flour"


def texts(chance: random.Random, words: str, count: int) -> list[str]:
    return [
        f"Hello, please tell me what to do about the {' and the '.join(chance.sample(words.split(), 5))} of my order"
        for _ in range(count)
    ]


def reference(seed: int = 1, each: int = 120) -> list[str]:
    chance = random.Random(seed)
    found = [text for words in WORDS.values() for text in texts(chance, words, each)]
    chance.shuffle(found)
    return found


def test_topics_are_found_and_told_apart() -> None:
    topics = find_topics(reference(), 3)
    assert len(topics.names) == 3
    chance = random.Random(2)
    own = [{topics.of(text) for text in texts(chance, words, 50)} for words in WORDS.values()]
    assert all(len(names) == 1 for names in own)
    assert len(set.union(*own)) == 3
    for (name,) in own:
        assert any({*name.split(", ")} <= {*words.split()} for words in WORDS.values()), "its words are its name"


def test_what_is_new_is_other_and_drifts() -> None:
    before = reference()
    topics = find_topics(before, 6)
    chance = random.Random(3)
    after = [*reference(4, 40), *texts(chance, NEW, 40)]
    counted = [Counts.of(map(topics.of, side)) for side in (before, after)]
    assert counted[0].share(OTHER) < 0.02
    assert counted[1].share(OTHER) > 0.2
    found = compare_psi(*counted)
    assert found.alarm
    assert "other" in found.sentences("topic")[0]


def test_the_same_texts_give_the_same_topics_and_a_restart_keeps_them() -> None:
    topics = find_topics(reference(), 4)
    assert find_topics(reference(), 4) == topics
    again = Topics.restore(json.loads(json.dumps(topics.state())))
    assert Counter(map(again.of, reference(5))) == Counter(map(topics.of, reference(5)))


def test_no_word_of_a_few_texts_is_kept() -> None:
    before = reference()
    for place in range(4):
        before[place] += " Rumpelstiltskin"
    topics = find_topics(before, 3)
    assert "rumpelstiltskin" not in json.dumps(topics.state())


def test_texts_without_words_have_no_topic() -> None:
    assert find_topics(["", "1 2 3", "of the"], 3).of("parcel") == OTHER
    assert find_topics(reference(), 3).of("") == OTHER
    assert find_topics([], 3).names == ()


def test_terms() -> None:
    assert terms("Where is the PARCEL of 4711?") == {"parcel"}
    assert terms("退款申请") == {"退款", "款申", "申请"}
