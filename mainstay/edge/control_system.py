"""The control API's health, figures for Prometheus, and the state of the processes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import PlainTextResponse

from mainstay.core.errors import MainstayError
from mainstay.ledger.counters import Sample

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

_GAUGES = {
    "connections": "Client connections.",
    "in_flight": "Attempts at upstreams in flight.",
    "waiting": "Calls that wait for a place at a target.",
    "cache_bytes": "Bytes in the exact cache.",
    "cache_entries": "Entries in the exact cache.",
    "cache_store_failing": "1 where the cache's files or server cannot be used, and it goes on in memory.",
    "compiled": "1 where the hot path was compiled at installation, 0 where it is interpreted.",
    "journal_full": "1 where the journal's disk is full.",
    "upstream_connections": "Connections to upstreams.",
    "sockets": "WebSocket connections of clients.",
    "pools": "Pools of limits and budgets that the gateway has a share of.",
    "calls_waiting_for_units": "Calls that wait for units of a limit or budget.",
}
_COUNTERS = {
    "journal_written": "Records written to the journal.",
    "journal_dropped": "Records dropped since the disk was full.",
    "cache_stored": "Entries stored for other processes.",
    "cache_not_stored": "Entries kept in one process's memory alone, for want of room or a store that works.",
    "http_refused": "Requests refused before they were one.",
    "responses_stored": "Responses handed over to be stored.",
    "responses_dropped": "Responses that could not be stored.",
}
_STATES = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def metrics(request: Request) -> PlainTextResponse:
        """Everything for Prometheus, summed over all gateways."""
        return PlainTextResponse(control.counters.expose(samples(control)), media_type="text/plain; version=0.0.4")

    async def health(request: Request) -> dict[str, Any]:
        """How every part is doing, how far behind the ledger is, and what was stored and dropped."""
        status = control.ingest.status()
        database = "ok"
        try:
            await control.database.ping()
        except Exception as error:
            database = type(error).__name__
        gateways = control.link.gateways()
        current = control.resolved.digest if control.resolved is not None else None
        return {
            "version": version("mainstay"),
            "started": control.started,
            "snapshot": current,
            "models": len(control.resolved.models) if control.resolved is not None else 0,
            "keys": len(control.resolved.keys) if control.resolved is not None else 0,
            "database": database,
            "config_error": control.config_error,
            "spans": control.tracing.status(),
            "ledger": {
                "lag_seconds": status.lag_seconds,
                "lag_bytes": status.lag_bytes,
                "stored": status.stored,
                "dropped": status.dropped,
                "corrupt": status.corrupt,
                "error": status.error,
                "lost_segments": len(control.ledger.lost),
            },
            "gateways": [
                {
                    "id": one.gateway,
                    "pid": one.pid,
                    "snapshot": one.snapshot,
                    "current": one.snapshot == current,
                    "gauges": one.gauges,
                    "breakers": one.breakers,
                }
                for one in gateways
            ],
        }

    async def verify(request: Request) -> dict[str, Any]:
        """Whether every change on the audit log is as it was written."""
        async with control.database.read() as connection:
            broken = await control.changes.verify(connection)
        if broken is not None:
            raise MainstayError(f"the chain of changes is broken: {broken}", code="audit_broken")
        return {"intact": True}

    routes.add("GET", "/metrics", "public", metrics, include_in_schema=False)
    routes.add("GET", "/api/v1/health", "system:read", health)
    routes.add("GET", "/health", "system:read", health, include_in_schema=False)
    routes.add("GET", "/api/v1/changes/verify", "system:read", verify)


def samples(control: Control) -> Iterable[Sample]:
    """The figures of this moment."""
    status = control.ingest.status()
    yield Sample("mainstay_journal_lag_seconds", "How far behind the ledger is.", status.lag_seconds)
    yield Sample("mainstay_journal_lag_bytes", "Journal bytes not yet in the ledger.", float(status.lag_bytes))
    yield Sample("mainstay_ledger_stored_total", "Calls in the ledger.", float(status.stored), {}, "counter")
    yield Sample("mainstay_ledger_dropped_total", "Calls that were dropped.", float(status.dropped), {}, "counter")
    gateways = control.link.gateways()
    yield from control.tracing.samples()
    yield Sample("mainstay_gateways", "Gateway processes that are connected.", float(len(gateways)))
    for name, words in _GAUGES.items():
        for one in gateways:
            if name in one.gauges:
                yield Sample(f"mainstay_gateway_{name}", words, one.gauges[name], {"gateway": one.gateway})
    for name, words in _COUNTERS.items():
        for one in gateways:
            if name in one.gauges:
                labels = {"gateway": one.gateway}
                yield Sample(f"mainstay_gateway_{name}_total", words, one.gauges[name], labels, "counter")
    yield from control.judging.samples()
    for one in gateways:
        for target, state in one.breakers.items():
            labels = {"gateway": one.gateway, "target": target}
            yield Sample("mainstay_breaker_state", "0 closed, 1 half open, 2 open.", _STATES[state], labels)
