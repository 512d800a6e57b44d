"""A canary in every place where a secret or a person's words enter, and then a search of all that is left behind."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.provider import SSE, Asked, Wire, chat_chunk, chat_reply
from tests.running import Server
from tests.security.rig import ADMIN, BLUE, RED, UPSTREAM_KEY, House, Upstream, the_bundle, until

ASKED, TOLD, MADE = "canary-of-a-prompt-51b8", "canary-of-an-answer-c04e", "canary-in-an-error-9d77"
WRONG = "ms-canary-of-a-mistyped-key-2af6"
CONTENT = [ASKED, TOLD, MADE]
SECRETS = [UPSTREAM_KEY, ADMIN, RED, BLUE, WRONG]


async def behave(wire: Wire, asked: Asked) -> None:
    """Says the canary in every way in which a provider can: in an answer, an error, a header, something unreadable."""
    said = asked.body.decode("utf-8", "replace")
    if "error please" in said:
        wrong = {"error": {"message": f"{MADE} with key {UPSTREAM_KEY}", "type": "invalid_request_error", "code": None}}
        return await wire.plain(400, json.dumps(wrong).encode(), {"x-request-id": MADE})
    if "refused please" in said:
        wrong = {
            "error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}", "type": "x", "code": "invalid_api_key"}
        }
        return await wire.plain(401, json.dumps(wrong).encode())
    if "broken please" in said:
        return await wire.plain(200, f"<html>{MADE} {UPSTREAM_KEY}".encode())
    if asked.stream:
        await wire.head(200, SSE)
        await wire.chunk(chat_chunk({"role": "assistant", "content": TOLD}))
        if "malformed please" in said:
            await wire.chunk(f"data: {{{MADE}\n\n".encode())
        await wire.chunk(chat_chunk({}, "stop") + b"data: [DONE]\n\n")
        return await wire.end()
    await wire.plain(200, chat_reply([TOLD]))


@pytest.fixture(scope="module")
def lived() -> Iterator[House]:
    """A house after traffic of every sort, with everything logged."""
    with Upstream(behave) as upstream:
        bundle = the_bundle(upstream.provider.url)
        bundle["routes"] = [{"name": "routed", "to": {"fallback": ["chat", "dear"]}, "cache": {"ttl": "1h"}}]
        with Server(bundle, MAINSTAY_LOG="DEBUG") as server:
            house = House(server, upstream)
            _live(house)
            yield house
            house.http.close()


def _live(house: House) -> None:
    count = 0
    for model in ("chat", "routed"):
        for text in ("", "error please", "broken please", "malformed please", "refused please"):
            for stream in (False, True):
                message = {"role": "user", "content": f"{ASKED} {text} {count}"}
                more: dict[str, Any] = {"stream": stream, "metadata": {"x": ASKED}, "instructions": ASKED}
                more |= {"input": f"{ASKED} {text}", "max_tokens": 5, "store": False}
                for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
                    body = json.dumps({"model": model, "messages": [message], **more})
                    house.body(body, path, BLUE)
                    count += 1
    house.chat(BLUE, messages=[{"role": "user", "content": ASKED}], nonsense=ASKED)
    house.chat(RED, model="dear")
    house.chat(WRONG)
    house.chat(WRONG, headers={"x-api-key": WRONG})
    house.body(ASKED.encode() + b"\xff", key=RED)
    house.body(b'{"model": "chat", "messages": "' + ASKED.encode(), key=RED)
    house.body(json.dumps({"model": "chat", "input": ASKED}), "/v1/embeddings", RED)
    house.ask("GET", f"/v1/models?key={WRONG}", key=RED)
    house.ask("GET", f"/api/v1/keys?token={WRONG}")
    house.ask("POST", "/api/v1/keys", json={"team": "red", "name": "x", "secret": WRONG})
    house.ask("POST", "/api/v1/bundles", json={"text": "providers: [{api_key: '${A}'}]", "environment": {"A": WRONG}})
    house.raw(b"GET /" + WRONG.encode() + b" HTTP/9\r\n\r\n")
    house.raw(b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: " + WRONG.encode() + b"\x00\r\n\r\n")
    made = house.ask("POST", "/api/v1/keys", json={"team": "red", "name": "made"}).json()["secret"]
    SECRETS.append(made)
    SECRETS.append(house.ask("POST", "/api/v1/keys/red/made/rotate", json={"overlap": 3600}).json()["secret"])
    stored = until(
        lambda: house.ask("GET", "/api/v1/health").json()["ledger"],
        lambda seen: seen["stored"] >= count and seen["lag_bytes"] == 0,
        20,
    )
    assert stored["dropped"] == 0


def found_in(data: bytes, words: list[str]) -> list[str]:
    return [word for word in words if word.encode() in data]


def test_nothing_secret_and_no_content_is_anywhere_in_the_home(lived: House) -> None:
    """Journals, snapshot, databases with their logs, sockets' folder, Parquet: as bytes, and as what they mean."""
    seen: set[str] = set()
    for path in sorted(lived.server.home.rglob("*")):
        if not path.is_file():
            continue
        seen.add(path.suffix or path.name)
        # The cache holds answers, and nothing else does unless it is told to; no key is even there.
        cached = path.parent.name == "cache"
        assert found_in(path.read_bytes(), SECRETS if cached else [*SECRETS, *CONTENT]) == [], path
        assert not cached or path.stat().st_mode & 0o077 == 0, path
        if path.suffix == ".parquet":
            rows = duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall()
            assert found_in(repr(rows).encode(), [*SECRETS, *CONTENT]) == [], path
    assert {".db", "snapshot", ".parquet"} <= seen, seen
    database = sqlite3.connect(lived.server.home / "mainstay.db")
    text = "\n".join(database.iterdump())
    database.close()
    assert "behaviour" in text or "artifacts" in text
    assert found_in(text.encode(), [*SECRETS, *CONTENT]) == []


