"""Who calls, what for, and by which route: reads the key, the body's few fields that matter, and the headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from mainstay.access.authenticate import secret
from mainstay.core.clock import Clock
from mainstay.core.errors import Forbidden, Invalid, NotFound, Unauthenticated
from mainstay.gateway.plan import Plan
from mainstay.gateway.routed import Routed
from mainstay.registry.kinds import seconds
from mainstay.upstream.ask import Ask
from mainstay.upstream.http_target import PLAIN_OPERATIONS
from mainstay.wire.dialect import Dialect

_TAGS, _TAG_LENGTH = 32, 128
# As W3C writes it; a later version may have more after it. What is all zeros, or of version ff, says nothing.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-|$)")
_GOES_ALONG = ("anthropic-beta", "anthropic-version", "openai-beta", "traceparent", "tracestate")


class Identify:
    """Sets principal, tags, route and the Ask. Refuses with 400, 401, 403 or 404."""

    def __init__(self, plan: Callable[[], Plan], dialects: Mapping[str, Dialect], plain: Dialect, clock: Clock) -> None:
        self._plan, self._dialects, self._plain, self._clock = plan, dialects, plain, clock

    def enter(self, call: Routed) -> None:
        """Read who calls and what for."""
        plan = call.plan = self._plan()
        call.snapshot = plan.digest
        headers = call.headers
        key = plan.keys.find(secret(headers), call.at)
        if key is None:
            raise Unauthenticated(
                "the API key is missing or unknown; send it as 'Authorization: Bearer …' or 'x-api-key'"
            )
        call.principal, call.opened_by = key.principal, key
        if call.refusal is not None:
            self._headers(call)
            raise call.refusal
        dialect = self._plain if call.operation in PLAIN_OPERATIONS else self._dialects[call.dialect]
        content_type = headers.get("content-type", "application/json")
        peek = call.peek = dialect.peek(call.operation, call.body, content_type)
        call.stream = peek.stream
        self._headers(call)
        if call.user is None:
            call.user = peek.user
        route = plan.routes.get(peek.model)
        if route is None:
            raise NotFound(
                f"there is no model or route {peek.model!r} here; GET /v1/models lists those that your key may use",
                code="model_not_found",
            )
        allowed = call.principal.models
        if allowed is not None and peek.model not in allowed:
            raise Forbidden(f"your key may not use {peek.model!r}; ask whoever made the key", code="model_not_allowed")
        call.to, call.route = route, route.name
        call.priority = key.priority if key.priority is not None else route.priority
        call.keep_content = key.content if key.content is not None else route.content
        now = call.started
        total = route.phases.total
        if "x-mainstay-timeout" in headers:
            total = min(total, _timeout(headers["x-mainstay-timeout"]))
        call.deadline = now + total
        along = {name: headers[name] for name in _GOES_ALONG if name in headers}
        if not content_type.startswith("application/json"):
            along["content-type"] = content_type
        call.ask = Ask(call.operation, dialect, call.body, peek, route.phases, call.deadline, along, route.prompt_cache)

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """Nothing to settle."""

    def _headers(self, call: Routed) -> None:
        headers = call.headers
        if "x-mainstay-tags" in headers:
            call.tags = tags(headers["x-mainstay-tags"])
        call.user = _short(headers, "x-mainstay-user")
        call.session = _short(headers, "x-mainstay-session")
        call.workflow = _short(headers, "x-mainstay-workflow")
        parent = headers.get("traceparent")
        if parent is not None and (found := _TRACEPARENT.match(parent)) is not None:
            call.trace, call.parent_span = found[1], found[2]


def tags(value: str) -> dict[str, str]:
    """``feature=search,tier=free`` as a mapping. Names and values may be percent-encoded. Raises ``Invalid``."""
    found: dict[str, str] = {}
    for pair in value.split(","):
        if not pair.strip():
            continue
        name, equals, content = pair.partition("=")
        name, content = unquote(name.strip()), unquote(content.strip())
        if not equals or not name or len(name) > _TAG_LENGTH or len(content) > _TAG_LENGTH or len(found) >= _TAGS:
            raise Invalid(
                f"x-mainstay-tags is name=value pairs with commas between, at most {_TAGS} of {_TAG_LENGTH} characters",
                field="x-mainstay-tags",
            )
        found[name] = content
    return found


def _short(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    if len(value) > 256:
        raise Invalid(f"{name} is longer than 256 characters", field=name)
    return value or None


def _timeout(value: str) -> float:
    try:
        timeout = seconds(float(value)) if value.replace(".", "", 1).isdigit() else seconds(value)
    except ValueError as error:
        raise Invalid(f"x-mainstay-timeout: {error}", field="x-mainstay-timeout") from None
    if timeout <= 0:
        raise Invalid("x-mainstay-timeout must be more than 0", field="x-mainstay-timeout")
    return timeout
