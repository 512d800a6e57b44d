"""Bodies that say one thing to the policy and another to the provider; addresses that a caller would have us fetch."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.provider import chat_reply
from tests.provider import status as answers
from tests.security.rig import ADMIN, RED, House

MESSAGES = '"messages": [{"role": "user", "content": "hello"}]'


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "chat", "model": "dear", %s}',
        '{"model": "dear", "model": "chat", %s}',
        '{"model": "chat", %s, "model": "dear"}',
        '{"model": "chat", "mod\\u0065l": "dear", %s}',
        '{"mod\\u0065l": "dear", "model": "chat", %s}',
        '{"model": "chat", "max_tokens": 1, "max_tokens": 1000000, %s}',
        '{"model": "chat", "max_tokens": 1, "max\\u005ftokens": 1000000, %s}',
        '{"model": "chat", "stream": false, "stream": true, %s}',
        '{"model": "chat", "n": 1, "n": 100, %s}',
        '{"model": "chat", "messages": [], %s}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
def test_a_key_given_twice_is_refused_before_anybody_is_asked(house: House, path: str, body: str) -> None:
    asked = len(house.upstream.provider.asked)
    reply = house.body(body % MESSAGES, path)
    assert reply.status_code in (400, 403), reply.text
    assert len(house.upstream.provider.asked) == asked


@pytest.mark.parametrize("name", ["Model", "MODEL", "model ", "mod\u0435l", "\ufeffmodel", "mode\u006c\u200b"])
def test_a_key_in_another_case_is_not_the_model(house: House, name: str) -> None:
    """What the policy reads is what is sent: a provider that ignores case must not see another model than the policy."""
    asked = len(house.upstream.provider.asked)
    reply = house.body(json.dumps({name: "dear", "model": "chat", "messages": [{"role": "user", "content": "x"}]}))
    if reply.status_code == 200:
        body = house.upstream.provider.asked[-1].json
        assert body["model"] == "m"
        assert not any(key.casefold() == "model" for key in body if key != "model")
    else:
        assert reply.status_code == 400
        assert len(house.upstream.provider.asked) == asked
    assert house.body(json.dumps({name: "dear", "messages": []})).status_code == 400


@pytest.mark.parametrize("name", ["Max_Tokens", "MAX_TOKENS", "Max_Completion_Tokens", "N", "Stream"])
def test_a_bound_in_another_case_bounds_nothing_and_frees_nothing(house: House, name: str) -> None:
    asked = len(house.upstream.provider.asked)
    reply = house.body(json.dumps({"model": "chat", "messages": [{"role": "user", "content": "x"}], name: 10**6}))
    assert reply.status_code in (200, 400)
    if reply.status_code == 200:
        body = house.upstream.provider.asked[-1].json
        assert not any(key.casefold() == name.casefold() for key in body)
    else:
        assert len(house.upstream.provider.asked) == asked


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"chat"',
        b"{",
        b'{"model": "chat"',
        b'{"model": ["dear"], "messages": []}',
        b'{"model": {"x": 1}, "messages": []}',
        b'{"model": null, "messages": []}',
        b'{"model": "", "messages": []}',
        b'{"model": "chat", "messages": [], "n": NaN}',
        b'{"model": "chat\xff", "messages": []}',
        b'\xef\xbb\xbf{"model": "dear", "messages": []}',
        b'{"model": "dear", "messages": []}{"model": "chat"}',
        b'{"model": "chat", "messages": []} x',
        b"[" * 100_000,
        b'{"model":"chat","messages":' + b'{"a":' * 100_000,
        json.dumps({"model": "dear", "messages": []}).encode("utf-16"),
        json.dumps({"model": "dear", "messages": []}).encode("utf-32"),
    ],
)
def test_a_body_that_is_no_request_is_a_400(house: House, body: bytes) -> None:
    asked = len(house.upstream.provider.asked)
    reply = house.body(body)
    assert reply.status_code in (400, 404), reply.text[:300]
    assert reply.json()["error"]["message"]
    assert len(house.upstream.provider.asked) == asked


def test_a_model_that_the_key_may_not_use_is_refused_by_every_spelling(house: House) -> None:
    assert house.chat(model="dear").status_code == 403
    for spelled in ("Dear", "dear ", " dear", "up/dear", "m", "up/m", "dear\x00", "DEAR", "chat,dear"):
        assert house.chat(model=spelled).status_code == 404, spelled
    assert "dear" not in [one["id"] for one in house.ask("GET", "/v1/models", key=RED).json()["data"]]
    assert house.ask("GET", "/v1/models/dear", key=RED).status_code == 404


@contextmanager
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """An address of this machine, and what came to it."""
    came: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.2)
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            came.append(b"connected")
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/latest/meta-data", came
    finally:
        ended.set()
        thread.join()
        listening.close()


def test_no_address_that_a_caller_names_is_ever_fetched(house: House) -> None:
    with trap() as (address, came):
        image = {"type": "image_url", "image_url": {"url": address}}
        file = {"type": "file", "file": {"file_data": address, "filename": "x"}}
        bodies: list[dict[str, Any]] = [
            {"messages": [{"role": "user", "content": [image]}]},
            {"messages": [{"role": "user", "content": [file]}]},
            {"base_url": address},
            {"api_base": address},
            {"endpoint": address},
            {"model": f"up@{address}"},
            {"model": address},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": address}}}},
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"$ref": address}}}]},
            {"metadata": {"base_url": address}},
        ]
        for more in bodies:
            asked = len(house.upstream.provider.asked)
            house.chat(**more)
            for one in house.upstream.provider.asked[asked:]:
                assert one.target == "/v1/chat/completions"
        for path in ("/v1/responses", "/v1/messages"):
            source = {"type": "image", "source": {"type": "url", "url": address}}
            item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": address}]}
            body = {
                "model": "chat",
                "max_tokens": 5,
                "messages": [{"role": "user", "content": [source]}],
                "input": [item],
            }
            house.body(
                json.dumps({name: value for name, value in body.items() if name != "messages" or "mess" in path}), path
            )
        for name in (
            "x-base-url",
            "x-upstream",
            "x-target",
            "x-mainstay-provider",
            "x-portkey-custom-host",
            "api-base",
        ):
            assert house.chat(headers={name: address, "host": address.split("/")[2]}).status_code == 200
        reply = house.ask("POST", "/api/v1/prices", json={"url": address})
        assert reply.status_code == 403
        assert house.ask("POST", "/api/v1/prices", json={"file": "/etc/passwd"}).status_code == 403
        assert came == []


def test_no_redirect_is_followed(house: House) -> None:
    with trap() as (address, came):
        for code in (301, 302, 307, 308):
            house.upstream.provider.script.append(answers(code, b"", {"location": address}))
            house.upstream.provider.script.append(answers(code, b"", {"location": address}))
            assert house.chat().status_code >= 500
        assert came == []
        house.upstream.provider.script.clear()


def test_a_provider_gets_its_own_key_and_none_of_ours(house: House) -> None:
    asked = len(house.upstream.provider.asked)
    house.chat(
        headers={"x-api-key": RED, "cookie": f"key={RED}", "x-secret": "of the caller", "openai-organization": "o"}
    )
    sent = house.upstream.provider.asked[asked]
    text = json.dumps(sent.headers) + sent.target + sent.body.decode()
    assert RED not in text
    assert ADMIN not in text
    assert "of the caller" not in text
    assert sent.headers["authorization"].startswith("Bearer canary-upstream-key")


def test_an_answer_that_claims_to_be_from_elsewhere_is_as_it_is(house: House) -> None:
    """What a provider says of itself cannot name another call or spend another's money."""
    body = json.loads(chat_reply(["ok"]))
    body["usage"] = {"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10}
    house.upstream.provider.script.append(answers(200, body))
    reply = house.chat()
    cost = reply.headers.get("x-mainstay-cost-usd")
    assert cost is None or not cost.startswith("-")
