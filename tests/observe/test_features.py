"""The features of content: refusals by the provider's word and by the answer's, lengths, language."""

from __future__ import annotations

import pytest

from mainstay.observe.features import refused, text_features

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I cannot provide instructions for making explosives.",
    "Sorry, I am unable to help with this.",
    "I'm not able to generate that kind of content.",
    "I won't be able to assist with hacking into an account.",
    "As an AI language model, I cannot give medical advice.",
    "I must respectfully decline to write this.",
    "Your request violates our usage policy.",
    "That is against my guidelines.",
    "We cannot comply with this request.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Ich kann dir bei dieser Anfrage leider nicht helfen.",
    "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "Lo siento, pero no puedo ayudar con eso.",
    "Mi dispiace, ma non posso aiutarti con questa richiesta.",
    "Desculpe, mas não posso ajudar com isso.",
    "Het spijt me, maar daar kan ik je niet bij helpen.",
    "Przykro mi, ale nie mogę w tym pomóc.",
    "Извините, но я не могу помочь с этим.",
    "抱歉，我无法提供这方面的帮助。",
    "申し訳ありませんが、そのご依頼にはお答えできません。",
]

ANSWERS = [
    "",
    "Your order was shipped on Monday.",
    "I can't find order 4711. Could you check the number?",
    "I'm sorry to hear that your parcel is late. Here is what you can do:",
    "Unfortunately the flight cannot be changed online, but the desk at the airport can do it.",
    "You can't help but notice the colours of this painting.",
    "The server cannot provide the file because the disk is full.",
    "Here is the letter: Dear Sir, we regret that the bank refused your application.",
    "Ich kann Ihnen gern helfen. Die Lieferung kommt morgen.",
    "Je ne peux pas trouver votre commande.",
    "No puedo encontrar el pedido, ¿me da el número?",
    "Ik kan uw bestelling niet vinden.",
    "Я не могу найти ваш заказ.",
    "A summary of the contract follows. " * 20 + "I cannot help with that.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_known_by_its_words(answer: str) -> None:
    assert refused(answer) == "words"


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_none(answer: str) -> None:
    assert refused(answer, "stop") is None


def test_the_providers_own_word_comes_first() -> None:
    assert refused("Sure!", "refusal") == "provider"
    assert refused(None, "stop", "I can't do that.") == "provider"
    assert refused("I can't help with that.", "content_filter") == "filter"
    assert refused(None) is None
    assert refused("Sure!", "length", "") is None


def test_the_features_of_a_text() -> None:
    features = text_features("Wo bleibt mein Paket? Ich habe es nicht bekommen.")
    assert (features.characters, features.words) == (49, 9)
    assert (features.script, features.language) == ("Latin", "de")
    assert text_features("").words == 0
