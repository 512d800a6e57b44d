"""The packaged product, running: `mainstay serve` on a free port with a home of its own, as a fixture for real tests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
KEY = "ms-test-secret-of-the-tests"


class Server:
    """One `mainstay serve`. Use it as a context manager."""

    def __init__(
        self, bundle: str | Mapping[str, Any], *, workers: int = 1, home: Path | None = None, **env: str
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ms", dir="/tmp", ignore_cleanup_errors=True)
        self.home = home or Path(self._folder.name) / "home"
        self.config = Path(self._folder.name) / "mainstay.yaml"
        self.write(bundle)
        self._workers = workers
        self._env = {**os.environ, "TEST_KEY": KEY, **env}
        self.process: subprocess.Popen[str] | None = None
        self.port = 0
        self.log = Path(self._folder.name) / "log"

    def write(self, bundle: str | Mapping[str, Any]) -> None:
        """Replace the bundle's file."""
        text = bundle if isinstance(bundle, str) else json.dumps(bundle)
        draft = self.config.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.config)

    def start(self) -> Server:
        """Start it and wait until it says that it is ready."""
        command = [sys.executable, "-m", "mainstay", "serve", "--home", str(self.home), "--config", str(self.config)]
        command += ["--port", str(self.port), "--workers", str(self._workers)]
        errors = self.log.open("a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=self._env)
        errors.close()
        assert self.process.stdout is not None
        watchdog = threading.Timer(
            90, self.process.kill
        )  # a server that never starts fails its test, and hangs nothing
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        assert "ready at" in line, (line, self.log.read_text())
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> httpx.AsyncClient:
        """An HTTP client with the key."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False, **more)

    def children(self, role: str) -> list[psutil.Process]:
        """The processes of one role, ``control`` or ``gateway``."""
        assert self.process is not None
        found: list[psutil.Process] = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if role in child.cmdline():
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line on the same home."""
        command = [sys.executable, "-m", "mainstay", *arguments, "--home", str(self.home)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._env, timeout=120)
        assert not check or done.returncode == 0, (done.stdout, done.stderr)
        return done

    def calls(self, *arguments: str) -> list[dict[str, Any]]:
        """The ledger, as `mainstay calls --json` prints it."""
        return [json.loads(line) for line in self.command("calls", "--json", *arguments).stdout.splitlines()]

    async def until_calls(self, count: int, *arguments: str, seconds: float = 20.0) -> list[dict[str, Any]]:
        """Wait until the ledger has at least ``count`` calls."""
        return await eventually(lambda: self.calls(*arguments), lambda found: len(found) >= count, seconds)


def of_the_source() -> dict[str, str]:
    """The environment of a child that imports the tests or the bench, and so the source beside them."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


async def eventually(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 10.0) -> T:
    """Look until it is good; what was seen last, if it never was, fails the test."""
    until = time.monotonic() + seconds
    while True:
        seen = await asyncio.to_thread(look)
        if good(seen):
            return seen
        assert time.monotonic() < until, seen
        await asyncio.sleep(0.05)


def bundle(providers: Mapping[str, str], models: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A bundle with a key that may use everything. ``providers``: name to ``wire@address``."""
    made: list[dict[str, Any]] = []
    for name, place in providers.items():
        wire, _, address = place.partition("@")
        made.append({"name": name, "wire": wire, "base_url": address, "api_key": f"key-of-{name}"})
    return {
        "providers": made,
        "models": [{"name": name, **body} for name, body in models.items()],
        "teams": [{"name": "tests"}],
        "keys": [{"name": "tests", "team": "tests", "secret": "${TEST_KEY}", "admin": True}],
        **more,
    }
