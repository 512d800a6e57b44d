"""Verdicts through the HTTP API of a served Mainstay: late, twice, out of order, for unknown calls, of other teams, killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest

from tests.running import KEY, Server

T = TypeVar("T")
RED, BLUE = "ms-test-secret-of-team-red", "ms-test-secret-of-team-blue"

BUNDLE = {
    "providers": [{"name": "sim", "kind": "sim", "sim": {"latency": "1ms", "tokens_per_second": 10000}}],
    "models": [{"name": "chat", "target": "sim/m", "price": {"input": 1, "output": 2}}],
    "teams": [{"name": "tests"}, {"name": "red"}, {"name": "blue"}],
    "keys": [
        {"name": "tests", "team": "tests", "secret": "${TEST_KEY}", "admin": True},
        {"name": "web", "team": "red", "secret": RED},
        {"name": "web", "team": "blue", "secret": BLUE},
    ],
    "verdicts": [
        {"name": "tone", "type": "category", "categories": ["kind", "rude"], "low_of": ["rude"]},
        {"name": "saved", "type": "number", "min": 0, "unit": "EUR"},
    ],
}


class House:
    """A served Mainstay and who asks it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=30, trust_env=False)

    def ask(self, method: str, path: str, key: str = RED, **more: Any) -> httpx.Response:
        return self.http.request(method, path, headers={"x-api-key": key}, **more)

    def chat(self, key: str = RED, seen: bool = True, **headers: str) -> str:
        """A call that is in the ledger."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
        sent = {"x-api-key": key, **{f"x-mainstay-{name}": value for name, value in headers.items()}}
        reply = self.http.post("/v1/chat/completions", json=body, headers=sent)
        assert reply.status_code == 200, reply.text
        call = reply.headers["x-mainstay-call"]
        if seen:
            until(lambda: self.ask("GET", f"/api/v1/calls/{call}", key).status_code, lambda code: code == 200)
        return call

    def judge(self, body: Any, key: str = RED) -> dict[str, Any]:
        reply = self.ask("POST", "/api/v1/verdicts", key, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def refused(self, body: Any, key: str = RED) -> tuple[int, str, str]:
        reply = self.ask("POST", "/api/v1/verdicts", key, json=body)
        error = reply.json()["error"]
        return reply.status_code, error["code"], error["message"]

    def listed(self, key: str = RED, **query: Any) -> list[dict[str, Any]]:
        reply = self.ask("GET", "/api/v1/verdicts", key, params=query)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    def of(self, call: str, key: str = RED) -> dict[str, Any]:
        """The values that count for a call, by name."""
        found = self.ask("GET", f"/api/v1/calls/{call}", key).json()["verdicts"]
        return {one["name"]: one["value"] for one in found}

    def calls(self, key: str = RED, **query: Any) -> set[str]:
        reply = self.ask("GET", "/api/v1/calls", key, params={"limit": 1000, **query})
        assert reply.status_code == 200, reply.text
        return {one["id"] for one in reply.json()["data"]}

    def unmatched(self) -> int:
        return self.ask("GET", "/api/v1/verdicts", KEY).json()["unmatched"]


def until(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 15.0) -> T:
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < end, seen
        time.sleep(0.02)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Server(BUNDLE) as server:
        made = House(server)
        with made.http:
            yield made


# ---------------------------------------------------------------- taking in


def test_a_verdict_is_on_its_call_and_in_the_list(house: House) -> None:
    call = house.chat()
    done = house.judge({"call": call, "name": "thumbs", "value": False, "by": "user", "why": "wrong city"})
    assert (done["new"], done["unmatched"]) == (1, 0)
    (one,) = house.listed(call=call)
    assert (one["value"], one["by"], one["why"], one["team"], one["matched"], one["counts"]) == (
        (False, "user", "wrong city", "red", True, True)
    )
    assert house.of(call) == {"thumbs": False}


def test_the_same_verdict_twice_counts_once(house: House) -> None:
    call = house.chat()
    body = {"call": call, "name": "rating", "value": 4, "id": "twice-1"}
    first, again = house.judge(body), house.judge([body, body])
    assert (first["new"], again["new"]) == (1, 0)
    assert again["data"][0]["received"] == first["data"][0]["received"]
    assert len(house.listed(call=call, history=True)) == 1
    status, code, _ = house.refused({**body, "value": 5})
    assert (status, code) == (409, "verdict_exists")
    assert house.of(call) == {"rating": 4}
    other = house.chat(BLUE)  # an id is the sender's own
    assert house.judge({"call": other, "name": "rating", "value": 1, "id": "twice-1"}, BLUE)["new"] == 1


def test_the_later_one_counts_whatever_comes_first(house: House) -> None:
    call = house.chat()
    for at, value in (("2026-01-02T00:00:00Z", 2), ("2026-01-03T00:00:00Z", 3), ("2026-01-01T00:00:00Z", 1)):
        house.judge({"call": call, "name": "rating", "value": value, "at": at})
    assert house.of(call) == {"rating": 3}
    assert [(one["value"], one["counts"]) for one in house.listed(call=call, history=True)] == [
        (3, True),
        (2, False),
        (1, False),
    ]
    house.judge({"call": call, "name": "rating", "value": 5, "by": "human:ann"})  # another's opinion supersedes nothing
    assert sorted(one["value"] for one in house.listed(call=call)) == [3, 5]


def test_a_verdict_that_comes_before_its_call_waits_for_it(house: House) -> None:
    before = house.unmatched()
    sent = [
        {"session": "early-session", "name": "thumbs", "value": False},
        {"external_id": "early-order", "name": "task_success", "value": True},
        {"call": "call_that_never_was", "name": "thumbs", "value": True},
    ]
    assert house.judge(sent)["unmatched"] == 3
    assert house.unmatched() == before + 3
    text = house.ask("GET", "/metrics").text
    assert f"mainstay_verdicts_unmatched {before + 3}\n" in text
    assert {one["name"] for one in house.listed(unmatched=True)} == {"thumbs", "task_success"}
    house.chat(BLUE, session="early-session", tags="id=early-order")  # names alike, of another team
    assert house.unmatched() == before + 3
    call = house.chat(session="early-session", tags="id=early-order")
    until(house.unmatched, lambda count: count == before + 1)
    assert house.of(call) == {"thumbs": False, "task_success": True}
    later = house.chat(session="early-session")
    assert house.of(later) == {"thumbs": False}


def test_an_administrators_verdict_on_an_unknown_call_becomes_its_teams(house: House) -> None:
    """The call is asked slowly, so that its id is known before its row is."""
    body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    with house.http.stream("POST", "/v1/chat/completions", json=body, headers={"x-api-key": RED}) as reply:
        call = reply.headers["x-mainstay-call"]
        done = house.judge({"call": call, "name": "thumbs", "value": True, "id": "before-it-ended"}, KEY)
        assert done["data"][0]["id"] == "before-it-ended"
        reply.read()
    until(lambda: house.ask("GET", f"/api/v1/calls/{call}").status_code, lambda code: code == 200)
    until(lambda: house.of(call), lambda found: found == {"thumbs": True})
    assert [one["team"] for one in house.listed(call=call)] == ["red"]


def test_an_edit_is_measured_and_its_texts_lie_apart(house: House) -> None:
    call = house.chat()
    edit = {"before": "Dear Sir or Madam", "after": "Dear Madam"}
    done = house.judge({"call": call, "edit": edit, "by": "user", "id": "edit-1"})
    assert done["data"][0]["value"] == pytest.approx(7 / 17)
    assert "Madam" not in json.dumps(house.listed(call=call))
    assert house.ask("GET", "/api/v1/verdicts/edit-1/edit?origin=red").status_code == 403
    assert house.ask("GET", "/api/v1/verdicts/edit-1/edit?origin=red", KEY).json() == {"id": "edit-1", **edit}
    assert house.ask("GET", "/api/v1/verdicts/edit-1/edit", KEY).status_code == 404
    house.judge({"call": call, "edit": {**edit, "keep": False}, "id": "edit-2"})
    assert house.ask("GET", "/api/v1/verdicts/edit-2/edit?origin=red", KEY).status_code == 404
    diff = "--- a\n+++ b\n@@ -1,2 +1,2 @@\n one\n-two\n+too\n"
    assert house.judge({"call": call, "edit": {"diff": diff}})["data"][0]["value"] == pytest.approx(1 / 7)


def test_what_is_no_verdict_is_refused_and_nothing_of_its_list_is_kept(house: House) -> None:
    call = house.chat()
    good = {"call": call, "name": "thumbs", "value": True}
    for bad, said in (
        ({**good, "name": "thumb"}, 'did you mean "thumbs"'),
        ({**good, "name": "thumb"}, "rating, saved, task_success, thumbs, tone"),
        ({**good, "value": 1}, "is true or false, not 1"),
        ({**good, "name": "rating", "value": 5.5}, "a number from 1 to 5, not 5.5"),
        ({**good, "name": "rating", "value": True}, "a number from 1 to 5, not true"),
        ({**good, "name": "tone", "value": "loud"}, "one of kind, rude"),
        ({**good, "name": "saved", "value": -1}, "a number from 0"),
        ({**good, "by": "nobody"}, "judge:NAME or human:NAME"),
        ({**good, "at": "2999-01-01"}, "future"),
        ({**good, "at": "yesterday"}, "no time"),
        ({**good, "session": "s"}, "one of call, session and external_id"),
        ({"name": "thumbs", "value": True}, "one of call, session and external_id"),
        ({**good, "handoff": True}, "one of value, edit and handoff"),
        ({"call": call, "edit": {"before": "x"}}, "before and after, or a diff"),
        ({**good, "colour": "red"}, "no such field"),
    ):
        for body in (bad, [good, bad]):
            status, _, message = house.refused(body)
            assert (status, said in message) == (400, True), (bad, message)
    assert house.refused([])[0] == 400
    assert house.refused([good] * 1001)[0] == 400
    assert house.listed(call=call, history=True) == []
    assert house.judge([good] * 1000)["new"] == 1000  # without ids each is a verdict, and the last one counts
    assert len(house.listed(call=call)) == 1


def test_a_key_judges_calls_of_its_own_team_only(house: House) -> None:
    theirs = house.chat(BLUE, session="theirs")
    status, code, message = house.refused({"call": theirs, "name": "thumbs", "value": True})
    assert (status, code) == (404, "call_not_found"), message
    assert house.refused({"session": "theirs", "name": "thumbs", "value": True, "team": "blue"})[0] == 404
    house.judge({"session": "theirs", "name": "thumbs", "value": True})  # red's own session of that name
    assert house.of(theirs, BLUE) == {}
    assert house.ask("POST", "/api/v1/verdicts", "ms-no-such-key", json={}).status_code == 401
    house.judge({"call": theirs, "name": "thumbs", "value": False}, KEY)
    assert house.of(theirs, BLUE) == {"thumbs": False}
    assert house.listed(call=theirs) == []
    assert theirs not in house.calls(flag="low")
    assert theirs in house.calls(BLUE, flag="low")


def test_pages_of_the_list_join(house: House) -> None:
    calls = [house.chat(seen=False) for _ in range(5)]
    house.judge([{"call": call, "name": "outcome", "value": 2.5, "by": "judge:pages"} for call in calls])
    seen: list[str] = []
    query: dict[str, Any] = {"by": "judge:pages", "limit": 2}
    for size in (2, 2, 1):
        page = house.ask("GET", "/api/v1/verdicts", params=query).json()
        assert len(page["data"]) == size
        seen += [one["call"] for one in page["data"]]
        query["cursor"] = page["cursor"]
    assert (sorted(seen), page["cursor"]) == (sorted(calls), None)
    assert house.ask("GET", "/api/v1/verdicts", params={"cursor": "x"}).status_code == 400


# ---------------------------------------------------------------- reading


def test_calls_are_found_by_their_verdicts(house: House) -> None:
    good, bad, none = house.chat(session="by-verdict"), house.chat(), house.chat()
    house.judge(
        [
            {"session": "by-verdict", "name": "rating", "value": 5},
            {"call": bad, "name": "rating", "value": 2},
            {"call": bad, "name": "tone", "value": "rude"},
            {"call": good, "name": "tone", "value": "kind"},
        ]
    )
    ours = {good, bad, none}
    for wanted, found in (
        ("verdict.rating<3", {bad}),
        ("verdict.rating>=3", {good}),
        ("verdict.rating!=5", {bad, none}),
        ("verdict.rating=null", {none}),
        ("not verdict.rating=null and verdict.tone=kind", {good}),
        ("verdict.tone=rude or verdict.tone~KIN", {good, bad}),
        ("verdict.rating=5 and model=chat", {good}),
    ):
        assert house.calls(filter=wanted) & ours == found, wanted
    assert house.calls(flag="low") & ours == {bad}
    for wrong in ("verdict.tone<rude", "verdict.rating in (1)", "verdict.rating"):
        assert house.ask("GET", "/api/v1/calls", params={"filter": wrong}).status_code == 400, wrong
    assert house.ask("GET", "/api/v1/calls", params={"flag": "high"}).status_code == 400


def test_thresholds_are_the_types_and_change_with_the_bundle(house: House) -> None:
    call = house.chat()
    house.judge({"call": call, "name": "rating", "value": 3})
    assert call not in house.calls(flag="low")
    more = {"verdicts": [*BUNDLE["verdicts"], {"name": "rating", "type": "number", "low_below": 4}]}
    house.server.write({**BUNDLE, **more})
    until(lambda: house.calls(flag="low"), lambda low: call in low)
    assert house.refused({"call": call, "name": "rating", "value": 6})[2].endswith("a number from 1 to 5, not 6")
    house.server.write(BUNDLE)
    until(lambda: house.calls(flag="low"), lambda low: call not in low)


def test_outcomes_are_told_of_ones_own_team(house: House) -> None:
    def asked(key: str, **query: str) -> list[dict[str, Any]]:
        reply = house.ask("GET", "/api/v1/outcomes", key, params=query)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    calls = [house.chat(workflow="letters", tags="prompt=letter,prompt_version=7") for _ in range(3)]
    won = [house.judge({"call": call, "name": "task_success", "value": call != calls[0]}) for call in calls]
    assert len(won) == 3
    (one,) = [row for row in asked(RED, by="prompt,prompt_version") if row["group"]["prompt"] == "letter"]
    assert one["group"] == {"prompt": "letter", "prompt_version": "7"}
    assert (one["tasks"], one["task_success_rate"]["count"], one["task_success_rate"]["of"]) == (3, 2, 3)
    cost = sum(house.ask("GET", f"/api/v1/calls/{call}").json()["cost_usd"] for call in calls)
    assert float(one["judged_cost_usd"]) == pytest.approx(cost, abs=1e-12)
    assert float(one["cost_per_successful_task_usd"]) == pytest.approx(cost / 2, abs=1e-9)
    assert {row["group"]["team"] for row in asked(RED, by="team")} == {"red"}
    assert asked(KEY, since="2999-01-01")[0]["tasks"] == 0
    assert house.ask("GET", "/api/v1/outcomes", params={"by": "colour"}).status_code == 400
    ratio = 'mainstay_outcome_success_ratio{team="red",workflow="letters"} 0.66'
    until(lambda: house.ask("GET", "/metrics").text, lambda text: ratio in text)


def test_the_command_line_adds_lists_and_finds(house: House) -> None:
    call = house.chat()
    run = house.server.command
    assert "kept: " in run("verdicts", "add", call, "thumbs", "false", "--why", "too long").stdout
    (one,) = [json.loads(line) for line in run("verdicts", "list", "--call", call, "--json").stdout.splitlines()]
    assert (one["value"], one["by"], one["why"]) == (False, "human:cli", "too long")
    assert call in run("calls", "--low", "--json").stdout
    assert call in run("verdicts", "list", "--name", "thumbs", "--limit", "1").stdout
    assert "task_success_rate" in run("outcomes", "--by", "team", "--json").stdout
    wrong = run("verdicts", "add", call, "rating", "nine", check=False)
    assert (wrong.returncode, "a number from 1 to 5" in wrong.stderr) == (1, True)


# ---------------------------------------------------------------- killed


def test_what_was_answered_is_there_after_control_was_killed(house: House) -> None:
    call = house.chat()
    body = {"call": call, "name": "thumbs", "value": False, "id": "killed-1"}
    waits = {"external_id": "killed-order", "name": "rating", "value": 1, "id": "killed-2"}
    house.judge([body, waits])
    (control,) = house.server.children("control")
    control.kill()
    until(lambda: [one.pid for one in house.server.children("control")], lambda pids: pids not in ([], [control.pid]))
    until(lambda: house.ask("GET", f"/api/v1/calls/{call}").status_code, lambda code: code == 200, 60)
    assert house.of(call) == {"thumbs": False}
    assert call in house.calls(flag="low")
    assert house.judge([body, waits])["new"] == 0
    assert len(house.listed(call=call, history=True)) == 1
    late = house.chat(tags="id=killed-order")
    until(lambda: house.of(late), lambda found: found == {"rating": 1})
