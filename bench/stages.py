"""Where the time of one request goes: each stage of the gateway timed alone, in this process, without sockets.

``python -m bench.stages [--json FILE]`` prints a table of microseconds, the least of several rounds. What the kernel
and the event loop take for reading, writing and waking up is in none of the rows: ``python -m bench`` measures the whole.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import timeit
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from bench import traffic
from bench.bare import Bare, drive
from bench.report import into_page
from mainstay.core.money import usd
from mainstay.core.progress import Progress
from mainstay.core.usage import clamped
from mainstay.edge.http_exchange import header_block
from mainstay.edge.http_head import body_length, parse_head
from mainstay.edge.http_limits import HttpLimits
from mainstay.gateway.active import Active
from mainstay.ledger.recording import closed, opened

GC = (50_000, 20, 100)
"""The collector's thresholds in a gateway process."""


class Row(NamedTuple):
    """One stage. ``inside`` names the row that contains it, so that nothing is counted twice."""

    name: str
    micros: float
    inside: str = ""


SDK_HEAD = "\r\n".join(
    (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: 127.0.0.1:8080",
        "Accept-Encoding: gzip, deflate",
        "Connection: keep-alive",
        "Accept: application/json",
        "Content-Type: application/json",
        "User-Agent: OpenAI/Python 2.20.0",
        "X-Stainless-Lang: python",
        "X-Stainless-Package-Version: 2.20.0",
        "X-Stainless-OS: Linux",
        "X-Stainless-Arch: x64",
        "X-Stainless-Runtime: CPython",
        "X-Stainless-Runtime-Version: 3.11.2",
        "X-Stainless-Async: false",
        f"Authorization: Bearer {traffic.SECRET}",
        "x-stainless-retry-count: 0",
        "x-stainless-read-timeout: 600",
        "Content-Length: 331",
    )
).encode()
WRK_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\ncontent-type: application/json\r\nauthorization: Bearer "
    + traffic.SECRET.encode()
    + b"\r\nContent-Length: 331"
)


class Timer:
    """Times callables and collects rows. ``seconds`` is the length of one round."""

    def __init__(self, seconds: float = 0.1, rounds: int = 7) -> None:
        self._seconds, self._rounds = seconds, rounds
        self.rows: list[Row] = []

    def micros(self, call: Callable[[], Any], done: Callable[[], Any] = lambda: None) -> float:
        """The least microseconds of one call; ``done`` runs after each round, outside the time."""
        # The collector runs, as it does in a gateway: what a stage leaves to it is part of its cost.
        timing = timeit.Timer(call, "import gc; gc.enable()")
        once = max(timing.timeit(3) / 3, 1e-8)
        count = max(1, min(int(self._seconds / once), 20_000))
        best = float("inf")
        for _ in range(self._rounds):
            best = min(best, timing.timeit(count) / count)
            done()
        return best * 1e6

    def add(self, name: str, call: Callable[[], Any], inside: str = "", less: float = 0.0) -> float:
        """A row; ``less`` is taken off, for what ``call`` does beside the stage."""
        found = max(self.micros(call) - less, 0.0)
        self.rows.append(Row(name, found, inside))
        return found


def http_rows(timer: Timer) -> None:
    """Heads in, heads out."""
    limits = HttpLimits()

    def head(data: bytes) -> Callable[[], None]:
        def parse() -> None:
            _, _, _, _, headers, http11 = parse_head(data, limits)
            body_length(headers, http11)

        return parse

    timer.add("head parse (4 headers, as wrk)", head(WRK_HEAD))
    timer.add("head parse (17 headers, as the OpenAI SDK)", head(SDK_HEAD), inside="instead of the row above")


