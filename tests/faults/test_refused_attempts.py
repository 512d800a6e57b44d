"""Targets that refuse, fail before they answer, or say nothing: retried, passed over, or told, never hammered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.rig import TIMEOUTS, WHOLE, Case, Rig, Shape, rigged, together
from tests.provider import (
    SSE,
    TOKENS,
    Asked,
    Behaviour,
    Wire,
    chat,
    chat_chunk,
    chat_events,
    chat_reply,
    late,
    messages,
    reset,
    silent,
    status,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLERS = ("openai", "anthropic", "responses")
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
MANY = {"retry": {"attempts": 10, "base": "1ms"}}
PATIENT = {**TIMEOUTS, "total": "2500ms"}

SHAPES = {
    "o": Shape("o", 32),
    "og": Shape("og", 24),
    "oa": Shape("oa", 64),
    "ogo": Shape("ogo", 8),
    "many1": Shape("o", 8, MANY),
    "many3": Shape("ogo", 6, MANY),
    "brief": Shape("o", 4, {**MANY, "timeouts": PATIENT}),
    "windows": Shape("ogoa", 4, each=[{"context_window": 1000}, {"context_window": 500}, {"context_window": 9000}, {}]),
    "unknown": Shape("og", 4),
    "filter": Shape("oa", 4, {"on_filter": "fallback"}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with rigged(SHAPES) as made:
        yield made


def limited(**headers: str) -> Behaviour:
    """429, with those headers."""
    error = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
    return status(429, error, {name.replace("_", "-"): value for name, value in headers.items()})


def paced(case: Case) -> None:
    """Fail if providers that say 429 were asked more than 4 times in 3 s, or 6 times in all."""
    times = sorted(moment for target in case.targets for moment in target.times)
    assert len(times) <= 6, times
    for first, fifth in zip(times, times[4:], strict=False):
        assert fifth - first >= 2.9, times


@BOTH
async def test_429_once_is_waited_for_where_there_is_nobody_else(rig: Rig, stream: bool) -> None:
    for headers, least in (
        ({"retry_after": "1"}, 0.95),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after_ms": "300"}, 0.28),
        ({"retry_after": "9", "retry_after_ms": "200"}, 0.18),
        ({}, 0.0),
    ):
        case = rig.take("o")
        case.targets[0].script[:] = [limited(**headers)]
        began = time.monotonic()
        answer = await case.ask(stream=stream)
        answer.is_whole()
        assert case.asked == [2]
        assert least <= time.monotonic() - began < least + 5, headers


async def test_429_with_a_date(rig: Rig) -> None:
    case = rig.take("o")
    case.targets[0].script[:] = [limited(retry_after=formatdate(time.time() + 2, usegmt=True))]
    began = time.monotonic()
    (await case.ask(stream=True)).is_whole()
    assert 0.5 <= time.monotonic() - began <= 6


@BOTH
async def test_429_falls_over_at_once_where_there_is_another(rig: Rig, stream: bool) -> None:
    for caller in CALLERS:
        case = rig.take("oa")
        case.targets[0].script[:] = [limited(retry_after="30")]
        began = time.monotonic()
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_whole()
        assert case.asked == [1, 1]
        assert time.monotonic() - began < 5
        assert answer.headers["x-mainstay-model"] == case.models[1]
        # It said for how long it does not want to be asked.
        (await case.ask(stream=stream, caller=caller)).is_whole()
        assert case.asked == [1, 2]


@BOTH
async def test_429_for_ever_is_told_as_the_provider_told_it(rig: Rig, stream: bool) -> None:
    case = rig.take("o")
    case.targets[0].default = limited(retry_after="60")
    began = time.monotonic()
    answer = await case.ask(stream=stream)
    answer.is_error(429)
    assert 50 <= int(answer.headers["retry-after"]) <= 60
    assert case.asked == [1], "nobody waits for a minute"
    assert time.monotonic() - began < 5
    for caller in CALLERS:
        case = rig.take("og")
        for target in case.targets:
            target.default = limited(retry_after_ms="50")
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_error(429)
        assert int(answer.headers["retry-after"]) >= 1
        paced(case)
        assert case.asked[0] == 1


async def test_429_for_ever_is_never_hammered(rig: Rig) -> None:
    async def one(shape: str, stream: bool, **headers: str) -> None:
        case = rig.take(shape)
        for target in case.targets:
            target.default = limited(**headers)
        answer = await case.ask(stream=stream)
        answer.is_error(429)
        assert sum(case.asked) >= 3
        paced(case)

    async def mixed() -> None:
        case = rig.take("many3")
        case.targets[0].default = limited(retry_after="0")
        case.targets[1].default = status(503)
        case.targets[2].default = limited(retry_after="0")
        (await case.ask(stream=False)).is_error()
        paced(case)

    async def brief() -> None:
        case = rig.take("brief")
        case.targets[0].default = limited(retry_after="0")
        began = time.monotonic()
        (await case.ask(stream=False)).is_error(429)
        assert time.monotonic() - began < 5, "it must not outlast its total time"
        paced(case)

    await together(
        [
            one("many1", False, retry_after="0"),
            one("many1", True),
            one("many1", False, retry_after_ms="10"),
            one("many3", False, retry_after="0"),
            one("many3", True),
            one("ogo", False, retry_after="0"),
            mixed(),
            brief(),
        ]
    )


@BOTH
async def test_a_failure_is_retried_once_at_the_same_target(rig: Rig, stream: bool) -> None:
    failures: list[Behaviour] = [
        status(500),
        status(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"}),
        status(503),
        status(504),
        status(529),
        status(520),
        reset,
    ]
    for failure in failures:
        case = rig.take("oa")
        case.targets[0].script[:] = [failure]
        answer = await case.ask(stream=stream)
        answer.is_whole()
        assert case.asked == [2, 0], (failure, answer.why)


@BOTH
async def test_a_target_that_keeps_failing_is_passed_over(rig: Rig, stream: bool) -> None:
    for caller, failure in zip(CALLERS, (status(503), status(500), reset), strict=True):
        case = rig.take("oa")
        case.targets[0].default = failure
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_whole()
        assert 2 <= case.asked[0] <= 4  # where a kept connection is reset, it is asked again at once on a fresh one
        assert case.asked[1] == 1
        record = await rig.record(answer.call)
        assert record["model"] == case.models[1]
        assert record["provider"] == "beta"
        assert answer.headers["x-mainstay-model"] == case.models[1]
        assert answer.headers["x-mainstay-provider"] == "beta"
        *failed, good = record["attempts"]
        assert [one["cost_usd"] for one in failed] == [0] * len(failed)
        assert [one["usage"] for one in failed] == [None] * len(failed)
        assert record["cost_usd"] == good["cost_usd"] == pytest.approx(10 * 3e-6 + 60 * 15e-6)


@BOTH
async def test_where_all_fail_the_caller_gets_a_clean_error(rig: Rig, stream: bool) -> None:
    for caller in CALLERS:
        case = rig.take("og")
        for target in case.targets:
            target.default = status(503)
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_error(503)
        assert int(answer.headers["retry-after"]) >= 1
        assert case.asked == [2, 2]
        case = rig.take("og")
        for target in case.targets:
            target.default = reset
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_error(503)


async def test_attempts_never_exceed_six(rig: Rig) -> None:
    for failure in (status(500), reset):
        case = rig.take("many3")
        for target in case.targets:
            target.default = failure
        answer = await case.ask(stream=False)
        answer.is_error()
        assert int(answer.headers["x-mainstay-attempts"]) <= 6
        if failure is not reset:
            assert sum(case.asked) == 6


@BOTH
async def test_a_kept_connection_that_was_reset_costs_no_attempt(rig: Rig, stream: bool) -> None:
    case = rig.take("o")
    (await case.ask(stream=stream)).is_whole()
    case.targets[0].script[:] = [reset]
    answer = await case.ask(stream=stream)
    answer.is_whole()
    assert case.asked == [3]


async def _role_and_nothing(wire: Wire, asked: Asked) -> None:
    if not asked.stream:
        await late(wire, asked)
    await wire.head(200, SSE)
    await wire.chunk(chat_chunk({"role": "assistant", "content": ""}))
    await asyncio.sleep(3600)


async def _comments_for_ever(wire: Wire, asked: Asked) -> None:
    if not asked.stream:
        await late(wire, asked)
    await wire.head(200, SSE)
    while True:
        await wire.chunk(b": PROCESSING\n\n")
        await asyncio.sleep(0.05)


async def _half_a_body(wire: Wire, asked: Asked) -> None:
    if asked.stream:
        await late(wire, asked)
    await wire.head(200, {"content-type": "application/json", "content-length": "5000"}, chunked=False)
    await wire.send(b'{"id": "chatcmpl-1", "choices": [')
    await asyncio.sleep(3600)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_the_silent_target_is_not_tried_again(rig: Rig, stream: bool) -> None:
    async def one(behaviour: Behaviour, caller: str) -> None:
        case = rig.take("oa")
        case.targets[0].default = behaviour
        began = time.monotonic()
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_whole()
        assert case.asked == [1, 1]
        assert 1.1 < time.monotonic() - began < 6
        async with asyncio.timeout(1):
            await case.targets[0].asked[0].disconnected.wait()

    behaviours = [silent, late, _role_and_nothing, _comments_for_ever, _half_a_body]
    await together([one(behaviour, CALLERS[i % 3]) for i, behaviour in enumerate(behaviours)])


@BOTH
async def test_a_lone_silent_target_is_a_clean_timeout(rig: Rig, stream: bool) -> None:
    async def one(behaviour: Behaviour, caller: str) -> None:
        case = rig.take("o")
        case.targets[0].default = behaviour
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_error(504)
        assert case.asked == [1]

    await together([one(silent, "openai"), one(late, "anthropic"), one(_comments_for_ever, "responses")])


async def test_keep_alive_comments_do_not_hide_a_stall(rig: Rig) -> None:
    async def stalls(wire: Wire, asked: Asked) -> None:
        await wire.head(200, SSE)
        for event in chat_events()[:41]:
            await wire.chunk(event)
        while True:
            await wire.chunk(b": still here\n\n")
            await asyncio.sleep(0.05)

    case = rig.take("oa")
    case.targets[0].default = stalls
    began = time.monotonic()
    (await case.ask(stream=True)).is_whole()
    assert time.monotonic() - began < 6


async def test_slow_but_steady_is_no_fault(rig: Rig) -> None:
    case = rig.take("oa")
    case.targets[0].default = chat(TOKENS[:20], pause=0.1)  # longer in all than any one phase may take
    (await case.ask(stream=True)).is_whole("".join(TOKENS[:20]))
    assert case.asked == [1, 0]


CONTEXT = status(
    400,
    {
        "error": {
            "message": "This model's maximum context length is 1000 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
)


@BOTH
async def test_too_long_a_context_goes_only_to_a_larger_window(rig: Rig, stream: bool) -> None:
    case = rig.take("windows")
    case.targets[0].default = CONTEXT
    case.targets[2].default = CONTEXT
    answer = await case.ask(stream=stream)
    answer.is_whole()
    assert case.asked == [1, 0, 1, 1], answer.why
    case = rig.take("unknown")
    for target in case.targets:
        target.default = CONTEXT
    answer = await case.ask(stream=stream)
    answer.is_error(400)
    assert answer.error is not None
    assert answer.error["code"] == "context_length_exceeded"
    assert case.asked == [1, 1]


@BOTH
async def test_a_content_filter_is_final_and_its_reason_passed_on(rig: Rig, stream: bool) -> None:
    error: dict[str, Any] = {
        "message": "The response was filtered due to the prompt triggering Azure's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
    for caller in CALLERS:
        case = rig.take("oa")
        case.targets[0].default = status(400, {"error": error})
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_error(400)
        assert answer.error is not None
        assert "content management policy" in answer.error["message"]
        assert case.asked == [1, 0]
        if caller == "openai":
            assert answer.error["innererror"] == error["innererror"]
    case = rig.take("filter")
    case.targets[0].default = status(400, {"error": error})
    (await case.ask(stream=stream)).is_whole()
    assert case.asked == [1, 1]


@BOTH
async def test_a_filtered_finish_is_no_failure(rig: Rig, stream: bool) -> None:
    async def filtered(wire: Wire, asked: Asked) -> None:
        if asked.stream:
            await wire.head(200, SSE)
            for event in chat_events(TOKENS[:5]):
                await wire.chunk(event.replace(b'"stop"', b'"content_filter"'))
            return await wire.end()
        await wire.plain(200, chat_reply(TOKENS[:5]).replace(b'"stop"', b'"content_filter"'))

    case = rig.take("oa")
    case.targets[0].default = filtered
    answer = await case.ask(stream=stream)
    answer.is_whole("".join(TOKENS[:5]))
    assert answer.finish == "content_filter"
    assert case.asked == [1, 0]


@BOTH
async def test_a_refused_key_opens_the_breaker_at_once(rig: Rig, stream: bool) -> None:
    message = "Incorrect API key provided: key-of-alpha. You can find your API key in your account."
    refused = status(401, {"error": {"message": message, "type": "invalid_request_error", "code": "invalid_api_key"}})
    for caller in CALLERS:
        case = rig.take("oa")
        case.targets[0].default = refused
        (await case.ask(stream=stream, caller=caller)).is_whole()
        (await case.ask(stream=stream, caller=caller)).is_whole()
        assert case.asked == [1, 2]
        alone = rig.take("o")
        alone.targets[0].default = refused
        answer = await alone.ask(stream=stream, caller=caller)
        answer.is_error()
        assert answer.status in (502, 503)
        assert b"key-of-alpha" not in answer.raw
        assert b"Incorrect" not in answer.raw
        assert alone.asked == [1]


@BOTH
async def test_a_caller_s_own_mistake_is_not_spread(rig: Rig, stream: bool) -> None:
    error = {
        "error": {"message": "bad temperature", "type": "invalid_request_error", "param": "temperature", "code": None}
    }
    for caller in CALLERS:
        case = rig.take("oa")
        case.targets[0].default = status(400, error)
        answer = await case.ask(stream=stream, caller=caller)
        answer.is_error(400)
        assert answer.error is not None
        assert "bad temperature" in answer.error["message"]
        assert case.asked == [1, 0]


async def test_the_second_answer_is_the_second_s_own(rig: Rig) -> None:
    """A fallback answers in its own words, whole."""
    case = rig.take("oa")
    case.targets[0].default = status(404)
    words = [f"other{i} " for i in range(20)]
    case.targets[1].default = messages(words)
    for stream in (False, True):
        answer = await case.ask(stream=stream)
        answer.is_whole("".join(words))
        assert answer.text != WHOLE
