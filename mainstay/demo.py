"""The demo that `make run` starts: the built-in simulator, a key, and lines that work as pasted."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from mainstay.serve import Supervisor
from mainstay.settings import Settings

BUNDLE = """\
# The demo bundle of `mainstay demo`: everything here is answered by the built-in simulator, which asks no model.
# Edit it while it runs: it is read again by itself, and a mistake leaves the last good one in force.
providers:
  - name: steady
    kind: sim
    sim: {latency: 80ms, tokens_per_second: 150}
  - name: shaky
    kind: sim
    sim:
      latency: 40ms
      tokens_per_second: 150
      faults:
        - {kind: server_error, rate: 0.3}
        - {kind: cut, rate: 0.2, after: 5} # breaks off after five tokens
models:
  - {name: small, target: shaky/sim-small, price: {input: 0.15, output: 0.60}}
  - {name: large, target: steady/sim-large, price: {input: 3, output: 15}}
routes:
  - name: chat
    to: {fallback: [small, large]}
    retry: {attempts: 2}
teams:
  - {name: demo, budget: {usd: 10, per: day}}
keys:
  - name: demo
    team: demo
    secret: "${MAINSTAY_DEMO_KEY}"
    limits: {requests_per_minute: 600}
"""


def run(settings: Settings) -> int:
    """Write the demo's files where they are missing, say how to call it, and serve."""
    settings.prepare()
    bundle, key_file = settings.home / "mainstay.yaml", settings.home / "demo.key"
    if not bundle.exists():
        bundle.write_text(BUNDLE)
    key = _key(key_file)
    os.environ["MAINSTAY_DEMO_KEY"] = key
    settings = replace(settings, config=bundle)
    supervisor = Supervisor(settings, greeting=lambda port: greeting(settings, port, key))
    return supervisor.run()


def greeting(settings: Settings, port: int, key: str) -> str:
    """What the demo says once it answers."""
    base = f"http://{settings.host}:{port}"
    headers = f'-H "authorization: Bearer {key}" -H "content-type: application/json"'
    body = '{"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}'
    return f"""
The demo answers at {base}   (all of it simulated: no model is asked)

  key:     {key}
  models:  chat (falls back from a shaky target to a steady one), small, large
  bundle:  {settings.home / "mainstay.yaml"}

Try it:

curl {base}/v1/chat/completions {headers} -d '{body}'

See what happened:

{_command()} calls --home {shlex.quote(str(settings.home))}
"""


def _command() -> str:
    """How the command line is called from here."""
    if sys.argv[0].endswith("__main__.py"):
        return f"{shlex.quote(sys.executable)} -m mainstay"
    return "mainstay" if shutil.which("mainstay") else shlex.quote(sys.argv[0])


def _key(path: Path) -> str:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"ms-demo-{secrets.token_urlsafe(18)}\n")
    return path.read_text().strip()
