"""The cases, and one round of each: what is asked of whom, what is counted."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import meter, servers, traffic
from bench.load import MARK, Spec
from bench.servers import Server

PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Case:
    """One row of the table. ``rate`` above 0: calls a second, whatever becomes of them (open loop)."""

    name: str
    model: str
    secret: str
    size: int = 200
    stream: bool = False
    workers: int = 1
    rate: float = 0.0
    flood: bool = False
    """The upstream streams without a pause between events."""
    peers: bool = False
    """LiteLLM can do the same."""

    @property
    def group(self) -> str:
        """``plain``, ``stream`` or ``latency``: what is measured."""
        return "latency" if self.rate else "stream" if self.stream else "plain"


_BARE = (traffic.BARE, traffic.PLAIN_KEY)
_FULL = (traffic.FULL, traffic.SECRET)
_CROSS = (traffic.CROSS, traffic.SECRET)

CASES = (
    Case("plain, 200 bytes, key only", *_BARE, peers=True),
    Case("plain, 200 bytes, everything on", *_FULL),
    Case("plain, 100 KB, key only", *_BARE, size=traffic.LARGE, peers=True),
    Case("plain, 100 KB, everything on", *_FULL, size=traffic.LARGE),
    Case("plain, OpenAI to Anthropic, everything on", *_CROSS),
    Case("plain, 200 bytes, everything on, two workers", *_FULL, workers=2),
    Case("stream, key only", *_BARE, stream=True, peers=True),
    Case("stream, everything on", *_FULL, stream=True),
    Case("stream, OpenAI to Anthropic, everything on", *_CROSS, stream=True),
    Case("stream without pauses, key only", *_BARE, stream=True, flood=True),
    Case("stream without pauses, everything on", *_FULL, stream=True, flood=True),
    Case("plain, 40 a second", *_BARE, rate=40, peers=True),
    Case("plain, 400 a second, everything on", *_FULL, rate=400),
    Case("stream, 20 a second, first event, everything on", *_FULL, rate=20, stream=True),
)


@dataclass(frozen=True)
class Size:
    """How much is done in one round."""

    seconds: float = 3.0
    warm: float = 1.0
    streams: int = traffic.STREAMS
    events: int = traffic.EVENTS
    gap: float = 0.005
    connections: int = traffic.CONNECTIONS
    settle: bool = True


class Failed(Exception):
    """A round of which the figures mean nothing."""


def spec_of(case: Case, server: Server, size: Size) -> Spec:
    """What the generator is to do."""
    secret, model = case.secret, case.model
    if server.name == "LiteLLM":
        secret, model = "sk-" + traffic.PLAIN_KEY, traffic.BARE
    body = traffic.chat_request(model, size=case.size, stream=case.stream, unique=f" ({MARK})")
    if case.stream:
        body = body.replace(b'"stream":true', b'"stream":true,"stream_options":{"include_usage":true}')
    headers = {"content-type": "application/json", "authorization": f"Bearer {secret}"}
    first = random.randrange(1, 9_000_000) * 1000
    return Spec(server.port, PATH, headers, body.decode(), case.stream, size.streams, 1, case.rate, size.seconds, first)


def generate(spec: Spec) -> dict[str, Any]:
    """Run the generator in a process of its own. Raises ``Failed``."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(spec),
        capture_output=True,
        cwd=servers.ROOT,
        timeout=600,
    )
    if done.returncode:
        raise Failed(done.stderr.decode()[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    if found["errors"]:
        raise Failed(f"{found['errors']} of {found['calls']} calls failed: {found['error']}")
    return found


_LUA = """
local before, after, count = {before}, {after}, {first}
request = function()
  count = count + 1
  return wrk.format("POST", nil, nil, before .. string.format("%010d", count) .. after)
end
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {secret}"
done = function(s)
  local e = s.errors
  io.write(string.format("TOTAL %d %d %d\\n", s.requests, s.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(case: Case, server: Server, size: Size, seconds: float) -> tuple[int, float]:
    """A closed loop of plain calls; how many there were, and in how many seconds. Raises ``Failed``."""
    spec = spec_of(case, server, size)
    before, _, after = spec.body.partition(MARK)
    with tempfile.TemporaryDirectory() as home:
        script = Path(home, "post.lua")
        secret = spec.headers["authorization"].removeprefix("Bearer ")
        quoted = {"before": json.dumps(before), "after": json.dumps(after)}
        script.write_text(_LUA.format(first=spec.first, secret=secret, **quoted))
        address = f"http://127.0.0.1:{server.port}{PATH}"
        command = ["wrk", "-t1", f"-c{size.connections}", "-d600", "--timeout", "30", "-s", str(script), address]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)  # its own durations are whole seconds
        except BaseException:
            running.kill()
            raise
        try:
            said = running.communicate(timeout=60)[0]
        finally:
            running.kill()
    lines = [line.split() for line in said.splitlines() if line.startswith("TOTAL")]
    if not lines:
        raise Failed(f"wrk said {said[-500:]!r}")
    requests, duration, errors = (int(word) for word in lines[0][1:])
    if errors or not requests:
        raise Failed(f"{errors} of {requests} requests to {server.name} failed in {case.name!r}")
    return requests, duration / 1e6


@dataclass
class Measured:
    """One round. Microseconds of processor time per request or event, of those who serve and of those behind them."""

    micros: float
    behind: float
    per_second: float


def measure(case: Case, server: Server, size: Size, warm: bool) -> Measured:
    """One round of a closed-loop case. Raises ``Failed``."""
    if case.group == "plain" and warm and size.warm:
        try:
            wrk(case, server, size, size.warm)
        except Failed:  # not even one reply in that time; the round itself will tell whether that was all
            pass
    before, began = meter.cpu(server.serving), meter.cpu(server.behind)
    if case.group == "plain":
        count, seconds = wrk(case, server, size, size.seconds)
    else:
        found = generate(spec_of(case, server, size))
        count, seconds = size.streams * size.events, found["seconds"]
        if found["events"] < size.streams * (size.events - 6):
            raise Failed(f"{found['events']} events came through {server.name}, not {count}")
    used = meter.cpu(server.serving) - before
    if size.settle:
        servers.quiet(server)
    behind = meter.cpu(server.behind) - began
    return Measured(used / count * 1e6, behind / count * 1e6, count / seconds)


def latency(case: Case, server: Server, size: Size) -> dict[str, float]:
    """One round of an open-loop case: percentiles in milliseconds, of the whole reply or of a stream's first event."""
    found = generate(spec_of(case, server, size))
    time.sleep(0.1)
    percentiles: dict[str, float] = found["first_ms" if case.stream else "whole_ms"]
    return percentiles
