"""Streams that break off: the caller gets the whole answer exactly once, or is told; never a part as a success."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.rig import WHOLE, Rig, Shape, rigged, together
from tests.provider import (
    CHAT_ERROR,
    MESSAGES_ERROR,
    SSE,
    TOKENS,
    Asked,
    Behaviour,
    Wire,
    anew,
    broken_off,
    chat,
    chat_chunk,
    chat_events,
    chat_tool_events,
    messages,
    messages_events,
    messages_tool_events,
    played,
    status,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CUTS = (0, 1, 2, 40, 59, 60)
HOWS = ("reset", "close", "stall", "error", "torn")
OTHER = [f"word{i} " for i in range(1, 61)]

SHAPES = {
    "oa": Shape("oa", 24, again=True),
    "aa": Shape("aa", 24, again=True),
    "og": Shape("og", 12, again=True),
    "ag": Shape("ag", 12, again=True),
    "o": Shape("o", 6, again=True),
    "off": Shape("oa", 1, {"rescue": "off"}, again=True),
    "held": Shape("og", 1, {"hold_back": 200}, again=True),
    "oaa": Shape("oaa", 1, again=True),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with rigged(SHAPES) as made:
        yield made


def cut(upstream: str, tokens: int, how: str) -> Behaviour:
    """A stream that ends after so many tokens: a reset, a clean close, silence, an error event, half an event."""
    events = chat_events()[: tokens + 1] if upstream == "o" else messages_events()[: tokens + 2]
    if how == "error":
        return broken_off([*events, CHAT_ERROR if upstream == "o" else MESSAGES_ERROR], "close")
    if how == "torn":
        following = (chat_events() if upstream == "o" else messages_events())[len(events)]
        return broken_off([*events, following[: len(following) // 2]], "close")
    return broken_off(events, how)


RESCUERS: dict[str, tuple[str, Behaviour]] = {
    "continues": ("a", messages()),
    "refuses prefill": ("a", messages(prefill=False)),
    "begins anew": ("a", anew()),
    "says the same": ("g", chat()),
    "says something else": ("g", chat(OTHER)),
    "continues with something else": ("a", anew(OTHER)),
}


async def rescued(rig: Rig, upstream: str, tokens: int, how: str, caller: str, rescuer: str) -> None:
    second, behaviour = RESCUERS[rescuer]
    case = rig.take(upstream + second)
    case.targets[0].default = cut(upstream, tokens, how)
    case.targets[1].default = behaviour
    answer = await case.ask(stream=True, caller=caller)
    label = f"{tokens} tokens from {upstream}, {how}, to {caller}, then {rescuer}"
    try:
        assert b"prefill" not in answer.raw
        if rescuer == "says something else":
            if tokens == 0:
                answer.is_whole("".join(OTHER))  # nothing had reached the caller: it is another answer, and whole
            else:
                answer.is_error()
                assert WHOLE.startswith(answer.text)
        elif rescuer == "continues with something else":
            # That it goes on in its own words cannot be told from a continuation: the whole of it is there, once.
            start = "".join(TOKENS[:tokens])
            answer.is_whole(start + "".join(OTHER))
        else:
            answer.is_whole()
        assert max(case.asked) <= 3
        assert sum(case.asked) <= 6
        if how == "stall":
            assert case.asked[0] == 1, "the silent target was asked again"
    except AssertionError as error:
        raise AssertionError(f"{label} (asked {case.asked}, {answer.why}): {error}") from error


@pytest.mark.parametrize("caller", ["openai", "anthropic", "responses"])
@pytest.mark.parametrize("upstream", ["o", "a"])
@pytest.mark.parametrize("how", HOWS)
async def test_a_cut_stream_is_completed_exactly_once(rig: Rig, how: str, upstream: str, caller: str) -> None:
    await together([rescued(rig, upstream, tokens, how, caller, rescuer) for tokens in CUTS for rescuer in RESCUERS])


@pytest.mark.parametrize("how", HOWS)
async def test_the_same_target_completes_what_it_broke_off(rig: Rig, how: str) -> None:
    case = rig.take("o")
    case.targets[0].script[:] = [cut("o", 40, how)]
    answer = await case.ask(stream=True)
    if how == "stall":  # it was silent: it is not asked again
        answer.is_error()
        assert case.asked == [1]
    else:
        answer.is_whole()
        assert case.asked == [2]


@pytest.mark.parametrize("caller", ["openai", "anthropic", "responses"])
@pytest.mark.parametrize("how", HOWS)
async def test_where_nobody_completes_it_the_caller_is_told(rig: Rig, how: str, caller: str) -> None:
    case = rig.take("oa")
    case.targets[0].default = cut("o", 40, how)
    case.targets[1].default = status(503, {"type": "error", "error": {"type": "api_error", "message": "down"}})
    answer = await case.ask(stream=True, caller=caller)
    answer.is_error(200)
    assert answer.text == "".join(TOKENS[:40])
    assert answer.error is not None
    assert "down" not in answer.error["message"], "it is the error that broke the stream off that is told"
    assert sum(case.asked) <= 6


@pytest.mark.parametrize("caller", ["openai", "anthropic", "responses"])
async def test_a_refused_prefill_is_never_shown(rig: Rig, caller: str) -> None:
    case = rig.take("oa")
    case.targets[0].default = cut("o", 40, "close")

    refuses = messages(prefill=False)

    async def refuses_and_fails(wire: Wire, asked: Asked) -> None:
        if asked.json["messages"][-1]["role"] == "assistant":
            return await refuses(wire, asked)
        return await status(500)(wire, asked)

    case.targets[1].default = refuses_and_fails
    answer = await case.ask(stream=True, caller=caller)
    answer.is_error(200)
    assert b"prefill" not in answer.raw
    assert b"status 500" not in answer.raw
    assert answer.text == "".join(TOKENS[:40])


async def test_rescue_can_be_switched_off(rig: Rig) -> None:
    case = rig.take("off")
    case.targets[0].default = cut("o", 40, "close")
    answer = await case.ask(stream=True)
    answer.is_error(200)
    assert case.asked == [1, 0]


async def test_what_is_held_back_is_answered_cleanly_by_another(rig: Rig) -> None:
    case = rig.take("held")
    case.targets[0].default = cut("o", 20, "close")  # 20 tokens are less than the 200 characters that are held back
    case.targets[1].default = chat(OTHER)
    (await case.ask(stream=True)).is_whole("".join(OTHER))


async def test_a_rescue_that_breaks_off_is_rescued(rig: Rig) -> None:
    case = rig.take("oaa")
    case.targets[0].default = cut("o", 20, "close")
    given: list[str] = []

    async def goes_on_for_a_while(wire: Wire, asked: Asked) -> None:
        last = asked.json["messages"][-1]
        assert last["role"] == "assistant"
        given.append(last["content"] if isinstance(last["content"], str) else last["content"][0]["text"])
        rest = WHOLE[len(given[0]) :].split(" ")
        events = messages_events([f"{word} " for word in rest if word])
        await broken_off(events[:20], "reset")(wire, asked)

    case.targets[1].default = goes_on_for_a_while
    for caller in ("openai", "anthropic", "responses"):
        given.clear()
        answer = await case.ask(stream=True, caller=caller)
        answer.is_whole()
    record = await rig.record(answer.call)
    assert [one["error"] for one in record["attempts"]] == ["cut", "cut", None]
    assert [one["rescue"] for one in record["attempts"]] == [None, "continued", "continued"]


async def test_every_attempt_of_a_rescue_carries_its_own_usage_and_cost(rig: Rig) -> None:
    case = rig.take("oa")
    case.targets[0].default = cut("o", 40, "reset")
    answer = await case.ask(stream=True, stream_options={"include_usage": True})
    answer.is_whole()
    record = await rig.record(answer.call)
    broken, rescue = record["attempts"]
    assert (broken["error"], broken["usage"], broken["cost_usd"]) == ("cut", None, 0)
    assert rescue["rescue"] == "continued"
    assert (rescue["usage"]["input"], rescue["usage"]["output"]) == (10, 1)
    assert rescue["cost_usd"] == pytest.approx(10 * 3e-6 + 15e-6)
    assert record["cost_usd"] == pytest.approx(rescue["cost_usd"])
    assert record["model"] == case.models[1]
    assert answer.headers["x-mainstay-model"] == case.models[0], "the head had gone out when it broke off"
    assert f"x-mainstay-model={case.models[1]}".encode() in answer.raw
    assert record["status"] == 200
    assert record["outcome"] == "ok"
    # An Anthropic provider reports the input at once: that much the broken attempt has cost.
    case = rig.take("aa")
    case.targets[0].default = cut("a", 40, "reset")
    answer = await case.ask(stream=True)
    answer.is_whole()
    record = await rig.record(answer.call)
    broken, rescue = record["attempts"]
    assert broken["usage"]["input"] == 10
    assert broken["cost_usd"] == pytest.approx(10 * 3e-6 + 15e-6)
    assert record["cost_usd"] == pytest.approx(broken["cost_usd"] + rescue["cost_usd"])


ARGUMENTS = ['{"pla', 'ce": "', "Ham", "burg", '", "days"', ": 3}"]


@pytest.mark.parametrize("caller", ["openai", "anthropic", "responses"])
@pytest.mark.parametrize("pieces", [0, 1, 3, 6])
async def test_a_cut_tool_call_is_completed_by_one_that_repeats_it(rig: Rig, caller: str, pieces: int) -> None:
    tools = {
        "openai": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
        "anthropic": [{"name": "look_up", "input_schema": {"type": "object"}}],
        "responses": [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}],
    }[caller]
    same = played(messages_tool_events(["".join(ARGUMENTS)]))
    other = played(messages_tool_events(['{"place": "Bremen"}']))
    for rescuer, whole in ((same, True), (other, False)):
        case = rig.take("oa")
        case.targets[0].default = broken_off(chat_tool_events(ARGUMENTS)[: pieces + 1], "close")
        case.targets[1].default = rescuer
        answer = await case.ask(stream=True, caller=caller, tools=tools)
        if whole or pieces <= 1:
            assert answer.success, (answer.error, answer.why)
            ((name, arguments),) = answer.tools.values()
            assert name == "look_up"
            assert json.loads(arguments) == ({"place": "Hamburg", "days": 3} if whole else {"place": "Bremen"})
        else:
            answer.is_error(200)
        for asked in case.targets[1].asked:
            assert asked.json["messages"][-1]["role"] == "user", "a tool call cannot be continued"


def two_choices(tokens: int, finish: bool) -> list[bytes]:
    """Two answers at once, the second with other words."""
    events = [chat_chunk({"role": "assistant", "content": ""})]
    for one, two in zip(TOKENS[:tokens], OTHER[:tokens], strict=True):
        for index, word in enumerate((one, two)):
            choice = {"index": index, "delta": {"content": word}, "finish_reason": None}
            events.append(chat_chunk({}, choices=[choice]))
    if finish:
        for index in (0, 1):
            events.append(chat_chunk({}, choices=[{"index": index, "delta": {}, "finish_reason": "stop"}]))
        events.append(b"data: [DONE]\n\n")
    return events


async def test_two_choices_that_break_off(rig: Rig) -> None:
    case = rig.take("og")
    case.targets[0].default = played(two_choices(40, finish=False))
    case.targets[1].default = played(two_choices(60, finish=True))
    answer = await case.ask(stream=True, n=2)
    assert answer.success, (answer.error, answer.why)
    assert answer.texts == {0: WHOLE, 1: "".join(OTHER)}
    # One choice has finished, the other has not: it is completed, and the first finishes only once.
    half = two_choices(40, finish=False)
    half.append(chat_chunk({}, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    case = rig.take("og")
    case.targets[0].default = played(half)
    case.targets[1].default = played(two_choices(60, finish=True))
    answer = await case.ask(stream=True, n=2)
    assert answer.success, (answer.error, answer.why)
    assert answer.texts == {0: "".join(TOKENS[:40]), 1: "".join(OTHER)}
    case = rig.take("o")
    case.targets[0].default = played(half)
    answer = await case.ask(stream=True, n=2)
    answer.is_error(200)


def parts(size: int) -> Behaviour:
    """A good stream, cut into pieces of ``size`` bytes that know nothing of events."""

    async def behave(wire: Wire, asked: Asked) -> None:
        await wire.head(200, SSE)
        whole = b"".join(chat_events())
        for at in range(0, len(whole), size):
            await wire.chunk(whole[at : at + size])
        await wire.end()

    return behave


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_pieces_need_not_be_events(rig: Rig, size: int) -> None:
    case = rig.take("o")
    case.targets[0].default = parts(size)
    for caller in ("openai", "anthropic", "responses"):
        (await case.ask(stream=True, caller=caller)).is_whole()


async def test_a_malformed_event_in_a_good_stream_is_skipped(rig: Rig) -> None:
    bad_chat = [b'data: {"id": bad\n\n', b"data: []\n\n", b"data: \xff\xfe\n\n", b"nonsense\n\n"]
    good = chat_events()
    for i, bad in enumerate(bad_chat):
        case = rig.take("o")
        case.targets[0].default = played([*good[: 5 + i], bad, *good[5 + i :]])
        for caller in ("openai", "anthropic", "responses"):
            (await case.ask(stream=True, caller=caller)).is_whole()
    good = messages_events()
    for bad in (b'event: content_block_delta\ndata: {"type": bad\n\n', b"event: new_thing\ndata: {}\n\n"):
        case = rig.take("aa")
        case.targets[0].default = played([*good[:5], bad, *good[5:]])
        for caller in ("openai", "anthropic", "responses"):
            (await case.ask(stream=True, caller=caller)).is_whole()


async def test_a_stream_without_its_terminal_sign(rig: Rig) -> None:
    for upstream, missing in (("oa", chat_events()[:-1]), ("aa", messages_events()[:-1])):
        for how in ("close", "reset"):
            for caller in ("openai", "anthropic", "responses"):
                case = rig.take(upstream)
                case.targets[0].default = broken_off(missing, how)
                (await case.ask(stream=True, caller=caller)).is_whole()
