"""Everything that is started for a run, each as a context manager: the upstreams, nginx as the proxy, Mainstay, LiteLLM."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from bench import meter, peers, traffic

ROOT = Path(__file__).parent.parent
_START = 120.0
_STOP = 60.0


@dataclass
class Server:
    """One proxy under test: where it listens, and which processes serve. ``behind`` work for it off the hot path."""

    name: str
    port: int
    serving: list[int]
    behind: list[int] = field(default_factory=list[int])


def nginx_program() -> str | None:
    """Where nginx is; None if it is not installed."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], path: str | None = None) -> None:
    """Wait until ``port`` answers (``path`` with 200, where given). Raises ``RuntimeError``."""
    until = time.monotonic() + _START
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            if path is None:
                with socket.create_connection(("127.0.0.1", port), 1):
                    return
            else:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
                    if reply.status == 200:
                        return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers on port {port}; the process ended with {process.poll()}")


_COMMON = """
daemon off; worker_processes {workers}; pid {home}/pid; error_log {home}/error.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_buffer_size 256k; client_max_body_size 8m; tcp_nodelay on;
  {rest}
}}
"""

_UPSTREAM = """
  map $content_length $large {{ default 0; "~^[0-9]{{5,}}$" 1; }}
  server {{
    listen 127.0.0.1:{port}; default_type application/json; root {home};
    location = /v1/chat/completions {{ if ($large) {{ rewrite ^ /large.json last; }} return 200 '{chat}'; }}
    location = /v1/messages {{ return 200 '{messages}'; }}
    location = /large.json {{ error_page 405 =200 $uri; open_file_cache max=10; }}
  }}
"""

_PROXY = """
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering {buffering}; proxy_buffer_size 16k; proxy_buffers 16 16k;
    }}
  }}
"""


@contextlib.contextmanager
def _nginx(name: str, rest: str, workers: int, **values: object) -> Generator[Server]:
    program = nginx_program()
    if program is None:
        raise FileNotFoundError("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ms") as home:
        os.chmod(home, 0o755)  # its worker may be another user
        Path(home, "large.json").write_bytes(traffic.chat_reply(traffic.LARGE))
        config = Path(home, "nginx.conf")
        inside = rest.format(port=port, home=home, **values)
        config.write_text(_COMMON.format(workers=workers, home=home, rest=inside))
        child = subprocess.Popen([program, "-c", str(config), "-p", home], stderr=subprocess.DEVNULL)
        try:
            wait_for(port, child)
            while len(meter.children(child.pid)) < workers:  # the kernel accepts before the workers are there
                time.sleep(0.01)
            yield Server(name, port, meter.children(child.pid))
        finally:
            child.terminate()
            child.wait(_STOP)


def plain_upstream() -> contextlib.AbstractContextManager[Server]:
    """nginx that answers every call with the same reply, about as large as the request was."""
    replies = {"chat": traffic.chat_reply().decode(), "messages": traffic.messages_reply().decode()}
    return _nginx("upstream", _UPSTREAM, 1, **replies)


@contextlib.contextmanager
def stream_upstream(events: int, gap: float) -> Generator[Server]:
    """An upstream that streams ``events`` events, ``gap`` seconds apart."""
    command = [sys.executable, "-m", "bench.upstream", str(events), str(gap)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield Server("upstream", int(child.stdout.readline()), [child.pid])
    finally:
        child.stdin.close()
        child.wait(_STOP)
        child.stdout.close()


def nginx_proxy(upstream: int, *, buffering: bool, workers: int = 1) -> contextlib.AbstractContextManager[Server]:
    """nginx as a reverse proxy that keeps its connections, and passes streams on as they come unless ``buffering``."""
    name = "nginx" if workers == 1 else f"nginx, {workers} workers"
    return _nginx(name, _PROXY, workers, upstream=upstream, buffering="on" if buffering else "off")


@contextlib.contextmanager
def mainstay(upstream: int, workers: int = 1) -> Generator[Server]:
    """`mainstay serve` with a home of its own, as it is installed: compiled, unless the installation is an editable one."""
    secrets = {"FULL_KEY": traffic.SECRET, "PLAIN_KEY": traffic.PLAIN_KEY, "UPSTREAM_KEY": "upstream"}
    with tempfile.TemporaryDirectory(prefix="ms", ignore_cleanup_errors=True) as home:
        config = Path(home, "mainstay.yaml")
        address = f"http://127.0.0.1:{upstream}"
        config.write_text(json.dumps(traffic.bundle(f"{address}/v1", address)))
        log = Path(home, "log")
        command = [sys.executable, "-P", "-m", "mainstay", "serve", "--home", f"{home}/home", "--config", str(config)]
        command += ["--port", "0", "--workers", str(workers)]
        with log.open("w") as errors:
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **secrets}, cwd=home
            )
        assert child.stdout is not None
        try:
            line = child.stdout.readline().decode()
            if "ready at" not in line:
                raise RuntimeError(f"mainstay did not start: {line}{log.read_text()}")
            port = int(line.rsplit(":", 1)[1])
            roles = {pid: meter.command(pid) for pid in meter.children(child.pid)}
            gateways = [pid for pid, words in roles.items() if "gateway" in words]
            behind = [pid for pid in roles if pid not in gateways]
            name = "Mainstay" if workers == 1 else f"Mainstay, {workers} workers"
            yield Server(name, port, gateways, behind)
        finally:
            child.terminate()
            try:
                child.wait(_STOP)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


@contextlib.contextmanager
def litellm(upstream: int, folder: Path) -> Generator[Server]:
    """LiteLLM's proxy from the environment in ``folder``, one worker. Raises ``FileNotFoundError`` if it is not there."""
    program = folder / "bin" / "litellm"
    if not program.exists():
        raise FileNotFoundError(str(program))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ms") as home:
        config = Path(home, "litellm.yaml")
        config.write_text(peers.litellm_config(upstream, "sk-" + traffic.PLAIN_KEY))
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        environment |= {"LITELLM_TELEMETRY": "False", "NO_PROXY": "127.0.0.1", "HOME": home}
        command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        with Path(home, "log").open("w") as log:
            child = subprocess.Popen(
                [*command, "--num_workers", "1"], stdout=log, stderr=log, env=environment, cwd=home
            )
        try:
            wait_for(port, child, "/health/liveliness")
            yield Server("LiteLLM", port, meter.descendants(child.pid))
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {Path(home, 'log').read_text()[-2000:]}") from None
        finally:
            child.terminate()
            try:
                child.wait(_STOP)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def quiet(server: Server, patience: float = 20.0) -> None:
    """Wait until the processes behind ``server`` have done what the last load left them to do."""
    until = time.monotonic() + patience
    pids = [*server.behind, *server.serving]
    while time.monotonic() < until:
        before = meter.cpu(pids)
        time.sleep(0.4)
        if meter.cpu(pids) - before < 0.02:
            return
