"""A home and the command line on it, with nothing serving; and one that is served."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import Server

DESIGN = """\
# mainstay.yaml: this file must work as written
providers:
  - {name: alpha, wire: openai,    base_url: "http://127.0.0.1:9101/v1", api_key: "${ALPHA_KEY}"}
  - {name: beta,  wire: anthropic, base_url: "http://127.0.0.1:9102",    api_key: "${BETA_KEY}"}
models:
  - {name: small, target: alpha/gpt-small, price: {input: 0.15, output: 0.60, cached_input: 0.075}}   # USD per million tokens
  - {name: large, target: beta/claude-large, price: {input: 3, output: 15}}                          # left out: the price book; unknown there too: null
routes:                       # a route is what callers may put in "model", as may be a model's own name
  - name: chat
    to: {fallback: [{weighted: {small: 9, large: 1}}, large]}     # a tree: fallback, weighted, cheapest, fastest, least_busy, when
    retry: {attempts: 2}
    timeouts: {connect: 2s, first_token: 5s, idle: 10s, plain: 30s, total: 60s}   # plain: until the first byte of an unstreamed reply
    cache: {ttl: 10m}
teams:
  - {name: support, budget: {usd: 50, per: month}}
keys:
  - name: support-web
    team: support
    secret: "${SUPPORT_WEB_KEY}"
    models: [chat, small]
    limits: {requests_per_minute: 600, tokens_per_minute: 200000, concurrent: 50}
    budget: {usd: 5, per: day}
"""  # noqa: E501
VARIABLES = {"ALPHA_KEY": "of-alpha", "BETA_KEY": "of-beta", "SUPPORT_WEB_KEY": "sk-support-web-0123456789"}

SIM = """\
providers: [{name: sim, kind: sim, sim: {latency: 1ms, tokens_per_second: 10000}}]
models: [{name: hello, target: sim/m, price: {input: 1, output: 2}}]
teams: [{name: tests}]
keys: [{name: tests, team: tests, secret: "${TEST_KEY}", admin: true}]
"""


class Shell:
    """The command line on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, **VARIABLES, "COLUMNS": "200"}

    def __call__(
        self, *arguments: str, home: Path | None = None, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; a variable that is None is not set."""
        given = {**self.environment, **environment}
        env = {name: value for name, value in given.items() if value is not None}
        command = [sys.executable, "-m", "mainstay", *arguments]
        if home is not None or not {"import", "schema", "--help"} & set(arguments):
            command += ["--home", str(home or self.home)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)

    def ok(self, *arguments: str, **environment: str | None) -> str:
        """Run a command that must succeed; what it printed."""
        done = self(*arguments, **environment)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def wrong(self, *arguments: str, status: int = 1, **environment: str | None) -> str:
        """Run a command that must fail, with a sentence and no traceback; what it said."""
        done = self(*arguments, **environment)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
        return done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Nothing serves its home."""
    return Shell(tmp_path / "home")


@pytest.fixture
def design(tmp_path: Path) -> Path:
    """The file of the design."""
    path = tmp_path / "mainstay.yaml"
    path.write_text(DESIGN)
    return path


@pytest.fixture(scope="package")
def served() -> Iterator[tuple[Server, Shell]]:
    """A home that is served by two gateways."""
    with Server(SIM, workers=2) as server:
        yield server, Shell(server.home)
