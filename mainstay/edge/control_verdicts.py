"""The control API's verdicts: taking them in, listing them, and the outcome figures that they give."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from mainstay.core.edit import LONGEST, sides
from mainstay.core.errors import Invalid, NotFound
from mainstay.core.verdict import About, Asked, Verdict
from mainstay.edge.control_calls import moment_or_age
from mainstay.edge.permissions import Caller
from mainstay.edge.verdict_shape import outcome_shown, shown, type_shown
from mainstay.ledger.filter import Source, moment
from mainstay.ledger.verdicts import Draft, Sender
from mainstay.observe.outcomes import outcomes

if TYPE_CHECKING:
    from mainstay.control import Control
    from mainstay.edge.control_api import Routes

_TIMEOUT = 30.0
_PAGE = 1000

Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
Long = Annotated[str, Field(max_length=LONGEST)]


class EditBody(BaseModel):
    """The user's edit of a draft: the texts before and after, or a unified diff."""

    model_config = ConfigDict(extra="forbid")

    before: Long | None = Field(None, description="The draft")
    after: Long | None = Field(None, description="What the user made of it")
    diff: Long | None = Field(None, description="Instead of both: a unified diff")
    keep: bool = Field(True, description="Keep the texts, for administrators to read; false: only measure")


class VerdictBody(BaseModel):
    """One opinion, about a call, or all calls of a session, or all calls that carry the product's own id."""

    model_config = ConfigDict(extra="forbid")

    call: Text | None = Field(None, description="The call, as the reply's x-mainstay-call names it")
    session: Text | None = Field(None, description="The session, as x-mainstay-session named it")
    external_id: Text | None = Field(None, description="The product's own id: the calls' tag `id`")
    name: Text | None = Field(None, description="The verdict type, such as thumbs; with edit or handoff it is theirs")
    value: bool | int | float | str | None = Field(
        None, description="true, false, a number or a category, as the type says"
    )
    edit: EditBody | None = Field(
        None, description="Instead of name and value: an edit; the value is the share changed"
    )
    handoff: bool | None = Field(None, description="Instead of name and value: whether a person took over")
    by: str = Field("product", description="Who judged: user, product, judge:NAME or human:NAME")
    why: str = Field("", max_length=2000, description="The reason, if there is one")
    at: str | None = Field(None, description="When it was given (ISO 8601, or seconds since the epoch); left out: now")
    id: Id | None = Field(None, description="Sent again with the same id, a verdict counts once")
    team: Text | None = Field(None, description="Whose calls these are, for administrators' keys")


def _which(body: object) -> str:
    return "verdicts" if isinstance(body, list) else "verdict"


OneOrMore = Annotated[
    Annotated[VerdictBody, Tag("verdict")] | Annotated[list[VerdictBody], Tag("verdicts")], Discriminator(_which)
]
"""Told apart before they are read, so that what is wrong is said of the right one."""


