"""Who may do what on the control API: every route names a permission, or it does not exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from mainstay.access.authenticate import secret
from mainstay.core.errors import Forbidden, NotFound, Unauthenticated

Permission = Literal[
    "public",  # anybody, without a key
    "calls:read",  # any key: the calls of its own team; an administrator's: all
    "calls:write",  # any key: an application's own calls and spans, for its own team
    "verdicts:write",  # any key: on the calls of its own team; an administrator's: on all
    "content:read",  # an administrator
    "keys:write",
    "behaviour:read",
    "behaviour:write",
    "system:read",
    "internal",  # nobody but this installation's own processes, over its own socket
]

ANYBODY: frozenset[Permission] = frozenset(("public",))
ANY_KEY: frozenset[Permission] = frozenset(("calls:read", "calls:write", "verdicts:write"))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks the control API."""

    name: str
    admin: bool
    team: str | None  # None: all teams
    key_id: str | None = None
    own: str | None = None  # the team that the key belongs to; None: whoever may open the installation's own socket


LOCAL = Caller("command line", True, None)
"""Whoever may open the installation's own socket."""

Find = Callable[[str], Caller | None]
"""The caller whose secret this is."""


def authorise(request: Request, permission: Permission, find: Find) -> Caller:
    """The caller of ``request``, if it may. Decided on the matched route, never on what the request says of itself."""
    if request.scope.get("mainstay.local"):
        return LOCAL
    if permission == "internal":
        raise NotFound("there is nothing here; the control API is described at /api/openapi.json")
    caller = find(secret(request.headers))
    if permission in ANYBODY:
        return caller or Caller("nobody", False, "")
    if caller is None:
        raise Unauthenticated("the API key is missing or unknown; send it as 'Authorization: Bearer …' or 'x-api-key'")
    if not caller.admin and permission not in ANY_KEY:
        raise Forbidden("this needs an administrator's key; make one with: mainstay keys create --admin …")
    return caller
