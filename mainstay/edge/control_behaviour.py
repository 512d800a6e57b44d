"""The control API's behaviour: bundles, artifacts, prices, changes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from mainstay.core.errors import BadConfig, Forbidden, NotFound
from mainstay.core.money import usd
from mainstay.edge.control_keys import Why, maker
from mainstay.edge.permissions import Caller
from mainstay.registry import prices
from mainstay.registry.artifacts import KINDS

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes


class BundleBody(BaseModel):
    """A bundle file: its text, where it lies, and the environment variables that it names."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=16 * 1024 * 1024)
    filename: str = "mainstay.yaml"
    source: str = "api"
    environment: dict[str, str] = {}
    dry_run: bool = False
    why: Why = ""


class PriceSource(BaseModel):
    """Where a price book comes from: its authors (nothing given), another address, or a file on this machine."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = None
    file: str | None = None


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def apply(request: Request, body: BundleBody) -> dict[str, Any]:
        """Put a bundle in force, all of it or nothing; ``dry_run`` only checks it and tells what would change."""
        caller: Caller = request.state.caller
        checked = await control.check(body.text, body.filename, body.source, body.environment)
        if checked.problems:
            raise BadConfig(checked.problems)
        if checked.bundle is not None and caller.key_id is not None:
            async with control.database.read() as connection:
                made_by = await maker(control, connection, caller)
                for key in checked.bundle.keys:
                    await control.keys.may_put(connection, key, made_by)
        applied = await control.apply(checked, body.source, caller.name, body.why, body.dry_run)
        return {
            "changed": applied.changed,
            "printed": applied.printed(),
            "warnings": applied.warnings,
            "secrets": [{"key": name, "secret": secret} for name, secret in applied.secrets],
        }

    async def artifacts(request: Request, kind: str) -> dict[str, Any]:
        """What is in force of one kind: provider, model, route, budget."""
        _known(kind)
        async with control.database.read() as connection:
            found = await control.channels.in_force(connection)
        return {
            "data": [
                {
                    "kind": one.kind,
                    "name": one.name,
                    "digest": one.digest,
                    "body": one.body,
                    "by": one.author,
                    "why": one.why,
                }
                for one in found
                if one.kind == kind
            ]
        }

    async def versions(
        request: Request, kind: str, name: str, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> dict[str, Any]:
        """The last versions of one artifact, newest first."""
        _known(kind)
        async with control.database.read() as connection:
            found = await control.artifacts.versions(connection, kind, name, limit)
        return {
            "data": [
                {"digest": one.digest, "body": one.body, "by": one.author, "why": one.why, "at": _iso(one.at)}
                for one in found
            ]
        }

    async def changes(
        request: Request,
        before: Annotated[int | None, Query(ge=0, lt=2**63, description="Only those of a lower seq")] = None,
        what: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Who changed what, when and why, newest first."""
        async with control.database.read() as connection:
            found = await control.changes.page(connection, before=before, what=what, limit=limit)
        return {
            "data": [
                {
                    "seq": one.seq,
                    "at": _iso(one.at),
                    "by": one.by,
                    "why": one.why,
                    "what": one.what,
                    "before": one.before,
                    "after": one.after,
                    "hash": one.hash,
                }
                for one in found
            ]
        }

    async def models(request: Request) -> dict[str, Any]:
        """Every model with its price in US dollars per million tokens, where that comes from, and its date."""
        resolved = control.resolved
        found: list[dict[str, Any]] = []
        for model in resolved.models if resolved is not None else []:
            price = model.price
            rates = (
                None
                if price is None
                else {
                    name: usd(getattr(price, name))
                    for name in (
                        "input",
                        "output",
                        "cached_input",
                        "cache_write",
                        "reasoning",
                        "input_audio",
                        "output_audio",
                    )
                    if getattr(price, name) is not None
                }
            )
            found.append(
                {
                    "name": model.body.name,
                    "target": model.body.target,
                    "price": rates,
                    "price_source": None if price is None else price.source,
                    "price_as_of": None if price is None else price.as_of or None,
                    "note": model.note or None,
                    "context_window": model.context_window,
                }
            )
        return {"data": found}

    async def refresh_prices(request: Request, body: PriceSource) -> dict[str, Any]:
        """Fetch the price book anew and put it in force."""
        caller: Caller = request.state.caller
        if caller.key_id is not None and (body.file is not None or body.url is not None):
            raise Forbidden(
                "only the command line on the machine itself may name a file or an address; leave both out to "
                "fetch the book from its authors"
            )
        if body.file is not None:
            book = await prices.load(Path(body.file), control.clock)
        else:
            book = await prices.fetch(body.url, control.clock)
        changed = await control.put_prices(book, caller.name, "prices refreshed")
        return {"changed": changed, "source": book.source, "as_of": book.as_of, "providers": len(book.providers)}

    routes.add("POST", "/api/v1/bundles", "behaviour:write", apply)
    routes.add("GET", "/api/v1/artifacts/{kind}", "behaviour:read", artifacts)
    routes.add("GET", "/api/v1/artifacts/{kind}/{name:path}", "behaviour:read", versions)
    routes.add("GET", "/api/v1/changes", "behaviour:read", changes)
    routes.add("GET", "/api/v1/models", "behaviour:read", models)
    routes.add("POST", "/api/v1/prices", "behaviour:write", refresh_prices)


def _known(kind: str) -> None:
    if kind not in KINDS and kind != prices.KIND:
        raise NotFound(f"there is no kind {kind[:60]!r}; there are: {', '.join([*KINDS, prices.KIND])}")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