def add(routes: Routes, control: Control) -> None:
    """Add the routes."""

    async def post(request: Request, body: OneOrMore) -> dict[str, Any]:
        """Take in one verdict, or a list of at most 1,000: all of them, or none.

        When it is answered they are kept. ``new`` is false for one that was there already under its ``id``.
        """
        caller: Caller = request.state.caller
        listed = body if isinstance(body, list) else [body]
        places = [f"[{i}]." for i in range(len(listed))] if isinstance(body, list) else [""]
        drafts = [_draft(one, place) for one, place in zip(listed, places, strict=True)]
        sender = Sender(caller.name, caller.team or caller.own, caller.team is None)
        added = await control.judging.verdicts.add(drafts, sender)
        data = [{**shown(one, control.judging.types), "new": new} for one, new in added]
        return {
            "data": data,
            "new": sum(new for _, new in added),
            "unmatched": sum(not one.matched for one, _ in added),
        }

    async def page(
        request: Request,
        call: str | None = None,
        session: str | None = None,
        external_id: str | None = None,
        name: str | None = None,
        by: str | None = None,
        since: str | None = None,
        unmatched: bool = False,
        history: bool = False,
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = 100,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Verdicts, latest first: those that count; with ``history``, those that a later one superseded, too.

        ``unmatched`` in the answer counts all that wait for a call, of every team; it is told to administrators.
        """
        caller: Caller = request.state.caller
        given = (("call", call), ("session", session), ("external", external_id))
        asked = Asked(
            team=caller.team,
            subjects=tuple((about, value) for about, value in given if value is not None),
            name=name,
            by=by,
            since=moment_or_age(since, "since"),
            unmatched=unmatched,
            history=history,
            after=None if cursor is None else _decoded(cursor),
            limit=limit + 1,
        )
        if len(asked.subjects) > 1:
            raise Invalid("ask for one of call, session and external_id", field="call")
        found = await control.judging.verdicts.page(asked)
        data = [{**shown(one, control.judging.types), "counts": counts} for one, counts in found[:limit]]
        answer: dict[str, Any] = {"data": data, "cursor": _encoded(found[limit - 1][0]) if len(found) > limit else None}
        if caller.team is None:
            answer["unmatched"] = control.judging.verdicts.unmatched
        return answer

    async def edit(request: Request, id: str, origin: str = "") -> dict[str, Any]:
        """The texts of an edit. That they were looked at is recorded.

        ``origin`` is the verdict's: the team whose key sent it, empty for an administrator's.
        """
        found = await control.judging.verdicts.find(origin, id)
        kept = None if found is None else await control.judging.verdicts.edit(found)
        if found is None or kept is None:
            raise NotFound("no texts are kept of this verdict: it is no edit, or was sent with keep: false")
        caller: Caller = request.state.caller
        async with control.database.write() as connection:
            await control.changes.append(
                connection, by=caller.name, why="an edit was looked at", what=f"edit:{id}", before=None, after=None
            )
        return {"id": id, "before": kept.before, "after": kept.after}

    async def types(request: Request) -> dict[str, Any]:
        """The verdict types in force."""
        return {"data": [type_shown(one) for one in control.judging.types.values()]}

    async def figures(
        request: Request,
        by: str = "",
        since: str | None = None,
        until: str | None = None,
        limit: int = 100,
        source: Source = "gateway",
    ) -> dict[str, Any]:
        """Scores, feedback, task success, override and cost per successful task, of the calls in the window.

        ``by``: team, key, user, model, provider, route, workflow, prompt, prompt_version or tag.NAME, with commas
        between. ``source``: calls through a gateway, an application's spans (``otlp``) or records (``api``), or ``all``.
        """
        caller: Caller = request.state.caller
        await control.judging.verdicts.match()
        found = await outcomes(
            control.ledger,
            control.judging.types,
            [name.strip() for name in by.split(",") if name.strip()],
            team=caller.team,
            since=moment_or_age(since, "since"),
            until=moment_or_age(until, "until"),
            limit=limit,
            timeout=_TIMEOUT,
            source=source,
        )
        answer: dict[str, Any] = {"data": [outcome_shown(one, control.judging.types) for one in found]}
        if caller.team is None:
            answer["unmatched"] = control.judging.verdicts.unmatched
        return answer

    routes.add("POST", "/api/v1/verdicts", "verdicts:write", post)
    routes.add("GET", "/api/v1/verdicts", "calls:read", page)
    routes.add("GET", "/api/v1/verdicts/types", "calls:read", types)
    routes.add("GET", "/api/v1/verdicts/{id}/edit", "content:read", edit)
    routes.add("GET", "/api/v1/outcomes", "calls:read", figures)


def _draft(body: VerdictBody, place: str) -> Draft:
    about, subject = _subject(body, place)
    ways = [body.edit is not None, body.handoff is not None, body.value is not None]
    if sum(ways) != 1:
        raise Invalid(f"{place}value: give one of value, edit and handoff", field=f"{place}value")
    name = body.name or ("edit" if body.edit is not None else "handoff" if body.handoff is not None else "")
    if not name or (body.value is None and name != ("handoff" if body.edit is None else "edit")):
        said = "say which verdict it is, such as thumbs; edit and handoff name themselves"
        raise Invalid(f"{place}name: {said}", field=f"{place}name")
    return Draft(
        about=about,
        subject=subject,
        name=name,
        value=body.value if body.handoff is None else body.handoff,
        by=body.by,
        why=_storable(body.why, f"{place}why"),
        at=None if body.at is None else _at(body.at, place),
        id=body.id,
        team=body.team,
        edit=None if body.edit is None else _texts(body.edit, place),
        keep=body.edit is None or body.edit.keep,
        place=place,
    )


def _subject(body: VerdictBody, place: str) -> tuple[About, str]:
    given: list[tuple[About, str]] = []
    if body.call is not None:
        given.append(("call", body.call))
    if body.session is not None:
        given.append(("session", body.session))
    if body.external_id is not None:
        given.append(("external", body.external_id))
    if len(given) != 1:
        raise Invalid(f"{place}call: say what it is about: one of call, session and external_id", field=f"{place}call")
    return given[0][0], _storable(given[0][1], f"{place}call")


def _texts(edit: EditBody, place: str) -> tuple[str, str]:
    both = edit.before is not None and edit.after is not None
    if both == (edit.diff is not None) or (not both and (edit.before is not None or edit.after is not None)):
        raise Invalid(f"{place}edit: give before and after, or a diff", field=f"{place}edit")
    before, after = sides(edit.diff) if edit.diff is not None else (edit.before or "", edit.after or "")
    return _storable(before, f"{place}edit", nul=True), _storable(after, f"{place}edit", nul=True)


def _storable(text: str, field: str, nul: bool = False) -> str:
    if not nul and "\x00" in text:
        raise Invalid(f"{field}: a text cannot have the character U+0000", field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid(f"{field}: a surrogate stands alone, which is no text", field=field) from None
    return text


def _at(text: str, place: str) -> int:
    try:
        return moment(text)
    except (ValueError, OverflowError):
        said = f"{text[:60]!r} is no time such as 2026-11-21T10:00:00Z"
        raise Invalid(f"{place}at: {said}", field=f"{place}at") from None


def _encoded(one: Verdict) -> str:
    return base64.urlsafe_b64encode(f"{one.at}\x1f{one.id}\x1f{one.origin}".encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[int, str, str]:
    try:
        at, identifier, origin = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split("\x1f")
        if not 0 <= int(at) < 2**63 - 1:
            raise ValueError
        return int(at), identifier, origin
    except (ValueError, binascii.Error):
        raise Invalid("the cursor is none of ours; begin again without one", field="cursor") from None
