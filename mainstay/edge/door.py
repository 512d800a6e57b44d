"""What a gateway does with each request: model calls it answers itself, health too, the rest control does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from mainstay.access.authenticate import secret
from mainstay.core.errors import Invalid, MainstayError, NotFound, TooLarge, Unauthenticated, Unavailable
from mainstay.edge.http import Exchange
from mainstay.edge.http_limits import Reject
from mainstay.edge.model_api import ENDPOINTS, ModelApi
from mainstay.edge.passing import TRACES, ControlDoor
from mainstay.edge.responses_socket import ResponsesSockets, asks_for_upgrade
from mainstay.edge.socket_connection import PATH
from mainstay.edge.status import retry_after, status_of
from mainstay.edge.stored_responses import ResponsesApi
from mainstay.gateway.plan import Plan
from mainstay.gateway.routed import Routed

PUBLIC = ("/health/live", "/health/ready", "/")
"""What anybody may ask for; everything else needs a key, or is control's to decide."""

_WRONG_METHOD = "method_not_allowed"
_CONTROL = ("/api/", "/metrics", "/console", "/health", "/docs")


class Door:
    """The handler of every exchange."""

    def __init__(
        self,
        models: ModelApi,
        responses: ResponsesApi,
        sockets: ResponsesSockets,
        control: ControlDoor,
        plan: Callable[[], Plan | None],
        now: Callable[[], float],
    ) -> None:
        self._models, self._responses, self._sockets = models, responses, sockets
        self._control, self._plan, self._now = control, plan, now

    async def __call__(self, exchange: Exchange) -> None:
        """Answer ``exchange``."""
        endpoint = ENDPOINTS.get(exchange.path)
        if endpoint is not None:
            if exchange.method == "POST" and self._plan() is not None:
                if exchange.refused is not None:
                    return await self._models.answer(exchange, endpoint, _refusal(exchange.refused))
                return await self._models.answer(exchange, endpoint)
            if exchange.path == PATH and asks_for_upgrade(exchange):
                return await self._sockets.answer(exchange)
            return self._not_a_call(exchange)
        if exchange.path.startswith(f"{PATH}/"):
            return await self._responses.answer(exchange, exchange.path[len(PATH) + 1 :])
        try:
            await self._other(exchange)
        except MainstayError as error:
            if not exchange.started:
                self._refuse(exchange, error)

    def _refuse(self, exchange: Exchange, error: MainstayError) -> None:
        """Answer with ``error``: below /v1 in the caller's dialect, elsewhere in the control API's shape."""
        status = 405 if error.code == _WRONG_METHOD else status_of(error)
        path, headers = exchange.path, [("content-type", "application/json")]
        wait = retry_after(error, status)
        if wait is not None:
            headers.append(("retry-after", wait))
        if status == 405:
            headers.append(("allow", "POST" if path in ENDPOINTS else "GET, HEAD"))
        if path in ENDPOINTS:
            body = self._models.error_body(ENDPOINTS[path].dialect, error, status)
        elif path == TRACES:
            headers, body = _status(exchange, error.message, headers)
        elif path.startswith("/v1/"):
            dialect = "anthropic" if "anthropic-version" in exchange.headers else "openai"
            body = self._models.error_body(dialect, error, status)
        else:
            body = _error(error.code, error.message)
        exchange.send(status, headers, body)

    def _not_a_call(self, exchange: Exchange) -> None:
        if exchange.method != "POST":
            return self._refuse(exchange, Invalid(f"{exchange.path} takes POST", code=_WRONG_METHOD))
        return self._refuse(
            exchange, Unavailable("no configuration has been loaded yet; try again shortly", code="not_ready")
        )

    async def _other(self, exchange: Exchange) -> None:
        path = exchange.path
        if path == "/health/live":
            return _json(exchange, 200, {"status": "alive"})
        if path == "/health/ready":
            ready = self._plan() is not None
            return _json(exchange, 200 if ready else 503, {"status": "ready" if ready else "starting"})
        if path == "/":
            return _json(exchange, 200, {"name": "mainstay", "models": "/v1/models", "api": "/api/openapi.json"})
        if path == "/v1/models" or path.startswith("/v1/models/"):
            return self._list_models(exchange, unquote(path[len("/v1/models/") :]))
        if path.startswith(_CONTROL) or path == TRACES:
            return await self._control.pass_on(exchange)
        raise NotFound(f"there is nothing at {path[:200]!r}; the model API is below /v1, the control API below /api/v1")

    def _list_models(self, exchange: Exchange, wanted: str) -> None:
        plan = self._plan()
        if exchange.method not in ("GET", "HEAD"):
            raise Invalid("the list of models is read with GET", code=_WRONG_METHOD)
        key = plan.keys.find(secret(exchange.headers), self._now()) if plan is not None else None
        if plan is None or key is None:
            raise Unauthenticated(
                "the API key is missing or unknown; send it as 'Authorization: Bearer …' or 'x-api-key'"
            )
        allowed = key.principal.models
        names = [name for name in plan.routes if allowed is None or name in allowed]
        anthropic = "anthropic-version" in exchange.headers
        entries: list[dict[str, Any]] = [_entry(name, plan, anthropic) for name in names]
        if wanted:
            for entry in entries:
                if entry["id"] == wanted:
                    return _json(exchange, 200, entry)
            raise NotFound(f"there is no model {wanted[:200]!r} that your key may use", code="model_not_found")
        if anthropic:
            first, last = (names[0], names[-1]) if names else (None, None)
            return _json(exchange, 200, {"data": entries, "has_more": False, "first_id": first, "last_id": last})
        return _json(exchange, 200, {"object": "list", "data": entries})


def takes_refused(method: str, path: str) -> bool:
    """Whether a request whose body was not taken in is still a call, to be refused and recorded as one."""
    return method == "POST" and path in ENDPOINTS


def _refusal(reject: Reject) -> Callable[[Routed], None]:
    error = (
        TooLarge(f"{reject.message}; send less, or several requests")
        if reject.status == 413
        else Unavailable(reject.message, retry_after=float(reject.retry_after or 1))
    )

    def prepare(call: Routed) -> None:
        call.refusal = error

    return prepare


def _entry(name: str, plan: Plan, anthropic: bool) -> dict[str, Any]:
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    target = plan.targets.get(name)
    return {"id": name, "object": "model", "created": 0, "owned_by": target.provider if target else "mainstay"}


def _json(exchange: Exchange, status: int, value: object) -> None:
    exchange.send(status, [("content-type", "application/json")], json.dumps(value, separators=(",", ":")).encode())


def _status(exchange: Exchange, message: str, headers: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], bytes]:
    """The ``google.rpc.Status`` (unavailable) of a reply to OTLP, in the encoding of the request."""
    content_type = exchange.headers.get("content-type", "")
    if content_type.startswith("application/json"):
        return headers, json.dumps({"code": 14, "message": message}).encode()
    text = message.encode()[:100]  # one byte says how long it is
    return [("content-type", "application/x-protobuf"), *headers[1:]], b"\x08\x0e\x12" + bytes((len(text),)) + text


def _error(code: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()
