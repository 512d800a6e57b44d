"""The HTTP server and client as the smallest reverse proxy, beside nginx proxying the same bytes in the same run.

``python bench/http_proxy.py [--seconds 5] [--profile]`` needs nginx and wrk; what is not installed is left out and said.
Counted is the processor time of the proxy's own processes per request, or per event of a stream, from
/proc/<pid>/schedstat; the upstream and the load generator are processes of their own and do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import pstats
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import uvloop

from mainstay.core.clock import Clock
from mainstay.edge.http import Exchange, HttpServer
from mainstay.upstream.http import Origin, Pool, header_lines

CONNECTIONS = 32
PROMPT = b"p" * 200
REPLY = b"r" * 400
STREAMS = 64
EVENTS = 200
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"w" * 60 + b'"}}]}\n\n'
GAP = 0.005  # seconds between two events of a stream
JSON = [("content-type", "application/json")]
SSE = [("content-type", "text/event-stream")]


# ---------------------------------------------------------------------------------------------- the processes


async def upstream_handler(exchange: Exchange) -> None:
    if exchange.path != "/stream":
        exchange.send(200, JSON, REPLY)
        return
    exchange.start(200, SSE)
    for _ in range(EVENTS):
        exchange.write(EVENT)
        await asyncio.sleep(GAP)
    exchange.finish()


class Proxy:
    """Server and client, and nothing between them."""

    def __init__(self, base_url: str) -> None:
        self.origin, _ = Origin.parse(base_url)
        self.pool = Pool(Clock())
        self.headers = header_lines([("host", self.origin.authority), *JSON])

    async def __call__(self, exchange: Exchange) -> None:
        upstream = await self.pool.send(
            self.origin, exchange.method, exchange.path, self.headers, exchange.body, connect_timeout=5.0
        )
        try:
            status, headers = await upstream.head()
            reply = [("content-type", headers["content-type"])]
            if headers["content-type"] == "application/json":
                exchange.send(status, reply, await upstream.body())
                return
            exchange.start(status, reply)
            while data := await upstream.read():
                exchange.write(data)
                await exchange.drain()
            exchange.finish()
        finally:
            upstream.release()


async def serve(role: str, base_url: str, profile: bool) -> None:
    """One of the processes; prints its port, and runs until its input ends."""
    server = HttpServer(upstream_handler if role == "upstream" else Proxy(base_url))
    port = (await server.listen("127.0.0.1"))[0][1]
    print(port, flush=True)
    profiler = cProfile.Profile()
    if profile and role == "proxy":
        profiler.enable()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    if profile and role == "proxy":
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(35)
    await server.close()


async def one_stream(port: int, rounds: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(rounds):
        writer.write(b"GET /stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        tail, events = b"", 0
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                raise SystemExit("a stream was cut")
            events += (tail[-1:] + data).count(b"\n\n")
            tail = (tail + data)[-8:]
        if events != EVENTS:
            raise SystemExit(f"a stream had {events} events instead of {EVENTS}")
    writer.close()


async def stream_load(port: int, rounds: int) -> None:
    await asyncio.gather(*(one_stream(port, rounds) for _ in range(STREAMS)))


# ---------------------------------------------------------------------------------------------- the run


@contextlib.contextmanager
def process(*arguments: str) -> Generator[tuple[int, int]]:
    """Another Python process of this file: its number and its port."""
    command = [sys.executable, __file__, *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        yield child.pid, int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.wait(20)


NGINX = """
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; keepalive_requests 100000000;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location /stream {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(upstream: int) -> Generator[tuple[int, int]]:
    """nginx as the proxy: its worker's number and its port."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        raise FileNotFoundError("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        config = Path(home, "nginx.conf")
        config.write_text(NGINX.format(home=home, upstream=upstream, port=port))
        child = subprocess.Popen([program, "-c", str(config), "-p", home], stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            yield int(children[0]), port
        finally:
            child.terminate()
            child.wait(20)


def wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit("the proxy did not start")


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used, all its threads."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total / 1e9


def plain(pid: int, port: int, seconds: int) -> tuple[float, float]:
    """Microseconds of processor time per request, and requests per second."""
    with tempfile.TemporaryDirectory() as home:
        script = Path(home, "post.lua")
        script.write_text(
            f'wrk.method="POST" wrk.body=string.rep("p",{len(PROMPT)}) wrk.headers["Content-Type"]="application/json"\n'
            'done=function(s) local e=s.errors; io.write(string.format("TOTAL %d %d %d\\n",'
            "s.requests,s.duration,e.connect+e.read+e.write+e.status+e.timeout)) end\n"
        )
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-s", str(script), f"http://127.0.0.1:{port}/v1/chat/completions"]
        subprocess.run([*command, "-d1"], check=True, stdout=subprocess.DEVNULL)
        before = cpu(pid)
        done = subprocess.run([*command, f"-d{seconds}"], check=True, capture_output=True, text=True).stdout
        used = cpu(pid) - before
    total = next(line for line in done.splitlines() if line.startswith("TOTAL")).split()
    requests, duration, errors = int(total[1]), int(total[2]) / 1e6, int(total[3])
    if errors:
        raise SystemExit(f"{errors} of {requests} requests failed")
    return used / requests * 1e6, requests / duration


def streams(pid: int, port: int, rounds: int) -> tuple[float, float]:
    """Microseconds of processor time per event, and events per second."""
    before, began = cpu(pid), time.monotonic()
    subprocess.run([sys.executable, __file__, "load", str(port), str(rounds)], check=True)
    used, took = cpu(pid) - before, time.monotonic() - began
    events = STREAMS * EVENTS * rounds
    return used / events * 1e6, events / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=("upstream", "proxy", "load"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show where the proxy's time goes (and slow it down)")
    options = parser.parse_args()
    if options.role == "load":
        uvloop.run(stream_load(int(options.rest[0]), int(options.rest[1])))
        return
    if options.role is not None:
        uvloop.run(serve(options.role, *options.rest[:1] or [""], profile=options.profile))
        return
    table: list[tuple[str, float, float, float, float]] = []
    flags = ["--profile"] if options.profile else []
    with process("upstream") as (_, upstream):
        for name in ("nginx", "mainstay"):
            try:
                proxy = nginx(upstream) if name == "nginx" else process("proxy", f"http://127.0.0.1:{upstream}", *flags)
                with proxy as (pid, port):
                    table.append((name, *plain(pid, port, options.seconds), *streams(pid, port, options.rounds)))
            except FileNotFoundError as missing:
                print(f"left out: {name}, since {missing.filename or missing} is not installed")
    print(f"{'':10}{'µs/request':>12}{'requests/s':>12}{'µs/event':>12}{'events/s':>12}")
    for row in table:
        print(f"{row[0]:10}{row[1]:12.1f}{row[2]:12.0f}{row[3]:12.2f}{row[4]:12.0f}")
    if len(table) == 2:
        print(f"{'ratio':10}{table[1][1] / table[0][1]:12.2f}{'':12}{table[1][3] / table[0][3]:12.2f}")


if __name__ == "__main__":
    main()
