"""Runs the examples of one page as a reader would: in one shell, against the product.

It serves the demo's bundle; a bundle on the page is added to it, and applied, where it stands. Providers that are
somewhere on the internet are replaced by loopback ones, 127.0.0.1:8080 by the server's port, and ``mainstay serve`` by
one on a free port with a home of its own that ends once it is ready. Everything else is run as it stands, in a folder
where ``.mainstay`` is the server's home.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from mainstay.registry import document
from mainstay.registry.crosscheck import Existing
from mainstay.upstream.providers import PROVIDERS, row
from tests.docs.pages import RUN, Example
from tests.provider import Behaviour, Provider, chat, messages

KEY = "ms-the-key-of-the-documents"
STAND_INS = {"the key that make run printed": KEY, "127.0.0.1:8080": "127.0.0.1:{port}"}
"""What is said to readers in words, and what it is here."""

ROWS = {kind: one.needs for kind, one in PROVIDERS.items()}
NOTHING = Existing()

_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_BEHAVIOURS: Mapping[str, tuple[Behaviour, str]] = {"openai": (chat(), "/v1"), "anthropic": (messages(), "")}
_PRELUDE = """\
set -euo pipefail
mainstay() {
  if [ "$1" != serve ]; then command mainstay "$@"; return; fi
  shift
  local folder; folder=$(mktemp -d)
  command mainstay serve --home "$folder/home" "$@" --port 0 > "$folder/said" 2> "$folder/log" &
  local process=$!
  until grep -q 'ready at' "$folder/said"; do
    kill -0 $process || { cat "$folder/log"; return 1; }
    sleep 0.05
  done
  kill -TERM $process
  wait $process
}
make() { command make --dry-run --directory "$REPOSITORY" "$@" > /dev/null; }
"""


def variables(text: str) -> dict[str, str]:
    """A value for each environment variable that a bundle names."""
    return {name: f"ms-docs-{name.lower()}-0123456789abcdef" for name in _VARIABLE.findall(text)}


def merged(blocks: list[Example]) -> dict[str, Any]:
    """One bundle of all the bundles of a page: a later entry takes the place of an earlier one of its name."""
    bundle: dict[str, Any] = {}
    for block in blocks:
        value = document.read(block.text, variables(block.text)).value
        for section, entries in cast(dict[str, list[dict[str, Any]]], value).items():
            there: list[dict[str, Any]] = bundle.setdefault(section, [])
            for entry in entries:
                at = next((i for i, one in enumerate(there) if one["name"] == entry["name"]), None)
                if at is None:
                    there.append(entry)
                else:
                    there[at] = entry
    return bundle


class Fakes:
    """Loopback providers of OpenAI's and Anthropic's format, in a thread of their own."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),))
        self._ending: Callable[[], object] = lambda: None

    async def _live(self) -> None:
        ending = asyncio.Event()
        self._ending = lambda: self._loop.call_soon_threadsafe(ending.set)
        async with Provider(_BEHAVIOURS["openai"][0]) as openai, Provider(_BEHAVIOURS["anthropic"][0]) as anthropic:
            for wire, provider in (("openai", openai), ("anthropic", anthropic)):
                self.addresses[wire] = provider.url + _BEHAVIOURS[wire][1]
            self._ready.set()
            await ending.wait()

    def __enter__(self) -> Fakes:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending()
        self._thread.join(10)
        self._loop.close()

    def substituted(self, bundle: dict[str, Any]) -> dict[str, Any]:
        """The bundle with every provider that speaks one of the two formats at its loopback address."""
        providers = bundle.get("providers", [])
        for at, provider in enumerate(providers):
            wire = provider.get("wire") or row(provider.get("kind"), None).wire
            if wire in self.addresses:
                kept = {name: provider[name] for name in ("name", "api_key", "concurrency") if name in provider}
                providers[at] = {**kept, "wire": wire, "base_url": self.addresses[wire]}
        return bundle


def script(blocks: list[Example], bundles: Callable[[int], str], folder: Path, port: int) -> str:
    """The examples as one shell script; each announces itself, so that a failure says which it was.

    ``bundles`` gives what is to be in force after so many bundles of the page.
    """
    lines = [_PRELUDE]
    seen = 0
    for block in blocks:
        text = block.text
        for said, meant in STAND_INS.items():
            text = text.replace(said, meant.replace("{port}", str(port)))
        if block.language in (*RUN, "yaml"):
            lines.append(f"echo '=== {block.where}'")
        if block.language == "yaml":
            seen += 1
            (folder / f"{seen}.yaml").write_text(bundles(seen))
            lines.append(f"cp {seen}.yaml mainstay.yaml; command mainstay apply mainstay.yaml > applied")
        elif block.language == "python":
            lines.append(f"python - <<'END_OF_EXAMPLE'\n{text}END_OF_EXAMPLE")
        elif block.language == "sh":
            lines.append(text)
    return "\n".join(lines)


def run(text: str, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script in ``folder`` with this ``mainstay`` and this Python on the path."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name, command in (("mainstay", "-m mainstay"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (tools / name).chmod(0o755)
    given = {**os.environ, **env, "PATH": f"{tools}:{os.environ['PATH']}", "NO_PROXY": "*"}
    return subprocess.run(["bash", "-c", text], cwd=folder, env=given, capture_output=True, text=True, timeout=200)


def with_key(bundle: dict[str, Any]) -> str:
    """The bundle with the key that the examples use, as a file's text."""
    bundle.setdefault("teams", []).append({"name": "docs"})
    bundle.setdefault("keys", []).append({"name": "docs", "team": "docs", "secret": "${KEY}", "admin": True})
    return json.dumps(bundle)
