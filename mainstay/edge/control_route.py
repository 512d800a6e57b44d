"""One route of the control API: who may take it is decided before anything of the request but its path is read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from mainstay.core.errors import Invalid
from mainstay.edge.permissions import Find, Permission, authorise

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "Stable, for programs"},
                "message": {"type": "string", "description": "What is wrong and what to do, for people"},
                "field": {"type": "string", "description": "Which field of the request it is about"},
                "problems": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "The mistakes in a bundle, each file:line: sentence",
                },
            },
        }
    },
}
"""The JSON Schema of every error's body."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def guarded(find: Find) -> type[APIRoute]:
    """The class of routes that let in whom ``find`` knows, as the permission in their ``openapi_extra`` says."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Handler:
            handler = super().get_route_handler()
            permission = cast(Permission, (self.openapi_extra or {})["x-permission"])  # a route without one is no route
            named = [field.alias for field in self.dependant.query_params]
            reads = self.body_field is not None

            async def handle(request: Request) -> Response:
                request.state.caller = authorise(request, permission, find)
                _only(request, named)
                if reads:
                    _sound(await request.body())
                return await handler(request)

            return handle

    return Guarded


def _only(request: Request, named: list[str]) -> None:
    """Refuse query parameters that mean nothing here, and those that are given twice."""
    seen: set[str] = set()
    for name in [name for name, _ in request.query_params.multi_items()]:
        if name not in named:
            near = difflib.get_close_matches(name, named, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(named) or 'none'}"
            raise Invalid(f'there is no query parameter "{name[:60]}"; {hint}', field=name[:60])
        if name in seen:
            raise Invalid(f'the query parameter "{name}" is given twice; give it once', field=name)
        seen.add(name)


def _sound(body: bytes) -> None:
    """Refuse JSON that two readers may take differently: keys given twice, numbers that are none, odd encodings."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise Invalid(f'the key "{twice[:60]}" is given twice; give it once', field=twice[:60])
        return found

    def constant(name: str) -> Any:
        raise Invalid(f"{name} is no number in JSON")

    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=members, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        said = f"at character {error.pos + 1}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise Invalid(
            f"the body is not JSON{f' {said}' if said else ', or not in UTF-8, or nested too deep'}"
        ) from None