def test_nothing_secret_and_no_content_is_in_a_log_though_everything_is_logged(lived: House) -> None:
    log = lived.server.log.read_bytes()
    assert b"DEBUG" in log
    assert found_in(log, [*SECRETS, *CONTENT]) == []


def test_nothing_secret_is_in_what_control_tells(lived: House) -> None:
    for path in (
        "/metrics",
        "/api/openapi.json",
        "/api/v1/health",
        "/api/v1/keys",
        "/api/v1/teams",
        "/api/v1/models",
        "/api/v1/budgets",
        "/api/v1/changes?limit=1000",
        "/api/v1/artifacts/provider",
        "/api/v1/artifacts/provider/up",
        "/api/v1/calls?limit=1000",
    ):
        reply = lived.ask("GET", path)
        assert reply.status_code == 200, path
        assert found_in(reply.content, [*SECRETS, *CONTENT]) == [], path


def test_nothing_secret_is_in_an_error(lived: House) -> None:
    """A provider's error that quotes our key is not passed on with it; nor is a caller's own key said back."""
    for text in ("error please", "broken please", "refused please"):
        for path in ("/v1/chat/completions", "/v1/messages"):
            body = {"model": "chat", "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
            for stream in (False, True):
                reply = lived.body(json.dumps({**body, "stream": stream}), path, BLUE)
                assert reply.status_code >= 400
                assert found_in(reply.content + repr(reply.headers).encode(), SECRETS) == [], reply.text
    for reply in (
        lived.chat(WRONG),
        lived.ask("GET", "/api/v1/keys", key=WRONG),
        lived.ask("GET", f"/api/v1/keys?token={WRONG}"),
        lived.ask("POST", "/api/v1/keys", json={"team": "red", "name": "x", "secret": WRONG}),
    ):
        assert reply.status_code >= 400
        assert found_in(reply.content, SECRETS) == [], reply.text


def test_a_process_shows_no_secret_in_its_arguments(lived: House) -> None:
    for role in ("control", "gateway"):
        for process in lived.server.children(role):
            assert found_in(" ".join(process.cmdline()).encode(), SECRETS) == []


def test_the_home_is_nobody_elses_to_read(lived: House) -> None:
    home = lived.server.home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for path in home.rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert not mode & 0o077, (path, oct(mode))
    sockets = [path for path in (home / "run").iterdir() if path.is_socket()]
    assert {path.name for path in sockets} >= {"admin.sock", "control.sock", "link.sock"}


def test_a_home_that_was_there_already_has_the_same_walls(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    os.chmod(home, 0o755)
    with Server({"teams": [{"name": "x"}]}, home=home) as server:
        server.command("keys", "create", "--team", "x", "--name", "y")
        for path in home.rglob("*"):
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
