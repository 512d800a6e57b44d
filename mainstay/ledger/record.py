"""What the journal and the ledger keep of a call: one wide row, and the note made before an upstream is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

VERSION = 2
"""The version of the row's schema; columns are only ever added."""

RECORD_LIMIT = 8192
"""Bytes that a record may take in the journal; a longer one is shortened, since room for it was set aside beforehand."""

_TEXT_LIMIT = 1000
_TINY = 60


class UsageRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """Tokens of one attempt; the parts lie within ``input`` and ``output`` as in ``core.usage``."""

    input: int
    output: int
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0
    estimated: bool = False


class AttemptRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """One try at one target. ``at`` is in microseconds since the epoch, ``cost_nano`` None where unknown."""

    target: str
    provider: str
    upstream_model: str
    at: int
    duration_ms: float
    first_token_ms: float | None = None
    status: int | None = None
    error: str | None = None
    message: str | None = None
    usage: UsageRecord | None = None
    cost_nano: int | None = None
    request_id: str | None = None
    rescue: str | None = None


class CallRecord(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """One call as the ledger keeps it: metadata, never content.

    ``at`` is in microseconds since the epoch, money in nano-dollars (None: unknown), token counts None where
    unknown. ``charges`` are nano-dollars per pool, settled with the gateway's shares. ``content`` names the call's
    content in the content store.

    From ``kind`` on: what only the rows of an application's own spans have. There ``source`` says how they came
    (``otlp`` or ``api``), ``kind`` what they are, ``span`` and ``parent`` how they are linked, ``call`` which call they
    say they waited for; ``app_cost_nano`` is what they cost, as they said (``reported``) or by the price book
    (``price_book``): never charged, and never in ``cost_nano``.
    """

    v: int
    id: str
    at: int
    operation: str
    dialect: str
    stream: bool
    status: int
    outcome: str
    parent: str | None = None
    trace: str | None = None
    error: str | None = None
    message: str | None = None
    key: str | None = None
    key_id: str | None = None
    team: str | None = None
    user: str | None = None
    session: str | None = None
    workflow: str | None = None
    tags: dict[str, str] = {}
    route: str | None = None
    model: str | None = None
    provider: str | None = None
    upstream_model: str | None = None
    attempts: list[AttemptRecord] = []
    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    input_audio: int | None = None
    output_audio: int | None = None
    usage_estimated: bool | None = None
    cost_nano: int | None = None
    cost_estimated: bool | None = None
    duration_ms: float | None = None
    first_token_ms: float | None = None
    overhead_ms: float | None = None
    cache: str | None = None
    finish: str | None = None
    why: list[str] = []
    dropped: list[str] = []
    snapshot: str | None = None
    request_bytes: int | None = None
    reply_bytes: int | None = None
    content: str | None = None
    charges: dict[str, int] = {}
    kind: str | None = None
    name: str | None = None
    span: str | None = None
    source: str | None = None
    service: str | None = None
    call: str | None = None
    prompt: str | None = None
    prompt_version: str | None = None
    agent: str | None = None
    tool: str | None = None
    attributes: dict[str, str] = {}
    app_cost_nano: int | None = None
    app_cost_source: str | None = None


class OpenRecord(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """A call that is about to ask an upstream, and what it holds of each pool, in nano-dollars."""

    id: str
    at: int
    operation: str
    dialect: str
    stream: bool
    key: str | None = None
    key_id: str | None = None
    team: str | None = None
    user: str | None = None
    session: str | None = None
    workflow: str | None = None
    tags: dict[str, str] = {}
    trace: str | None = None
    parent: str | None = None
    route: str | None = None
    snapshot: str | None = None
    request_bytes: int | None = None
    targets: list[str] = []
    holds: dict[str, int] = {}


_encoder = msgspec.json.Encoder()
_call_decoder = msgspec.json.Decoder(CallRecord)
_open_decoder = msgspec.json.Decoder(OpenRecord)


def crashed(record: OpenRecord) -> CallRecord:
    """The row of a call whose gateway died before it ended: its cost is unknown, its holds are charged in full."""
    return CallRecord(
        v=VERSION,
        id=record.id,
        at=record.at,
        operation=record.operation,
        dialect=record.dialect,
        stream=record.stream,
        status=0,
        outcome="crashed",
        error="gateway_crashed",
        message="The gateway process ended before the call did; what it held of its budgets counts as spent.",
        parent=record.parent,
        trace=record.trace,
        key=record.key,
        key_id=record.key_id,
        team=record.team,
        user=record.user,
        session=record.session,
        workflow=record.workflow,
        tags=record.tags,
        route=record.route,
        why=["targets:" + ",".join(record.targets)] if record.targets else [],
        snapshot=record.snapshot,
        request_bytes=record.request_bytes,
        charges=record.holds,
    )


def encode(record: CallRecord | OpenRecord, limit: int = RECORD_LIMIT) -> bytes:
    """``record`` as JSON of at most ``limit`` bytes: what is only there to be read is shortened first.

    Ids, figures, holds and charges are never cut; a record that is longer on their account stays so.
    """
    try:
        data = _encoder.encode(record)
    except UnicodeEncodeError:
        # A lone surrogate can come out of JSON escapes in a caller's body; it has no bytes.
        record = msgspec.convert(_mended(msgspec.to_builtins(record)), type(record))
        data = _encoder.encode(record)
    if len(data) <= limit:
        return data
    if isinstance(record, OpenRecord):
        return _encoder.encode(_shorter_open(record))
    return _shortened(record, limit)


def decode(data: bytes) -> CallRecord:
    """The row in ``data``. Raises ``msgspec.DecodeError`` for what is none."""
    return _call_decoder.decode(data)


def decode_open(data: bytes) -> OpenRecord:
    """The opening record in ``data``. Raises ``msgspec.DecodeError`` for what is none."""
    return _open_decoder.decode(data)


def _mended(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_mended(key): _mended(one) for key, one in cast(dict[object, object], value).items()}
    if isinstance(value, list):
        return [_mended(one) for one in cast(list[object], value)]
    return value


def _cut(text: str | None, limit: int) -> str | None:
    # Bytes, not characters: the limit is one of room on disk.
    if text is None or len(text) * 4 <= limit or len(raw := text.encode()) <= limit:
        return text
    return raw[: limit - 3].decode(errors="ignore") + "…"


def _cut_tags(tags: Mapping[str, str], room: int) -> dict[str, str]:
    kept: dict[str, str] = {}
    for key, value in tags.items():
        room -= len(key.encode()) + len(value.encode()) + 6
        if room < 0:
            break
        kept[key] = value
    return kept


def _shorter_open(record: OpenRecord) -> OpenRecord:
    return msgspec.structs.replace(
        record,
        user=_cut(record.user, 256),
        session=_cut(record.session, 256),
        workflow=_cut(record.workflow, 256),
        tags=_cut_tags(record.tags, 1024),
        targets=record.targets[:8],
    )


def _shortened(record: CallRecord, limit: int) -> bytes:
    for text, attempts, listed, told in (
        (_TEXT_LIMIT, 16, 16, limit // 2),
        (200, 8, 8, limit // 4),
        (_TINY, 3, 2, 0),
    ):
        kept = record.attempts
        if len(kept) > attempts:  # the first ones say why, the last one answered
            kept = [*kept[: attempts - 1], kept[-1]]
        record = msgspec.structs.replace(
            record,
            message=_cut(record.message, text),
            user=_cut(record.user, 256),
            session=_cut(record.session, 256),
            workflow=_cut(record.workflow, 256),
            tags=_cut_tags(record.tags, text),
            attributes=_cut_tags(record.attributes, told),
            why=[_cut(line, 120) or "" for line in record.why[:listed]],
            dropped=[_cut(line, 120) or "" for line in record.dropped[:listed]],
            attempts=[
                msgspec.structs.replace(
                    attempt, message=_cut(attempt.message, text), request_id=_cut(attempt.request_id, 128)
                )
                for attempt in kept
            ],
        )
        data = _encoder.encode(record)
        if len(data) <= limit:
            return data
    return data