async def plain_rows(timer: Timer, bare: Bare) -> None:
    """The stages of one plain call with everything on, in the order in which it meets them."""
    body = traffic.chat_request(traffic.FULL)
    new = lambda: bare.call(body)  # noqa: E731
    timer.add("call made (id, clock, Routed)", new)
    call = new()
    bare.identify.enter(call)
    timer.add("identify (headers, key, peek, route, Ask)", lambda: bare.identify.enter(call))
    timer.add("key look-up", lambda: call.plan.keys.find(traffic.SECRET, call.at), inside="identify")
    dialect = bare.dialects["openai"]
    timer.add("peek", lambda: dialect.peek("chat", body, "application/json"), inside="identify")

    def resolve() -> None:
        call.why.clear()
        bare.resolve.enter(call)

    timer.add("resolve (fallback of weighted)", resolve)
    bare.fund(call)

    def admit() -> None:
        call.reply_headers = ()  # else each round would copy those of all before
        bare.admit.enter(call)
        assert call.hold is not None
        call.hold.settle(tokens=85, nano=5000)

    timer.add("admit: hold and settle (3 limits, 2 budgets)", admit)

    def cache() -> None:
        call.taps.clear()
        call.recording = None
        bare.cache.enter(call)
        bare.cache.leave(call, None)

    timer.add("cache look-up, a miss (key, lead, leave)", cache)
    journal_rows(timer, bare, call)
    target = call.order[0]
    timer.add("ask write (body renamed)", lambda: dialect.rewrite("chat", body, call.peek, "gpt-small", False))
    reply = traffic.chat_reply()
    events = dialect.glance("chat", reply)
    timer.add("glance (usage and finish of the reply)", lambda: dialect.glance("chat", reply))

    def active() -> None:
        one = Active(call, target, bare.clock)
        one.progress.see(events)
        one.succeeded()

    timer.add("attempt (gates, breaker, latency, progress, cost)", active)
    usage = clamped(58, 27)
    price = target.price
    assert price is not None
    timer.add("cost", lambda: price.cost(usage), inside="attempt")
    headers = bare.finished(body)
    timer.add("reply headers, as bytes", lambda: header_block(bare.reply_headers(headers)))
    timer.add("cost in dollars, as text", lambda: usd(9999), inside="reply headers")


def journal_rows(timer: Timer, bare: Bare, call: Any) -> None:
    """The opening record with its write, the closing record, and the write of a turn's closing records."""
    journal = bare.journal
    holds = {"usd:key:bench/full": 12345, "usd:team:bench": 12345}

    def both() -> None:
        fresh = bare.again(call)
        journal.open(opened(fresh, holds, ["small", "large"]))
        journal.close(closed(fresh, ended=bare.clock.monotonic(), charges=holds))

    def closing() -> None:
        journal.close(closed(call, ended=bare.clock.monotonic(), charges=holds))

    again = timer.micros(lambda: bare.again(call))
    record = timer.micros(lambda: opened(call, holds, ["small", "large"]))
    whole = timer.micros(both, journal.flush) - again
    done = bare.finished(bytes(call.body))
    close_one = timer.micros(lambda: closed(done, ended=0.0, charges=holds))
    pending = timer.micros(closing, journal.flush)
    timer.rows.append(Row("journal open (record, frame, one write each)", max(whole - pending, 0.0)))
    timer.rows.append(Row("opening record made", record, "journal open"))
    timer.rows.append(Row("journal close (record, frame; written once per turn)", pending))
    timer.rows.append(Row("closing record made", close_one, "journal close"))

    def flushed() -> None:
        closing()
        journal.flush()

    timer.rows.append(Row("journal flush (one write per turn of the loop)", max(timer.micros(flushed) - pending, 0.0)))


def placed_rows(timer: Timer, bare: Bare, calls: int) -> None:
    """Each stage inside a whole call, one call after the other: dearer than alone, since the processor's caches are not
    filled with that stage only. Medians, clock readings included (0.1 µs)."""
    body = traffic.chat_request(traffic.FULL)
    bare.answer(traffic.chat_reply())
    bare.fund(bare.identified(body, traffic.SECRET))
    laps = bare.laps(calls, body)
    for name, times in laps.items():
        middle = statistics.median(times) / 1000
        if middle >= 0.5:
            timer.rows.append(Row(f"in place: {name}", middle, "" if "·" not in name else name.split(" ·")[0]))
    whole = sum(statistics.median(times) for name, times in laps.items() if "·" not in name) / 1000
    timer.rows.append(Row("in place: SUM", whole, "the rows in place above"))
    timer.rows.append(Row("garbage for the collector, objects per call", bare.garbage(1000, body), "a count, not µs"))


