"""Puts Anthropic's cache marks into a request: on the last tool, the last system block and the last user block."""

from __future__ import annotations

from typing import Any, cast

MARKS = 4
"""The most blocks of one request that may carry a mark."""

Block = dict[str, Any]

_UNMARKABLE = ("thinking", "redacted_thinking")


def control(ttl: str) -> Block:
    """The mark itself; five minutes are the API's default and need no word."""
    return {"type": "ephemeral", "ttl": "1h"} if ttl == "1h" else {"type": "ephemeral"}


def mark(payload: Block, ttl: str) -> None:
    """Mark ``payload``, a decoded request, in place for ``ttl`` (``5m`` or ``1h``).

    Marks that are there stay and count. The API wants longer times before shorter ones (tools, system, messages in
    that order), so a new mark takes the time of its neighbours where ``ttl`` would break that order.
    """
    _spell_out(payload)
    order = _blocks(payload)
    there = [(i, _ttl(block["cache_control"])) for i, block in enumerate(order) if block.get("cache_control")]
    automatic = payload.get("cache_control")
    free = MARKS - len(there) - (1 if automatic else 0)
    for anchor in _anchors(payload, bool(automatic)):
        if free <= 0:
            return
        if anchor.get("cache_control"):
            continue
        at = next(i for i, block in enumerate(order) if block is anchor)
        chosen = ttl
        if any(i < at and other == "5m" for i, other in there):
            chosen = "5m"
        elif any(i > at and other == "1h" for i, other in there) or (automatic and _ttl(automatic) == "1h"):
            chosen = "1h"
        anchor["cache_control"] = control(chosen)
        free -= 1


def _ttl(mark: Any) -> str:
    return "1h" if isinstance(mark, dict) and cast(Block, mark).get("ttl") == "1h" else "5m"


def _spell_out(payload: Block) -> None:
    """System prompt and last user message as blocks: text alone can carry no mark."""
    system = payload.get("system")
    if isinstance(system, str) and system.strip():
        payload["system"] = [{"type": "text", "text": system}]
    last = _last_user(payload)
    if last is not None and isinstance(last.get("content"), str) and last["content"].strip():
        last["content"] = [{"type": "text", "text": last["content"]}]


def _last_user(payload: Block) -> Block | None:
    return next((m for m in reversed(_dicts(payload.get("messages"))) if m.get("role") == "user"), None)


def _anchors(payload: Block, automatic: bool) -> list[Block]:
    """The blocks to mark, the most useful first: there may be fewer marks left than blocks."""
    anchors: list[Block] = []
    last = _last_user(payload)
    if last is not None and not automatic:  # the API's own automatic mark lies there already
        anchors += _last_markable(_dicts(last.get("content")))
    anchors += _last_markable(_dicts(payload.get("system")))
    anchors += _last_markable([tool for tool in _dicts(payload.get("tools")) if not tool.get("defer_loading")])
    return anchors


def _last_markable(blocks: list[Block]) -> list[Block]:
    for block in reversed(blocks):
        empty = block.get("type") == "text" and not str(block.get("text", "")).strip()
        if block.get("type") not in _UNMARKABLE and not empty:
            return [block]
    return []


def _blocks(payload: Block) -> list[Block]:
    """Every block that can carry a mark, in the order in which the API reads them."""
    order = [*_dicts(payload.get("tools")), *_dicts(payload.get("system"))]
    for message in _dicts(payload.get("messages")):
        for block in _dicts(message.get("content")):
            order += _dicts(block.get("content"))
            order.append(block)
    return order


def _dicts(value: Any) -> list[Block]:
    if not isinstance(value, list):
        return []
    return [cast(Block, item) for item in cast(list[Any], value) if isinstance(item, dict)]
