"""keys, calls, budgets, prices, doctor: while serving, and while nothing runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import SIM, Shell
from tests.running import KEY, Server

Served = tuple[Server, Shell]


def ask(server: Server, key: str = KEY, **more: object) -> httpx.Response:
    body = {"model": "hello", "messages": [{"role": "user", "content": "hello"}], **more}
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=False)


def seen(shell: Shell, *arguments: str, count: int = 1) -> list[dict[str, object]]:
    until = time.monotonic() + 15
    while True:
        found = [json.loads(line) for line in shell.ok("calls", "--json", *arguments).splitlines()]
        if len(found) >= count:
            return found
        assert time.monotonic() < until, found


def test_a_keys_life_while_serving(served: Served) -> None:
    server, shell = served
    secret = shell.ok("keys", "create", "--team", "new", "--name", "life").strip()
    assert ask(server, secret).status_code == 200
    assert "exists" in (said := shell.wrong("keys", "create", "--team", "new", "--name", "life")) or "already" in said
    turned = json.loads(shell.ok("keys", "rotate", "--team", "new", "--name", "life", "--overlap", "1h", "--json"))
    assert ask(server, secret).status_code == ask(server, turned["secret"]).status_code == 200
    assert "previous_until" in turned
    newest = shell.ok("keys", "rotate", "--team", "new", "--name", "life").strip()
    assert ask(server, secret).status_code == ask(server, turned["secret"]).status_code == 401
    listed = [json.loads(line) for line in shell.ok("keys", "list", "--team", "new", "--json").splitlines()]
    assert [(one["name"], one["last4"]) for one in listed] == [("life", newest[-4:])]
    assert newest not in shell.ok("keys", "list")
    assert shell.ok("keys", "revoke", "--team", "new", "--name", "life") == "revoked new/life\n"
    assert [ask(server, newest).status_code for _ in range(8)] == [401] * 8
    assert "no key" in shell.wrong("keys", "revoke", "--team", "new", "--name", "life")
    assert "no key" in shell.wrong("keys", "rotate", "--team", "new", "--name", "life")


def test_a_key_with_everything(served: Served) -> None:
    server, shell = served
    given = ["--model", "hello", "--requests-per-minute", "100", "--concurrent", "2", "--budget-usd", "1.5"]
    given += ["--budget-per", "day", "--expires", "2999-01-01", "--why", "to try"]
    made = json.loads(shell.ok("keys", "create", "--team", "new", "--name", "all", *given, "--json"))
    assert made["models"] == ["hello"]
    assert made["limits"] == {"requests_per_minute": 100, "concurrent": 2}
    assert made["budget"]["usd"] == 1.5
    reply = ask(server, made["secret"], max_tokens=5)
    assert reply.status_code == 200
    assert reply.headers["x-ratelimit-limit-requests"] == "100"
    lines = [json.loads(line) for line in shell.ok("budgets", "--json").splitlines()]
    assert any("1.5 USD per day" in one["what"] for one in lines), lines
    assert "limit usd" in shell.ok("budgets")
    shell.ok("keys", "revoke", "--team", "new", "--name", "all")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "x y"), "is not a name"),
        (("--name", "x", "--expires", "soon"), "is not a date"),
        (("--name", "x", "--budget-usd", "-1"), "usd"),
        (("--name", "x", "--budget-usd", "nan"), "NaN"),
        (("--name", "x", "--budget-usd", "1", "--budget-per", "week"), "per"),
        (("--name", "x", "--requests-per-minute", "-1"), "requests_per_minute"),
    ],
)
def test_keys_that_cannot_be(served: Served, arguments: tuple[str, ...], said: str) -> None:
    _, shell = served
    assert said in shell.wrong("keys", "create", "--team", "tests", *arguments)


def test_overlaps_that_cannot_be(served: Served) -> None:
    _, shell = served
    for overlap, said in (("abc", "is not a duration"), ("-1s", "is not a duration"), ("1000d", "overlap is from")):
        assert said in shell.wrong("keys", "rotate", "--team", "tests", "--name", "tests", "--overlap", overlap)


@pytest.mark.parametrize("odd", ["a/b", "x?y", "x#y", "x y", "..", "%2e", "a;b", "'; DROP TABLE keys; --", "\u00e9"])
def test_odd_names_are_only_names(served: Served, odd: str) -> None:
    _, shell = served
    assert "no key" in shell.wrong("keys", "revoke", "--team", odd, "--name", "tests")
    assert "no key" in shell.wrong("keys", "rotate", "--team", "tests", "--name", odd)
    assert shell.ok("keys", "list", "--team", odd, "--json") == ""


def test_calls_with_filters(served: Served) -> None:
    server, shell = served
    tagged = {"x-mainstay-tags": "feature=search,tier=free"}
    with httpx.Client(
        base_url=server.url, headers={"authorization": f"Bearer {KEY}", **tagged}, trust_env=False
    ) as http:
        for model in ("hello", "hello", "absent"):
            http.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "x"}]})
    found = seen(shell, "tag.feature=search", count=3)
    times = [one["at"] for one in found]
    assert times == sorted(times)  # oldest first
    required = "id at status model provider attempts usage cost_usd duration_ms first_token_ms team key tags".split()
    assert all(set(required) <= set(one) for one in found)
    good = seen(shell, "status=200", "tag.feature=search", count=2)
    assert len(good) == 2
    assert all(one["tags"] == {"feature": "search", "tier": "free"} for one in good)
    assert len(seen(shell, "status>=400 and tag.tier=free")) == 1
    assert len(seen(shell, "tag.feature=search", "--limit", "1")) == 1
    assert seen(shell, "tag.feature=search", "--since", "5m", count=3)
    assert shell.ok("calls", "--json", "--until", "1h") == ""
    assert "hello" in shell.ok("calls", "tag.feature=search")
    assert shell.ok("calls", "team=nobody") == "nothing yet\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("statsu>=500",), 'unknown field "statsu" at position 1; did you mean "status"?'),
        (("status >= and",), "position"),
        (("status >= 'x",), "position"),
        (("(status=1",), "position"),
        (("--since", "yesterday"), "neither an age"),
        (("--until", "5 parsecs"), "neither an age"),
        (("--limit", "-1"), "limit"),
    ],
)
def test_filters_that_cannot_be(served: Served, arguments: tuple[str, ...], said: str) -> None:
    _, shell = served
    assert said in shell.wrong("calls", *arguments)


def test_what_callers_wrote_does_not_speak_to_the_terminal(served: Served) -> None:
    server, shell = served
    odd = "[red]\u001b[31m[/nonsense]"
    httpx.post(
        f"{server.url}/v1/chat/completions",
        json={"model": "hello", "messages": [{"role": "user", "content": "x"}], "user": odd},
        headers={"authorization": f"Bearer {KEY}", "x-mainstay-tags": "odd=1"},
        trust_env=False,
    )
    seen(shell, "tag.odd=1")
    assert "\u001b" not in shell.ok("calls", "tag.odd=1")


def test_prices(served: Served, tmp_path: Path) -> None:
    _, shell = served
    found = [json.loads(line) for line in shell.ok("prices", "list", "--json").splitlines()]
    (listed,) = [one for one in found if one["name"] == "hello"]
    assert listed["price"]["input"] == "1"
    assert listed["price_source"] == "bundle"
    assert "input 1" in shell.ok("prices", "list")
    assert "cannot be read" in shell.wrong("prices", "refresh", "--file", str(tmp_path / "absent"))
    file = tmp_path / "book.json"
    file.write_text("{}")
    assert "no price book" in shell.wrong("prices", "refresh", "--file", str(file))
    assert "https only" in shell.wrong("prices", "refresh", "--url", "http://127.0.0.1/x")
    prices = [{"id": "m", "match": {"equals": "m"}, "prices": {"input_mtok": "1.5", "output_mtok": "2"}}]
    file.write_text(json.dumps([{"id": "p", "name": "P", "api_pattern": "https://p", "models": prices}]))
    assert "new price book" in shell.ok("prices", "refresh", "--file", str(file))
    assert "the same price book" in shell.ok("prices", "refresh", "--file", str(file))


def test_doctor_while_serving(served: Served) -> None:
    _, shell = served
    printed = shell.ok("doctor")
    assert "WRONG" not in printed
    assert printed.count("is connected") == 2
    found = json.loads(shell.ok("doctor", "--json"))
    assert all(one["good"] for one in found["findings"])


def test_every_command_works_while_nothing_runs(shell: Shell, tmp_path: Path) -> None:
    """And what was done is there when it serves."""
    said = shell("doctor")
    assert said.returncode == 1
    assert "WRONG nothing is serving" in said.stdout
    assert f"mainstay serve --home {shell.home}" in said.stdout
    assert "mainstay apply" in said.stdout
    bundle = tmp_path / "mainstay.yaml"
    bundle.write_text(SIM)
    shell.ok("apply", str(bundle), TEST_KEY=KEY)
    secret = shell.ok("keys", "create", "--team", "tests", "--name", "early").strip()
    assert "input 1" in shell.ok("prices", "list")
    with Server(SIM, home=shell.home) as server:
        assert ask(server, secret).status_code == 200
        call = seen(shell)[0]["id"]
        server.stop()
        assert seen(shell)[0]["id"] == call  # the ledger is read without a server, too


def test_two_commands_at_once(shell: Shell) -> None:
    """Neither fails: one waits for the other."""
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda i: shell("keys", "create", "--team", "t", "--name", f"k{i}"), range(3)))
    assert [one.returncode for one in made] == [0] * 3, [one.stderr for one in made]
    assert len(shell.ok("keys", "list", "--json").splitlines()) == 3


def test_homes_that_cannot_be(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for command in (("keys", "list"), ("serve", "--port", "0")):
        done = shell(*command, home=file / "home")
        assert done.returncode == 1
        assert "cannot be used" in done.stderr
        assert "--home" in done.stderr
        assert "Traceback" not in done.stderr
    said = shell("doctor", home=file / "home")
    assert said.returncode == 1
    assert "cannot be used" in said.stdout


def test_a_home_with_a_long_path(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30) / "home"
    with Server(SIM, home=home) as server:
        shell = Shell(home)
        assert ask(server).status_code == 200
        assert "tests" in shell.ok("keys", "list")
        assert "is connected" in shell.ok("doctor")
    assert "tests" in shell.ok("keys", "list")


def test_a_command_is_quick(served: Served) -> None:
    """While serving it need only ask: nothing of the control side is imported."""
    import subprocess
    import sys

    _, shell = served
    code = (
        "import sys; from mainstay import cli; sys.argv = ['mainstay', 'keys', 'list', '--json', '--home', sys.argv[1]]; "
        "status = cli.main(); heavy = {'sqlalchemy', 'duckdb', 'fastapi', 'uvicorn', 'alembic', 'genai_prices', "
        "'cryptography', 'uvloop'}; print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(shell.home)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