def whole_rows(timer: Timer, bare: Bare) -> None:
    """The whole pipeline with an upstream that answers at once, and the same with nothing on."""

    def run(model: str, secret: str, body: bytes, reply: bytes) -> Callable[[], None]:
        bare.answer(reply)

        def call() -> None:
            drive(bare.run(bare.call(body, secret)))

        bare.fund(bare.identified(body, secret))
        return call

    full, plain = traffic.chat_request(traffic.FULL), traffic.chat_request(traffic.BARE)
    reply = traffic.chat_reply()
    timer.rows.append(
        Row(
            "PIPELINE, everything on, no sockets",
            timer.micros(run(traffic.FULL, traffic.SECRET, full, reply), bare.journal.flush),
            "all of the above but the heads",
        )
    )
    timer.rows.append(
        Row(
            "PIPELINE, key only, no sockets",
            timer.micros(run(traffic.BARE, traffic.PLAIN_KEY, plain, reply), bare.journal.flush),
            "instead of the row above",
        )
    )


def stream_rows(timer: Timer, bare: Bare) -> None:
    """What one event of a stream costs, passed through and translated; events come one by one."""
    openai, anthropic = bare.dialects["openai"], bare.dialects["anthropic"]
    chat, messages = traffic.chat_events(), traffic.messages_events()

    def read(dialect: Any, operation: str, events: list[bytes]) -> Callable[[], None]:
        def call() -> None:
            reader = dialect.reader(operation)
            for event in events:
                reader.feed(event)

        return call

    def per_event(name: str, call: Callable[[], object], less: float = 0.0) -> float:
        found = max(timer.micros(call) / traffic.EVENTS - less, 0.0)
        timer.rows.append(Row(name, found))
        return found

    per_event("per event: read (OpenAI)", read(openai, "chat", chat))
    per_event("per event: read (Anthropic)", read(anthropic, "messages", messages))
    reader = openai.reader("chat")
    frames = [frame for event in chat for frame in reader.feed(event)]

    def see() -> None:
        progress = Progress()
        for frame in frames:
            progress.see(frame.events)

    per_event("per event: progress", see)
    source = anthropic.reader("messages")
    read_events = [frame.events for event in messages for frame in source.feed(event)]
    request = traffic.chat_request(traffic.CROSS, stream=True)

    def write() -> None:
        writer = openai.writer(False, request=request)
        for events in read_events:
            writer.write(events)

    per_event("per event: written (Anthropic's as OpenAI's)", write)
    per_event("per event: chunk framed", lambda: [b"%x\r\n%b\r\n" % (len(one), one) for one in chat])
    per_event("per event: WHOLE, passed through, no sockets", bare.stream_call(traffic.BARE, traffic.PLAIN_KEY, chat))
    per_event(
        "per event: WHOLE, translated, no sockets", bare.stream_call(traffic.CROSS_BARE, traffic.PLAIN_KEY, messages)
    )


def cross_rows(timer: Timer, bare: Bare) -> None:
    """What translating one plain call costs beyond passing it through."""
    openai, anthropic = bare.dialects["openai"], bare.dialects["anthropic"]
    body = traffic.chat_request(traffic.CROSS)
    request = openai.read_request(body)
    facts = bare.plan.targets["claude"].facts
    timer.add("across: request read (OpenAI)", lambda: openai.read_request(body))
    timer.add("across: request written (Anthropic)", lambda: anthropic.write_request(request, "claude-small", facts))
    reply = traffic.messages_reply()
    events = anthropic.read_reply(reply)
    timer.add("across: reply read (Anthropic)", lambda: anthropic.read_reply(reply))
    timer.add("across: reply written (OpenAI)", lambda: openai.write_reply(events, request=body))


async def measure(seconds: float, rounds: int) -> list[Row]:
    """All rows."""
    timer = Timer(seconds, rounds)
    with tempfile.TemporaryDirectory() as home:
        bare = Bare(Path(home))
        try:
            http_rows(timer)
            await plain_rows(timer, bare)
            placed_rows(timer, bare, int(seconds * 40_000))
            whole_rows(timer, bare)
            stream_rows(timer, bare)
            cross_rows(timer, bare)
        finally:
            bare.close()
    return timer.rows


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| stage | µs | part of |", "|---|---:|---|"]
    lines += [f"| {row.name} | {row.micros:.2f} | {row.inside} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--doc", action="store_true", help="write the table into docs/reference/performance.md")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of one round of one row")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    gc.set_threshold(*GC)
    measuring: Coroutine[Any, Any, list[Row]] = measure(options.seconds, options.rounds)
    rows = uvloop.run(measuring)
    print(table(rows))
    if options.doc:
        into_page("stages", table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
