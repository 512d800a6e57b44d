"""The control API: one shape for every resource, described by its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from mainstay.core.errors import Invalid, MainstayError, NotFound
from mainstay.edge import control_behaviour, control_calls, control_keys, control_responses, control_system
from mainstay.edge.permissions import Permission, authorise
from mainstay.edge.status import retry_after, status_of

if TYPE_CHECKING:
    from mainstay.control import Control


def control_api(control: Control) -> FastAPI:
    """The application. Every route is made through ``Routes``, which demands a permission."""
    app = FastAPI(
        title="Mainstay control API",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(MainstayError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(404, _not_found)
    routes = Routes(control)
    for room in (control_keys, control_calls, control_behaviour, control_system, control_responses):
        room.add(routes, control)
    app.include_router(routes.router)
    return app


class Routes:
    """Makes routes, each with an explicit permission."""

    def __init__(self, control: Control) -> None:
        self.router = APIRouter()
        self._control = control

    def add(self, method: str, path: str, permission: Permission, handler: Callable[..., Any], **more: Any) -> None:
        """``method path``, for callers with ``permission``; handlers find the caller in ``request.state``."""

        async def check(request: Request) -> None:
            request.state.caller = authorise(request, permission, self._control.caller)

        more.setdefault("openapi_extra", {"x-permission": permission})
        self.router.add_api_route(path, handler, methods=[method], dependencies=[Depends(check)], **more)


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MainstayError)
    status = status_of(error)
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, Invalid) and error.field is not None:
        body["field"] = error.field
    problems = getattr(error, "problems", None)
    if problems is not None:
        body["problems"] = problems
    wait = retry_after(error, status)
    return JSONResponse({"error": body}, status, headers={} if wait is None else {"retry-after": wait})


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    body = {"code": "invalid_request", "message": f"{field}: {first['msg']}", "field": field}
    return JSONResponse({"error": body}, 400)


async def _not_found(_request: Request, _error: Exception) -> Response:
    error = NotFound("there is nothing here; the control API is described at /api/openapi.json")
    return JSONResponse({"error": {"code": error.code, "message": error.message}}, 404)
