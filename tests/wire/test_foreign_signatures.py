"""Each format takes back only the thoughts that its own provider signed, translated or passed through."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mainstay.core.event import Citation, End, Finish, Start, TextDelta, ThinkingDelta, ThinkingSigned
from mainstay.core.model import ModelFacts
from mainstay.core.request import Message, Request, Text, Thinking
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.bedrock import Bedrock
from mainstay.wire.dialect import Dialect
from mainstay.wire.gemini import Gemini
from mainstay.wire.openai_chat import OpenAIChat
from mainstay.wire.openai_responses import OpenAIResponses

FACTS = ModelFacts(reasoning=True)
MADE = {
    "gemini": Thinking("a gemini thought", "gemini:QUJD"),
    "gemini, no text": Thinking("", "gemini:QUJD", redacted=True),
    "openai": Thinking("an openai thought", "openai.gAAAA", id="rs_1"),
    "openai, no text": Thinking("", "openai.gAAAA", redacted=True),
    "anthropic": Thinking("a claude thought", "RXJ2b2RDS2s="),
    "anthropic, no text": Thinking("", "RXJ2b2RDS2s="),
    "anthropic, redacted": Thinking("", "EmwKAhgB", redacted=True),
}
TARGETS: dict[str, tuple[Dialect, str, str]] = {
    "openai": (OpenAIChat(), "gpt-5", "nobody"),
    "openai-responses": (OpenAIResponses(), "gpt-5", "openai"),
    "anthropic": (Anthropic(), "claude-sonnet-4-5", "anthropic"),
    "gemini": (Gemini(), "gemini-3-pro", "gemini"),
    "bedrock": (Bedrock(), "anthropic.claude-sonnet-4-5-v1:0", "anthropic"),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("made", MADE)
def test_only_own_thoughts_go_back(made: str, target: str) -> None:
    dialect, model, own = TARGETS[target]
    thought = MADE[made]
    talk = (
        Message("user", (Text("one"),)),
        Message("assistant", (thought, Text("two"))),
        Message("user", (Text("three"),)),
    )
    written = dialect.write_request(Request(model, talk, max_tokens=9000), model, FACTS)
    text = written.body.decode()
    bare = (thought.signature or "").removeprefix("gemini:").removeprefix("openai.")
    if made.startswith(own):
        assert bare in text
        assert not any("thinking" in name for name in written.dropped)
    else:
        assert bare not in text
        assert "redacted" not in text
        if target != "gemini":  # which takes the words of others as unsigned thoughts
            assert thought.text == "" or thought.text not in text
        assert any("thinking" in name for name in written.dropped), "what is left out is named"
    assert "mainstay." not in text
    assert '"two"' in text


@pytest.mark.parametrize("made", MADE)
def test_a_thought_survives_the_way_over_a_responses_caller(made: str) -> None:
    """What a Responses caller gets as encrypted_content and sends back is what the provider had given, exactly."""
    thought = MADE[made]
    assert thought.signature is not None
    events = [Start("r", "m"), *([ThinkingDelta(thought.text)] if thought.text else [])]
    events += [ThinkingSigned(thought.signature, thought.redacted), TextDelta("two"), Finish("stop"), End()]
    reply = json.loads(OpenAIResponses().write_reply(events, request=b'{"model":"m","input":"one"}'))
    back = [{"role": "user", "content": "one"}, *reply["output"], {"role": "user", "content": "three"}]
    read = OpenAIResponses().read_request(json.dumps({"model": "m", "input": back}).encode())
    [again] = [part for part in read.messages[1].parts if isinstance(part, Thinking)]
    assert (again.text, again.signature, again.redacted) == (thought.text, thought.signature, thought.redacted)


def _passed(content: Any) -> Any:
    body = {
        "model": "chat",
        "max_tokens": 10,
        "messages": [
            {"role": "user", "content": 'say "gemini: hello" and "openai.com"'},
            {"role": "assistant", "content": content},
            {"role": "user", "content": "three"},
        ],
    }
    raw = json.dumps(body).encode()
    dialect = Anthropic()
    return json.loads(
        dialect.rewrite("messages", raw, dialect.peek("messages", raw, "application/json"), "chat", False)
    )["messages"]


def test_what_passes_through_to_anthropic_loses_foreign_thoughts_only() -> None:
    ours = {"type": "thinking", "thinking": "hm", "signature": "RXJ2b2RDS2s="}
    text = {"type": "text", "text": "gemini:QUJD"}
    content = [
        {"type": "thinking", "thinking": "x", "signature": "gemini:QUJD"},
        {"type": "redacted_thinking", "data": "openai.gAAAA"},
        ours,
        text,
    ]
    assert _passed(content)[1] == {"role": "assistant", "content": [ours, text]}
    assert [m["role"] for m in _passed(content[:2])] == ["user", "user"]


def test_what_passes_through_untouched_stays_byte_for_byte() -> None:
    raw = b'{"model": "chat", "max_tokens":1 , "messages":[ {"role":"user","content":"\\u0022gemini:QUJD\\u0022 1.0e5"} ]}'
    dialect = Anthropic()
    assert dialect.rewrite("messages", raw, dialect.peek("messages", raw, "application/json"), "chat", False) == raw
    raw = b'{"model": "chat", "max_tokens":1 , "messages":[ {"role":"user","content":[{"type":"text","text":"gemini:Q"}]} ]}'
    assert dialect.rewrite("messages", raw, dialect.peek("messages", raw, "application/json"), "chat", False) == raw


@pytest.mark.parametrize("dialect", [OpenAIChat(), OpenAIResponses()], ids=["openai", "openai-responses"])
@pytest.mark.parametrize("url", [True, False])
def test_another_formats_own_words_stay_out_of_annotations(dialect: Dialect, url: bool) -> None:
    native = {"type": "web_search_result_location", "encrypted_index": "zz", "cited_text": "zz"}
    data: dict[str, Any] = {"type": "url_citation", "start_index": 0, "end_index": 3, "title": "T", "native": native}
    data |= {"url": "https://a.example"} if url else {"type": "file_citation", "filename": "T"}
    events = [Start("r", "m"), TextDelta("abc"), Citation(data), Finish("stop"), End()]
    plain = dialect.write_reply(events, request=b'{"model":"m","input":"one"}')
    writer = dialect.writer(False, request=b'{"model":"m","input":"one"}')
    streamed = writer.write(events) + writer.end()
    for written in (plain, streamed):
        assert b"native" not in written
        assert b"zz" not in written
        assert b'"title":"T"' in written or b'"filename":"T"' in written


@pytest.mark.parametrize(("model", "kept"), [("claude-sonnet-4-5", False), ("deepseek-reasoner", True)])
def test_thoughts_that_nobody_signed_are_nothing_to_claude(model: str, kept: bool) -> None:
    """An imitation of the API may want its own unsigned thoughts back."""
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    content = [thought, {"type": "text", "text": "two"}]
    body = {"model": "chat", "max_tokens": 9, "messages": [{"role": "assistant", "content": content}]}
    raw = json.dumps(body).encode()
    dialect = Anthropic()
    changed = dialect.rewrite("messages", raw, dialect.peek("messages", raw, "application/json"), model, False)
    assert (thought in json.loads(changed)["messages"][0]["content"]) is kept
