"""The stored responses of a team, asked of the control process; and their paths on the model API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec

from mainstay.access.authenticate import secret
from mainstay.core.errors import (
    Forbidden,
    Invalid,
    MainstayError,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from mainstay.edge.http import Exchange
from mainstay.edge.passing import RESPONSES, ControlDoor
from mainstay.edge.status import retry_after, status_of
from mainstay.gateway.plan import Plan
from mainstay.gateway.turn import Past
from mainstay.wire.openai_errors import write_error

_WAIT = 15.0
_PAGING = ("after", "limit", "order")
_JSON = [("content-type", "application/json")]


class _Error(msgspec.Struct):
    message: str = "it did not say why"
    code: str | None = None
    field: str | None = None


class _Failed(msgspec.Struct):
    error: _Error


class _History(msgspec.Struct):
    key: str
    root: str
    items: list[dict[str, Any]]


_failed = msgspec.json.Decoder(_Failed)
_history = msgspec.json.Decoder(_History)


class StoredResponses:
    """Asks control. Every method raises ``Unavailable`` where it does not answer, and ``NotFound`` for another team's."""

    def __init__(self, control: ControlDoor) -> None:
        self._control = control

    async def history(self, team: str, identifier: str) -> Past:
        """What a turn must know that continues the response."""
        body = await self.ask("GET", "/history", team, identifier)
        found = _history.decode(body)
        return Past(tuple(found.items), found.key, found.root, (), len(body))

    async def ask(self, method: str, path: str, team: str, identifier: str, query: str = "") -> bytes:
        """Control's answer about one response; ``path`` is below ``RESPONSES``."""
        asked = f"team={quote(team, safe='')}&id={quote(identifier, safe='')}" + (f"&{query}" if query else "")
        status, _, body = await self._control.request(method, f"{RESPONSES}{path}?{asked}", {}, b"", timeout=_WAIT)
        if status == 200:
            return body
        try:
            error = _failed.decode(body).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            error = _Error()
        if status == 404:
            raise NotFound(error.message, code=error.code)
        if status == 413:
            raise TooLarge(error.message)
        if status == 400:
            raise Invalid(error.message, field=error.field)
        raise Unavailable(
            f"stored responses cannot be read now ({error.message}); try again shortly",
            code="control_unavailable",
            retry_after=2.0,
        )


class ResponsesApi:
    """``/v1/responses/{id}`` and what is below it."""

    def __init__(
        self, stored: StoredResponses, plan: Callable[[], Plan | None], now: Callable[[], float], dialect: str
    ) -> None:
        self._stored, self._plan, self._now, self._dialect = stored, plan, now, dialect

    async def answer(self, exchange: Exchange, rest: str) -> None:
        """Answer ``exchange``, whose path goes on with ``rest`` after ``/v1/responses/``."""
        try:
            body = await self._answered(exchange, rest)
        except MainstayError as error:
            status = status_of(error)
            headers = list(_JSON)
            wait = retry_after(error, status)
            if wait is not None:
                headers.append(("retry-after", wait))
            if isinstance(error, _NotAllowed):
                status = 405
                headers.append(("allow", error.allowed))
            return exchange.send(status, headers, write_error(error, self._dialect))
        exchange.send(200, _JSON, body)

    async def _answered(self, exchange: Exchange, rest: str) -> bytes:
        team = self._team(exchange)
        escaped, _, below = rest.partition("/")
        identifier, method = unquote(escaped), "GET" if exchange.method == "HEAD" else exchange.method
        if not below:
            if method == "DELETE":
                await self._stored.ask("DELETE", "", team, identifier)
                return msgspec.json.encode({"id": identifier, "object": "response", "deleted": True})
            if method == "GET":
                if "stream=true" in exchange.query.split("&"):
                    raise Unsupported(
                        "only a response that is made in the background can be streamed later, and none is made so "
                        "here; leave it out",
                        field="stream",
                    )
                return await self._stored.ask("GET", "", team, identifier)
            raise _NotAllowed("GET, DELETE", exchange)
        if below == "input_items":
            if method == "GET":
                return await self._stored.ask("GET", "/input_items", team, identifier, _paging(exchange.query))
            raise _NotAllowed("GET", exchange)
        if below == "cancel":
            if method == "POST":
                await self._stored.ask("GET", "", team, identifier)
                raise Invalid(
                    "only a response that is made in the background can be cancelled; to cancel this one, close the "
                    "connection while it is being made",
                    field="response_id",
                    code="not_a_background_response",
                )
            raise _NotAllowed("POST", exchange)
        raise NotFound(f"there is nothing at {exchange.path[:200]!r}")

    def _team(self, exchange: Exchange) -> str:
        plan = self._plan()
        if plan is None:
            raise Unavailable("no configuration has been loaded yet; try again shortly", code="not_ready")
        key = plan.keys.find(secret(exchange.headers), self._now())
        if key is None:
            raise Unauthenticated(
                "the API key is missing or unknown; send it as 'Authorization: Bearer …' or 'x-api-key'"
            )
        return key.principal.team


def _paging(query: str) -> str:
    """Of a caller's query what control may see: never a team or an id."""
    return urlencode([(name, value) for name, value in parse_qsl(query, max_num_fields=50) if name in _PAGING])


class _NotAllowed(Forbidden):
    """The path does not take the method."""

    code = "method_not_allowed"

    def __init__(self, allowed: str, exchange: Exchange) -> None:
        super().__init__(f"{exchange.path[:200]} takes {allowed}")
        self.allowed = allowed
