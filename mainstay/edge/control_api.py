"""The control API: one shape for every resource, described by its OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from mainstay.core.errors import Forbidden, Invalid, MainstayError, NotFound
from mainstay.edge import (
    control_behaviour,
    control_calls,
    control_cost,
    control_keys,
    control_responses,
    control_spans,
    control_system,
    control_traces,
    control_verdicts,
)
from mainstay.edge.control_route import ERROR, guarded
from mainstay.edge.passing import TRACES
from mainstay.edge.permissions import Permission
from mainstay.edge.status import retry_after, status_of

if TYPE_CHECKING:
    from mainstay.control import Control

log = logging.getLogger("mainstay.control")

_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "What is wrong, and what to do", "content": {"application/json": {"schema": ERROR}}}
}


def control_api(control: Control) -> FastAPI:
    """The application. Every route is made through ``Routes``, which demands a permission."""
    app = FastAPI(
        title="Mainstay control API",
        version="1",
        description="Keys, behaviour, calls and health. Send a key as `Authorization: Bearer …` or `x-api-key`.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(MainstayError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _broken)
    routes = Routes(app, control)
    for room in (
        control_keys,
        control_calls,
        control_cost,
        control_behaviour,
        control_system,
        control_traces,
        control_responses,
        control_spans,
        control_verdicts,
    ):
        room.add(routes, control)

    async def document(request: Request) -> JSONResponse:
        """This document."""
        return JSONResponse(_document(app))

    routes.add("GET", "/api/openapi.json", "public", document, include_in_schema=False)
    return app


class Routes:
    """Makes routes, each with an explicit permission."""

    def __init__(self, app: FastAPI, control: Control) -> None:
        self._router = app.router
        self._route = guarded(control.caller)

    def add(self, method: str, path: str, permission: Permission, handler: Callable[..., Any], **more: Any) -> None:
        """``method path``, for callers with ``permission``; handlers find the caller in ``request.state``."""
        more["openapi_extra"] = {"x-permission": permission}
        more["responses"] = _ERRORS
        self._router.add_api_route(path, handler, methods=[method], route_class_override=self._route, **more)


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: as FastAPI makes it, with the way to sign in and our own errors in place of its."""
    if app.openapi_schema is None:
        document = app.openapi()
        schemas: dict[str, Any] = document.get("components", {}).get("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        document.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if operation["x-permission"] != "public":
                    operation["security"] = [{"bearer": []}, {"header": []}]
    return app.openapi_schema or {}


def _error(error: MainstayError, status: int, **headers: str) -> Response:
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    field = getattr(error, "field", None)
    if field is not None:
        body["field"] = field
    problems = getattr(error, "problems", None)
    if problems is not None:
        body["problems"] = problems
    wait = retry_after(error, status)
    if wait is not None:
        headers["retry-after"] = wait
    return JSONResponse({"error": body}, status, headers=headers)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, MainstayError)
    if request.scope["path"] == TRACES:
        return control_spans.refused(request, error)
    return _error(error, status_of(error))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    wrong = "there is no such field" if first["type"] == "extra_forbidden" else str(first["msg"])
    return _error(Invalid(f"{field[:200]}: {wrong}", field=field[:200]), 400)


async def _refused(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: no such path, or not by that method."""
    assert isinstance(error, HTTPException)
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    if error.status_code == 404:
        return _error(NotFound("there is nothing here; the control API is described at /api/openapi.json"), 404)
    if error.status_code == 405:
        allowed = headers.get("Allow", "another method")
        said = f"{request.scope['path'][:200]} takes {allowed}"
        return _error(Forbidden(said, code="method_not_allowed"), 405, **headers)
    return _error(Invalid(str(error.detail)), error.status_code, **headers)


async def _broken(request: Request, error: Exception) -> Response:
    """A defect of ours. Only where it is and of what kind is logged: a message could hold content."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "?" if place is None else f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
    route = getattr(request.scope.get("route"), "path", "?")
    log.error("%s %s failed: %s at %s", request.method, route, type(error).__name__, where)
    return _error(MainstayError("Mainstay failed inside; the control process's log says where"), 500)
