"""One turn of a conversation with the Responses API: what came before it, its reply, and what is kept of both."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from mainstay.core.clock import Clock
from mainstay.core.errors import UpstreamFailed
from mainstay.core.event import End, Event, Failed, Finish, Frame
from mainstay.core.ids import Ids
from mainstay.core.usage import NOTHING
from mainstay.gateway.routed import Routed
from mainstay.ledger.response_spool import ResponseSpool, StoredResponse
from mainstay.wire.openai_responses_state import (
    output_items,
    response_object,
    stamp,
    stored_input,
    summary_of,
    write_compaction,
)
from mainstay.wire.openai_responses_writer import ResponsesWriter

Json = dict[str, Any]

_encode = msgspec.json.encode
_UNSAID = re.compile(rb'"previous_response_id":\s*null')


_MEMORY = 4
"""How much more room items need than their JSON does."""


class _Head(msgspec.Struct):
    id: str


class _Input(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw(b"null")


_head = msgspec.json.Decoder(_Head)
_input = msgspec.json.Decoder(_Input)


class Past(NamedTuple):
    """What came before a turn: all items, oldest first, and where they are stored.

    ``stored`` is the key of the stored response that holds all of them but ``unstored``, the last ones; ``root`` is the
    key of the first of its thread.
    """

    items: tuple[Json, ...] = ()
    stored: str | None = None
    root: str | None = None
    unstored: tuple[Json, ...] = ()
    size: int = 0


class Room:
    """How many bytes all connections of the process may remember together."""

    def __init__(self, limit: int = 256 * 1024 * 1024) -> None:
        self.limit = limit
        self.used = 0


class Recent:
    """The last ``count`` responses of one connection, stored or not, as far as there is room."""

    def __init__(self, room: Room, count: int = 16) -> None:
        self._room, self._count = room, count
        self._known: OrderedDict[str, Past] = OrderedDict()

    def find(self, identifier: str) -> Past | None:
        """What a turn must know that continues the response; None if it is not (or no longer) among these."""
        return self._known.get(identifier)

    def put(self, identifier: str, past: Past) -> None:
        """Remember a response, with all that came before it."""
        before = self._known.pop(identifier, None)
        if before is not None:
            self._room.used -= before.size
        self._known[identifier] = past
        self._room.used += past.size
        while self._known and (len(self._known) > self._count or self._room.used > self._room.limit):
            self._drop()

    def clear(self) -> None:
        """The connection is over."""
        while self._known:
            self._drop()

    def _drop(self) -> None:
        self._room.used -= self._known.popitem(last=False)[1].size


class Turn:
    """Made by the stage ``History``; the door writes the reply with it, and calls ``keep`` when that is whole.

    A reply that was translated gets an id of ours. One that passes through keeps the upstream's, and every byte but
    for the name of the response that it continues, which the upstream was not told.
    """

    def __init__(
        self,
        body: bytes,
        previous: str | None,
        store: bool,
        spool: ResponseSpool,
        ids: Ids,
        clock: Clock,
    ) -> None:
        self.body = body
        """The request as the caller wrote it."""
        self.previous = previous
        self.past = Past()
        self._store, self._spool, self._clock = store, spool, clock
        self._stamp: Mapping[str, Any] = {
            "id": ids.make("resp_"),
            "previous_response_id": previous,
            "store": store,
        }
        self._writer: ResponsesWriter | None = None
        self._raw: bytes | None = None

    def writer(self) -> ResponsesWriter:
        """The writer of a translated stream."""
        self._writer = ResponsesWriter(self._clock, self.body, self._stamp)
        return self._writer

    def ender(self) -> ResponsesWriter:
        """The writer that says how a stream broke off which passed through: it goes on with the upstream's own id."""
        stamped = {name: value for name, value in self._stamp.items() if name != "id"}
        return ResponsesWriter(self._clock, self.body, stamped)

    def reply(self, call: Routed, events: Sequence[Event]) -> bytes:
        """A translated plain reply."""
        writer = self.writer()
        writer.write(events)
        return _encode(writer.whole())

    def whole(self, body: bytes) -> bytes:
        """A plain reply that passes through."""
        if self.previous is not None:
            body = stamp(body, previous_response_id=self.previous)
        self._raw = body
        return body

    def passed(self, frames: list[Frame]) -> list[Frame]:
        """Frames of a stream that passes through."""
        for i, frame in enumerate(frames):
            raw = frame.raw
            if raw is None:
                continue
            if self.previous is not None and b'"previous_response_id"' in raw:
                said = b'"previous_response_id":' + _encode(self.previous)
                raw = _UNSAID.sub(lambda _, said=said: said, raw)
                frames = [*frames[:i], frame._replace(raw=raw), *frames[i + 1 :]]
            if any(type(event) is End for event in frame.events):
                self._raw = raw
        return frames

    def keep(self, call: Routed) -> None:
        """The reply is whole: hand it over to be stored, and remember it on its connection."""
        if not self._store and call.recent is None:
            return
        try:
            self._keep(call)
        except UnicodeEncodeError:  # a lone surrogate in what was said: there are no bytes for it
            self._spool.dropped += 1

    def _keep(self, call: Routed) -> None:
        response = self._response()
        if response is None:
            return
        identifier = _head.decode(response).id
        past, stored = self.past, False
        if self._store:
            given = bytes(_input.decode(self.body).input)
            stored = self._spool.put(
                StoredResponse(
                    call.id,
                    call.principal.team,
                    identifier,
                    call.at,
                    past.root or call.id,
                    response,
                    b"" if given == b"null" else given,
                    _encode(past.unstored) if past.unstored else b"",
                    past.stored,
                    None if call.user is None else call.user.encode("utf-8", "replace").decode(),
                )
            )
        if call.recent is not None:
            said = (*stored_input(self.body), *output_items(response))
            size = past.size + _MEMORY * (len(self.body) + len(response))
            items = past.items + said
            if stored:
                call.recent.put(identifier, Past(items, call.id, past.root or call.id, (), size))
            else:
                call.recent.put(identifier, past._replace(items=items, unstored=past.unstored + said, size=size))

    def _response(self) -> bytes | None:
        """The response object as JSON; None if there is none that could be continued."""
        if self._writer is not None:
            return _encode(self._writer.response)
        raw = self._raw
        if raw is None:
            return None
        found = response_object(raw)
        if found is None or not isinstance(found.get("id"), str):
            return None
        return raw if raw.lstrip()[:1] == b"{" else _encode(found)


class Compacting:
    """The reply to ``/v1/responses/compact``: what a model summed up, closed for the team."""

    def __init__(self, close: Any, ids: Ids) -> None:
        self._close, self._ids = close, ids

    def reply(self, call: Routed, events: Sequence[Event]) -> bytes:
        """The compaction. Raises ``UpstreamFailed`` where the model did not give a whole summary."""
        summary = summary_of(events).strip()
        finish = next((event for event in events if isinstance(event, Finish)), None)
        failed = next((event for event in events if isinstance(event, Failed)), None)
        if not summary or failed is not None or (finish is not None and finish.reason != "stop"):
            why = (
                failed.message if failed is not None else f"it ended with {finish.reason}" if finish else "it is empty"
            )
            raise UpstreamFailed(
                "unreadable", f"the model gave no whole summary of the conversation ({why}); try again"
            )
        return write_compaction(
            call.body,
            cast(str, self._close(call.principal.team, summary)),
            identifier=self._ids.make("resp_"),
            item_id=self._ids.make("cmp_"),
            created=int(call.at),
            usage=call.usage or NOTHING,
        )

    def keep(self, call: Routed) -> None:
        """Nothing is kept: the caller has it."""
