"""`mainstay serve` from start to end: ports, homes, restarts, signals, reloads, crashes, and what it says about them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.running import KEY, Server

T = TypeVar("T")

SIM = """\
providers: [{name: sim, kind: sim, sim: {latency: 1ms, tokens_per_second: %d}}]
models: [{name: chat, target: sim/m, price: {input: 1, output: 2}}]
teams: [{name: tests, budget: {usd: 50, per: total}}]
keys: [{name: tests, team: tests, secret: "${TEST_KEY}", admin: true}]
"""
QUICK = SIM % 10000


def until(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 20.0) -> T:
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.02)


def ask(server: Server, model: str = "chat", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers={"x-api-key": KEY}, timeout=30, trust_env=False)


def api(server: Server, path: str) -> Any:
    return httpx.get(server.url + path, headers={"x-api-key": KEY}, timeout=30, trust_env=False).json()


def serve(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `serve`, which is expected to end by itself."""
    command = [sys.executable, "-m", "mainstay", "serve", "--home", str(home), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that the tests may not break."""
    with Server(QUICK) as running:
        yield running


# ---------------------------------------------------------------- beginnings


def test_a_port_that_is_taken_is_said_at_once(server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    done = serve("--port", str(server.port), home=tmp_path / "home")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"mainstay: cannot listen on 127.0.0.1:{server.port}: Address already in use; .*\n", done.stderr
    )
    assert time.monotonic() - started < 10


def test_a_home_that_is_served_already_is_said_and_left_alone(server: Server) -> None:
    done = serve("--port", "0", home=server.home)
    assert done.returncode == 1
    assert "is served already by process" in done.stderr
    assert f"on port {server.port}" in done.stderr
    assert ask(server).status_code == 200
    assert "is connected" in server.command("doctor").stdout


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    done = serve("--host", "203.0.113.1", "--port", "0", home=tmp_path / "home")
    assert done.returncode == 1
    assert "cannot listen on 203.0.113.1:0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_with_mistakes_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "mainstay.yaml"
    file.write_text("models: [{name: x, target: nobody/x}]\nroutes: [{name: y, too: x}]\n")
    done = serve("--port", "0", "--config", str(file), home=tmp_path / "home")
    assert done.returncode == 1
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == ["1", "2", "2"], done.stderr
    done = serve("--port", "0", "--config", str(tmp_path / "absent.yaml"), home=tmp_path / "home")
    assert done.returncode == 1
    assert "absent.yaml:1: cannot be read" in done.stderr


def test_a_database_that_cannot_be_reached(tmp_path: Path) -> None:
    secret = "a-password-nobody-should-see"
    for address in (f"postgresql+asyncpg://u:{secret}@127.0.0.1:1/x", "mysql://x"):
        done = serve("--port", "0", home=tmp_path / "home", MAINSTAY_DATABASE=address)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "database" in done.stderr
        assert secret not in done.stderr


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("no certificate")
    given = {"MAINSTAY_TLS_CERT": str(file), "MAINSTAY_TLS_KEY": str(tmp_path / "absent")}
    done = serve("--port", "0", home=tmp_path / "home", **given)
    assert done.returncode == 1
    assert "cert.pem or its key cannot be used" in done.stderr
    done = serve("--port", "0", home=tmp_path / "home", MAINSTAY_TLS_CERT=str(file))
    assert done.returncode == 1
    assert "go together" in done.stderr


def test_a_fresh_home_without_a_bundle_says_what_to_do_next(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mainstay", "serve", "--home", str(tmp_path / "home"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split()[-1]
        said = process.stdout.readline() + process.stdout.readline()
        assert "Nothing is configured yet" in said
        assert f"mainstay apply mainstay.yaml --home {tmp_path / 'home'}" in said
        assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
        assert httpx.post(f"{url}/v1/chat/completions", json={}, trust_env=False).status_code == 401
        file = tmp_path / "mainstay.yaml"
        file.write_text(QUICK)
        home = ["--home", str(tmp_path / "home")]
        for arguments in (["apply", str(file)], ["keys", "create", "--team", "tests", "--name", "x"]):
            env = {**os.environ, "TEST_KEY": KEY}
            done = subprocess.run(
                [sys.executable, "-m", "mainstay", *arguments, *home], env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        listed = httpx.get(f"{url}/v1/models", headers={"x-api-key": done.stdout.strip()}, trust_env=False)
        assert [one["id"] for one in listed.json()["data"]] == ["chat"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


# ---------------------------------------------------------------- reloads


def test_the_bundle_is_read_again_and_a_bad_one_leaves_the_last_good_one() -> None:
    with Server(QUICK, workers=3) as server:
        assert len(server.children("gateway")) == 3
        before = {one.pid for one in server.children("gateway")}
        two = QUICK.replace("models: [", "models: [{name: more, target: sim/more, price: {input: 1, output: 1}}, ")
        server.write(two)
        until(lambda: ask(server, "more").status_code, lambda code: code == 200)
        assert {ask(server, "more").status_code for _ in range(9)} == {200}  # on every gateway
        assert "mainstay.yaml was read again\n  added     model more" in server.log.read_text()
        server.write(two.replace("name: more", "nam: more"))
        until(lambda: api(server, "/api/v1/health")["config_error"], lambda error: error is not None)
        assert ask(server, "more").status_code == 200
        doctor = server.command("doctor", check=False)
        assert doctor.returncode == 1
        assert f"{server.config}:2: " in doctor.stdout
        assert 'did you mean "name"' in doctor.stdout
        server.config.unlink()
        until(lambda: api(server, "/api/v1/health")["config_error"] or "", lambda error: "cannot be read" in error)
        assert ask(server, "more").status_code == 200
        server.write(QUICK)
        until(lambda: ask(server, "more").status_code, lambda code: code == 404)
        until(lambda: api(server, "/api/v1/health")["config_error"], lambda error: error is None)
        assert "WRONG" not in server.command("doctor").stdout
        # applied by hand it is in force at once; SIGHUP puts the file in force again
        file = server.config.with_name("other.yaml")
        file.write_text("models: [{name: hand, target: sim/hand, price: {input: 1, output: 1}}]")
        server.command("apply", str(file))
        assert {ask(server, "hand").status_code for _ in range(9)} == {200}
        assert server.process is not None
        count = server.log.read_text().count("was read again")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.log.read_text().count("was read again"), lambda seen: seen == count + 1)
        assert ask(server, "hand").status_code == 200
        assert {one.pid for one in server.children("gateway")} == before  # and nothing was restarted
        assert "Traceback" not in server.log.read_text()


# ---------------------------------------------------------------- ends and restarts


def test_an_idle_server_ends_at_once() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Server(QUICK) as server:
            idle = httpx.Client(
                base_url=server.url, trust_env=False
            )  # a connection that is kept alive holds nothing up
            idle.get("/health/ready")
            started = time.monotonic()
            assert server.stop(number) == 0
            assert time.monotonic() - started < 3
            idle.close()
            assert server.log.read_text() == ""


def test_a_drain_lets_what_is_in_flight_end() -> None:
    with Server(SIM % 100) as server:
        ended: list[str] = []
        begun = threading.Event()

        def stream() -> None:
            body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "x"}], "max_tokens": 150}
            headers = {"x-api-key": KEY}
            with httpx.stream(
                "POST", f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=30, trust_env=False
            ) as reply:
                for line in reply.iter_lines():
                    begun.set()
                    ended.append(line)

        thread = threading.Thread(target=stream)
        thread.start()
        assert begun.wait(10)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        until(lambda: _refused(server.port), bool)  # nothing new is taken
        assert server.process.poll() is None
        thread.join()
        assert "data: [DONE]" in ended
        assert server.stop() == 0
        assert [one["outcome"] for one in server.calls()] == ["ok"]


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_restart_keeps_keys_budgets_and_calls() -> None:
    with Server(QUICK) as server:
        secret = server.command("keys", "create", "--team", "tests", "--name", "kept").stdout.strip()
        asked = {ask(server).headers["x-mainstay-call"] for _ in range(5)}
        until(lambda: api(server, "/api/v1/budgets?exact=true")["data"][0]["spent_usd"], lambda usd: float(usd) > 0)
        assert server.stop() == 0
        server.start()  # on the same port, at once
        url = f"{server.url}/v1/models"
        assert httpx.get(url, headers={"x-api-key": secret}, trust_env=False).status_code == 200
        calls = server.calls()
        assert {one["id"] for one in calls} == asked
        spent = sum(float(one["cost_usd"]) for one in calls)
        (budget,) = api(server, "/api/v1/budgets?exact=true")["data"]
        assert float(budget["spent_usd"]) == pytest.approx(spent, abs=1e-12)


def test_a_killed_supervisor_leaves_nothing_behind_and_its_port_is_free_at_once() -> None:
    with Server(QUICK, workers=2) as server:
        asked = ask(server).headers["x-mainstay-call"]
        children = [*server.children("control"), *server.children("gateway")]
        assert len(children) == 3
        assert server.stop(signal.SIGKILL) == -9
        server.start()
        assert ask(server).status_code == 200
        until(lambda: [one.is_running() for one in children], lambda seen: not any(seen))
        until(lambda: [one["id"] for one in server.calls()], lambda seen: asked in seen and len(seen) == 2)
        assert "WRONG" not in server.command("doctor").stdout


# ---------------------------------------------------------------- crashes


def test_without_control_the_gateways_go_on_and_it_comes_back() -> None:
    with Server(QUICK) as server:
        assert ask(server).status_code == 200  # and a share of the budget is there
        (control,) = server.children("control")
        control.send_signal(signal.SIGSTOP)  # alive, and answering nothing
        assert ask(server).status_code == 200
        control.kill()
        assert ask(server).status_code == 200
        # A command waits for it rather than fail; and nobody else took the home meanwhile.
        assert "tests" in server.command("keys", "list").stdout
        log = until(server.log.read_text, lambda text: "control ended" in text)
        assert "mainstay: control ended (by SIGKILL); starting it again in 0.2 s" in log
        (again,) = until(lambda: server.children("control"), lambda seen: len(seen) == 1)
        assert again.pid != control.pid
        doctor = server.command("doctor", check=False)
        assert "control has ended by itself once, the last time" in doctor.stdout
        assert "by SIGKILL" in doctor.stdout
        assert len(server.calls()) == 3


def test_a_gateway_that_keeps_dying_is_started_with_growing_pauses() -> None:
    with Server(QUICK, workers=2) as server:
        for times in range(1, 4):
            gateways = until(lambda: server.children("gateway"), lambda seen: len(seen) == 2)
            first = next(one for one in gateways if "--number 0" in " ".join(one.cmdline()))
            first.kill()
            until(server.log.read_text, lambda text, times=times: text.count("gateway 0 ended (by SIGKILL)") == times)
            assert ask(server).status_code == 200  # the other answers
        pauses = re.findall(r"starting it again in ([0-9.]+) s", server.log.read_text())
        assert pauses == ["0.2", "0.4", "0.8"]
        until(lambda: len(api(server, "/api/v1/health")["gateways"]), lambda count: count == 2)
        assert "gateway 0 has ended by itself 3 times" in server.command("doctor", check=False).stdout


def test_control_that_cannot_start_again_is_reported() -> None:
    with Server(QUICK) as server:
        assert ask(server).status_code == 200
        (control,) = server.children("control")
        key = server.home / "secret.key"
        key.chmod(0o644)
        control.kill()
        until(server.log.read_text, lambda text: text.count("control ended (status 1)") >= 2)
        assert "others may read the master key" in server.log.read_text()
        assert ask(server).status_code == 200
        doctor = server.command("doctor", check=False)
        assert doctor.returncode == 1
        assert "control has ended by itself" in doctor.stdout
        assert "the control process of" in doctor.stdout
        assert "Traceback" not in doctor.stderr
        key.chmod(0o600)
        until(lambda: server.command("doctor", check=False).stdout, lambda text: "is connected" in text, 40)
        assert len(server.calls()) == 2


# ---------------------------------------------------------------- the demo


def test_make_run_starts_the_demo_on_the_port_that_is_asked_for() -> None:
    root = Path(__file__).parents[2]
    planned = subprocess.run(["make", "-n", "run", "PORT=8123"], cwd=root, capture_output=True, text=True, timeout=30)
    assert planned.returncode == 0, planned.stderr
    assert "mainstay demo --port 8123" in planned.stdout


def test_the_demos_lines_work_as_pasted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = tmp_path / "a home"
    command = [sys.executable, "-m", "mainstay", "demo", "--home", str(home), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while " calls --home " not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        curl = next(line for line in said.splitlines() if line.startswith("curl "))
        reply = subprocess.run(["bash", "-c", f"{curl} -sS"], capture_output=True, text=True, timeout=30)
        assert json.loads(reply.stdout)["choices"][0]["message"]["content"], reply.stderr
        calls = next(line.strip() for line in said.splitlines() if " calls --home " in line)
        calls = calls.replace(calls.split(" calls ")[0], f"{sys.executable} -m mainstay")
        until(
            lambda: subprocess.run(["bash", "-c", calls], capture_output=True, text=True).stdout,
            lambda out: "ok" in out,
        )
        assert (home / "demo.key").stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
