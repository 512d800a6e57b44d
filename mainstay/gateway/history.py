"""Puts earlier turns back in: resolves ``previous_response_id`` and opens compacted items, for every kind of target."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from mainstay.access.compactions import Compactions
from mainstay.core.call import Reply
from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, NotFound, TooLarge, Unsupported
from mainstay.core.event import End, Finish, Frame, Start, UsageSeen
from mainstay.core.ids import Ids
from mainstay.core.request import Request
from mainstay.core.usage import NOTHING
from mainstay.gateway.routed import Routed
from mainstay.gateway.turn import Compacting, Past, Recent, Turn
from mainstay.ledger.response_spool import ResponseSpool
from mainstay.wire.openai_responses import COMPACT, OpenAIResponses
from mainstay.wire.openai_responses_items import Expand, item_kind
from mainstay.wire.openai_responses_state import read_compact, stored_input, with_history, with_references

Load = Callable[[str, str], Awaitable[Past]]
"""What a turn of a team must know that continues the response of that id. Raises ``NotFound`` or ``Unavailable``."""

_NAME = OpenAIResponses.name
_COMPACTION = b'"compaction"'
_REFERENCE = b'"item_reference"'
_OURS = re.compile(r"[a-z]+_([0-9a-z]{26})_[0-9]+")
"""The id of an item in a reply that we translated: it has the id of the response in it."""
_PLACED = ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")


class _Asked(msgspec.Struct):
    """The fields of a request that make it part of a conversation."""

    store: bool | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    conversation: Any = None


_asked = msgspec.json.Decoder(_Asked)


class History:
    """The stage, after ``Identify``. Later stages see the whole request, as if the caller had sent all of it."""

    def __init__(
        self,
        load: Load,
        spool: ResponseSpool,
        compactions: Compactions,
        ids: Ids,
        clock: Clock,
        limit: int = 32 * 1024 * 1024,
    ) -> None:
        self._load, self._spool, self._compactions = load, spool, compactions
        self._ids, self._clock, self._limit = ids, clock, limit
        self._kept = Kept(clock)

    def enter(self, call: Routed) -> Awaitable[None] | None:
        """Refuses with 400, 404, 413 or 503."""
        if call.dialect != _NAME:
            return None
        asked = _read(call.body)
        previous = asked.previous_response_id
        if call.operation == COMPACT:
            call.turn = Compacting(self._compactions.close, self._ids)
        else:
            store = asked.store is not False
            call.turn = Turn(call.body, previous, store, self._spool, self._ids, self._clock)
        references = _references(call.body)
        past = Past() if previous is None else _recent(call.recent, previous)
        if past is not None and not references:
            return self._whole(call, past)
        return self._loaded(call, past, previous, references)

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle: the door keeps the reply once it is whole."""

    async def _loaded(
        self, call: Routed, past: Past | None, previous: str | None, references: Mapping[str, str]
    ) -> None:
        if past is None and previous is not None:
            try:
                past = await self._load(call.principal.team, previous)
            except NotFound as error:
                code = "previous_response_not_found"
                raise NotFound(error.message, field="previous_response_id", code=code) from None
        if references:
            items = await self._referred(call, references)
            call.body = with_references(call.body, items)
            if isinstance(call.turn, Turn):
                call.turn.body = call.body
            call.peek = self._kept.peek(call.operation, call.body)
        self._whole(call, past or Past())

    async def _referred(self, call: Routed, references: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
        """The items that the input refers to, by their ids."""
        found: dict[str, Mapping[str, Any]] = {}
        for identifier, response in references.items():
            if identifier in found:
                continue
            past = _recent(call.recent, response)
            try:
                items = (past or await self._load(call.principal.team, response)).items
            except NotFound:
                items = ()
            found.update((item["id"], _placed(item)) for item in items if isinstance(item.get("id"), str))
            if identifier not in found:
                raise NotFound(
                    f"the input refers to the item {identifier[:100]!r}, which is not among those stored for your team; "
                    "send the item itself",
                    field="input",
                    code="item_not_found",
                )
        return found

    def _whole(self, call: Routed, past: Past) -> None:
        """Put ``past`` before the caller's own input, and see the request anew."""
        team = call.principal.team

        def expand(text: str) -> str | None:
            return self._compactions.open(team, text)

        turn, compacts = call.turn, call.operation == COMPACT
        if isinstance(turn, Turn):
            turn.past = past
        changed = turn is not None and (past.items or (isinstance(turn, Turn) and turn.previous is not None))
        if changed or compacts or _COMPACTION in call.body:
            items = [_placed(item) for item in past.items]
            call.body = with_history(call.body, items, None if compacts else expand)
            if len(call.body) > self._limit:
                raise TooLarge(
                    f"the conversation has {len(call.body)} bytes, over the limit of {self._limit}; go on with a shorter "
                    "one as input"
                )
            peek = call.peek = self._kept.peek(call.operation, call.body)
        else:
            peek = call.peek
        ask = call.ask
        ask.operation, ask.body, ask.peek = "responses", call.body, peek
        ask.dialect = Summing(self._clock, expand) if compacts else self._kept
        if compacts:
            ask.request()  # what cannot be compacted is refused before anything is held for it


class WarmUp:
    """Answers, once it is admitted, a request for which no answer is wanted: it is kept for later turns."""

    def enter(self, call: Routed) -> Reply | None:
        """A reply that says nothing; None for every other call."""
        return Reply("", True, _nothing(call.peek.model)) if call.warm_up else None

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle."""


class Kept(OpenAIResponses):
    """The format of requests whose replies we store: what of it goes to a target of another format need not be stored there."""

    def read_request(self, body: bytes, expand: Expand | None = None) -> Request:
        """The canonical request."""
        request = super().read_request(body, expand)
        if "store" in request.hints:
            request = replace(request, hints={key: hint for key, hint in request.hints.items() if key != "store"})
        return request


class Summing(OpenAIResponses):
    """The format of compactions: no target speaks it, so that each is asked for a summary in its own."""

    name = "openai-responses.compact"

    def __init__(self, clock: Clock, expand: Expand) -> None:
        super().__init__(clock)
        self._expand = expand

    def read_request(self, body: bytes, expand: Expand | None = None) -> Request:
        """The canonical request that asks for a summary."""
        return read_compact(body, self._expand)


def _read(body: bytes) -> _Asked:
    try:
        asked = _asked.decode(body)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`") or None
        expected = "a string" if field == "previous_response_id" else "true or false"
        raise Invalid(f"{field} must be {expected}", field=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("the body is not a JSON object; check its syntax", code="invalid_json") from None
    if asked.conversation is not None:
        raise Unsupported(
            "conversations are not kept here; chain responses with previous_response_id instead", field="conversation"
        )
    if asked.background:
        raise Unsupported("responses are not made in the background here; leave it out", field="background")
    return asked


def _references(body: bytes) -> dict[str, str]:
    """The items of ours that the input refers to, each with the response that it is of."""
    if _REFERENCE not in body:
        return {}
    found: dict[str, str] = {}
    for item in stored_input(body):
        identifier = item.get("id")
        if item_kind(item) == "item_reference" and isinstance(identifier, str):
            ours = _OURS.fullmatch(identifier)
            if ours is not None:
                found[identifier] = f"resp_{ours[1]}"
    return found


def _recent(recent: Recent | None, previous: str) -> Past | None:
    return None if recent is None else recent.find(previous)


def _placed(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """``item`` without what ties it to the place where it was made: a provider would look there for more of it."""
    if item_kind(item) in _PLACED and ("id" in item or "status" in item):
        return {key: value for key, value in item.items() if key not in ("id", "status")}
    return item


async def _nothing(model: str) -> AsyncIterator[list[Frame]]:
    yield [Frame(None, (Start("", model), Finish("stop"), UsageSeen(NOTHING), End()))]
