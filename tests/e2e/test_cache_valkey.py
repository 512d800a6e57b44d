"""The cache of several machines, through a Valkey or Redis server: shared, refreshed for all, and no loss when it is gone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_cache_shared import Bench, answer_of, configured, metric, metric_becomes, numbered, states
from tests.gateway.test_cache_shared import URL, needs_server
from tests.provider import Provider, messages
from tests.running import Server


async def stored(server: Server, count: int) -> None:
    await metric_becomes(server, "mainstay_gateway_cache_stored_total", count)


@needs_server
async def test_machines_share_it() -> None:
    env = {"MAINSTAY_CACHE_URL": URL, "MAINSTAY_SECRET_KEY": secrets.token_urlsafe(32)}
    async with Provider(numbered()) as alpha, Provider(messages()) as beta:
        config = configured(alpha, beta)
        stranger = {**env, "MAINSTAY_SECRET_KEY": secrets.token_urlsafe(32)}
        with Server(config, **env) as one, Server(config, **env) as two, Server(config, **stranger) as three:
            here, there, elsewhere = (Bench(server, alpha, beta) for server in (one, two, three))
            first = await here.ask("hello")
            await stored(one, 1)
            again = await there.ask("hello")
            assert states([first, again]) == ["miss", "hit"]
            assert again.content == first.content
            assert here.asked == 1
            assert states([await elsewhere.ask("hello")]) == ["miss"], "another installation"
            renewed = await there.ask("hello", headers={"x-mainstay-cache": "refresh"})
            await stored(two, 1)
            for bench in (here, there):
                reply = await bench.ask("hello")
                assert (states([reply]), answer_of(reply)) == (["hit"], answer_of(renewed))
            assert not here.folder.exists()
            assert one.command("cache", "clear").stdout == "removed 1 entry\n"
            assert states([await there.ask("hello")]) == ["miss"]
            one.command("cache", "clear")
            three.command("cache", "clear")


async def test_a_server_that_is_not_there_costs_nothing_but_hits(tmp_path: Path) -> None:
    async with Provider(numbered()) as alpha, Provider(messages()) as beta:
        address = "redis://:hidden@127.0.0.1:1/0"
        with Server(configured(alpha, beta), home=tmp_path, MAINSTAY_CACHE_URL=address) as server:
            bench = Bench(server, alpha, beta)
            assert states([await bench.ask("hello") for _ in range(3)]) == ["miss", "hit", "hit"]
            await metric_becomes(server, "mainstay_gateway_cache_store_failing", 1)
            assert await metric(server, "mainstay_gateway_cache_not_stored_total") >= 1
            log = server.log.read_text()
            assert log.count("the cache goes on in memory") == 1
            assert "hidden" not in log
            failed = server.command("cache", "clear", check=False)
            assert failed.returncode == 1
            assert "MAINSTAY_CACHE_URL" in failed.stderr
            assert "hidden" not in failed.stderr
            assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("address", ["localhost:6379", "http://:hidden@127.0.0.1", "redis://:hidden@host:port/0"])
def test_a_wrong_address_is_refused_before_anything_starts(tmp_path: Path, address: str) -> None:
    command = [sys.executable, "-m", "mainstay", "serve", "--home", str(tmp_path), "--port", "0"]
    env = {**os.environ, "MAINSTAY_CACHE_URL": address}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 1
    assert "cache_url is the address of a server" in done.stderr
    assert "hidden" not in done.stderr
