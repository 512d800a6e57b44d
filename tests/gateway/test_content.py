"""Inputs and outputs that are kept where a key or route says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay.core.errors import UpstreamFailed
from mainstay.gateway import content as module
from tests.gateway.rig import SECRET, Rig, chat_body, fails, says
from tests.provider import chat_events, messages_events

MODELS = {"m": {"target": "alpha/m"}, "c": {"target": "beta/c"}}
ROUTES: dict[str, Any] = {
    "kept": {"to": "m", "content": True, "retry": {"attempts": 1}, "rescue": "off"},
    "far": {"to": "c", "content": True, "retry": {"attempts": 1}, "rescue": "off"},
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(
        tmp_path, models=MODELS, routes=ROUTES, keys={"k": {}, "never": {"content": False}, "always": {"content": True}}
    )
    yield rig
    rig.journal.stop()


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRET}-{name}"}


async def test_the_key_decides_and_then_the_route(rig: Rig) -> None:
    for model, headers, kept in [
        ("m", {}, 0),
        ("kept", {}, 1),
        ("kept", key("never"), 1),
        ("m", key("always"), 2),
    ]:
        done = await rig.ask(chat_body(model=model), headers)
        assert len(rig.spool.given) == kept
        assert (rig.records[-1].content is not None) == (
            bool(rig.spool.given) and rig.spool.given[-1].call == done.call.id
        )


async def test_what_passes_through_is_kept_as_it_is(rig: Rig) -> None:
    plain, stream = await rig.ask(chat_body(model="kept")), await rig.ask(chat_body(model="kept", stream=True))
    one, two = rig.spool.given
    assert (one.request, one.reply, one.reply_type) == (chat_body(model="kept"), plain.raw, "application/json")
    assert (two.reply, two.reply_type) == (stream.raw, "text/event-stream")


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_translated_is_kept_in_the_callers_format(rig: Rig, stream: bool) -> None:
    await rig.ask(chat_body(model="far", stream=stream))
    kept = rig.spool.given[0]
    assert json.loads(kept.reply)["choices"][0]["message"]["content"] == "one two three"
    assert kept.reply_type == "application/json"


@pytest.mark.parametrize(
    ("model", "events"), [("kept", chat_events(["a ", "b "])), ("far", messages_events(["a ", "b "]))]
)
@pytest.mark.parametrize("how", ["cut", "left"])
async def test_of_a_reply_that_broke_off_what_there_was_is_kept(
    rig: Rig, model: str, events: list[bytes], how: str
) -> None:
    for target in rig.targets.values():
        target.default = lambda ask: [*events[:3], UpstreamFailed("cut", "cut")]
    call = rig.make(chat_body(model=model, stream=True))
    with pytest.raises((asyncio.CancelledError, UpstreamFailed)):
        await rig.leave_after(1 if how == "left" else 100, call)
    assert call.outcome == ("cancelled" if how == "left" else "failed")
    assert len(rig.spool.given) == 1
    assert b"a " in rig.spool.given[0].reply
    rig.nothing_held()


async def test_a_question_without_an_answer_is_kept(rig: Rig) -> None:
    rig.targets["alpha"].default = fails("invalid", status=400)
    await rig.ask(chat_body(model="kept"))
    assert (rig.spool.given[0].request, rig.spool.given[0].reply) == (chat_body(model="kept"), b"")


async def test_a_reply_that_is_too_long_is_not_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 1000)
    rig.targets["alpha"].default = says(["x" * 1001])
    rig.targets["beta"].default = says(["x"] * 20, wire="anthropic")
    for model in ("kept", "far"):
        for stream in (True, False):
            done = await rig.ask(chat_body(model=model, stream=stream))
            assert done.error is None
            kept = rig.spool.given[-1]
            assert kept.request == chat_body(model=model, stream=stream)
            assert kept.reply == b"" or (model, stream) == ("far", False)
