"""A provider reached over HTTP: one ask in its wire format, put to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol
from urllib.parse import quote

from mainstay.core.clock import Clock
from mainstay.core.errors import Unsupported, UpstreamFailed
from mainstay.core.model import ModelFacts
from mainstay.upstream.ask import Ask
from mainstay.upstream.hiding import forms
from mainstay.upstream.http import Origin, Pool
from mainstay.upstream.http_heads import head, with_callers
from mainstay.upstream.http_source import MAX_BODY, MAX_READ, HttpSource
from mainstay.upstream.http_translated import TRANSLATED, Reads, translated
from mainstay.wire.anthropic import Anthropic
from mainstay.wire.dialect import Dialect


class Auth(Protocol):
    """Shows our key to the provider."""

    async def headers(self, method: str, host: str, target: str, body: bytes) -> Mapping[str, str]:
        """The headers that go with this very request."""
        ...


class HttpTarget:
    """Every model of one provider's account."""

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        base_path: str,
        query: str,
        headers: Mapping[str, str],
        auth: Auth | None,
        dialect: Dialect,
        plain: Dialect | None,
        clock: Clock,
        stream_usage: bool = True,
        azure_version: str | None = None,
        max_tokens_field: str | None = None,
        developer_role: bool | None = None,
        top_k: bool | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self._secrets = forms(secrets)
        self._pool, self._origin, self._base_path, self._query = pool, origin, base_path, query
        usual = {"host": origin.authority, "content-type": "application/json", "accept-encoding": "gzip"}
        self._lines = usual | dict(headers)
        self._head = head(self._lines)
        self._auth, self._dialect, self._plain, self._clock = auth, dialect, plain, clock
        self._stream_usage, self._azure_version = stream_usage, azure_version
        self._max_tokens_field, self._developer_role, self._top_k = max_tokens_field, developer_role, top_k
        self._facts: dict[ModelFacts, ModelFacts] = {}
        self._vertex = "/publishers/" in base_path
        self._targets: dict[tuple[str, str, bool], str] = {}

    async def ask(self, ask: Ask, model: str, facts: ModelFacts) -> HttpSource:
        """Put the question; returns when the reply's head is there."""
        read: Reads | None = None
        other = None
        if ask.operation in TRANSLATED:
            other = translated(ask, self._dialect, model, self._with_own(facts), self._vertex)
        if other is not None:
            dialect, same, withhold = self._dialect, False, False
            body, operation, read = other
        else:
            dialect, same, body, withhold = self._written(ask, model, facts)
            operation = ask.operation if dialect.name == ask.dialect.name else _OPERATION[dialect.name]
        stream = ask.peek.stream
        target = self._targets.get((operation, model, stream))
        if target is None:
            target = self._target(dialect, operation, model, stream)
            if len(self._targets) < 10_000:
                self._targets[(operation, model, stream)] = target
        lines = self._head if not ask.headers else with_callers(self._lines, ask.headers, same)
        secrets = self._secrets
        if self._auth is not None:
            signed = await self._auth.headers("POST", self._origin.authority, target, body)
            lines += head(signed)
            token = signed.get("authorization", "").removeprefix("Bearer ")
            secrets = (*forms((token,)), *secrets)
        upstream = await self._pool.send(
            self._origin,
            "POST",
            target,
            lines,
            body,
            connect_timeout=ask.connect_timeout(self._clock.monotonic()),
            max_body=None if stream else MAX_BODY if same else MAX_READ,
            fresh=ask.pace is not None and ask.pace.repeated,
        )
        ask.sent += 1
        source = HttpSource(upstream, ask, dialect, same, withhold, self._clock, model, secrets, read)
        try:
            await source.begin()
        except UpstreamFailed as failure:
            source.close()
            source.hide(failure)
            raise
        except BaseException:
            source.close()
            raise
        return source

    def _written(self, ask: Ask, model: str, facts: ModelFacts) -> tuple[Dialect, bool, bytes, bool]:
        caller = ask.dialect
        dialect = self._dialect
        if ask.operation in PLAIN_OPERATIONS:
            if self._plain is None:
                raise Unsupported(f"{ask.operation} goes only to a provider that speaks OpenAI's format", field="model")
            dialect = self._plain
        if caller.name == dialect.name and not ask.prefilled:
            asks_usage = ask.peek.stream and self._stream_usage
            if ask.prompt_cache is not None and isinstance(dialect, Anthropic):
                body = dialect.rewrite(ask.operation, ask.body, ask.peek, model, False, cache_prompt=ask.prompt_cache)
            else:
                body = dialect.rewrite(ask.operation, ask.body, ask.peek, model, asks_usage)
            return dialect, True, body, asks_usage and not ask.peek.usage_wanted
        body = ask.write(dialect, model, self._with_own(facts))
        same = caller.name == dialect.name
        return dialect, same, body, same and not ask.peek.usage_wanted

    def _with_own(self, facts: ModelFacts) -> ModelFacts:
        """``facts``, and what is true of everything at this provider where they say nothing."""
        known = self._facts.get(facts)
        if known is None:
            known = replace(
                facts,
                max_tokens_field=facts.max_tokens_field or self._max_tokens_field,
                roles_developer=self._developer_role if facts.roles_developer is None else facts.roles_developer,
                top_k=self._top_k if facts.top_k is None else facts.top_k,
                stream_usage=self._stream_usage if facts.stream_usage is None else facts.stream_usage,
            )
            if len(self._facts) >= 256:
                self._facts.clear()
            self._facts[facts] = known
        return known

    def _target(self, dialect: Dialect, operation: str, model: str, stream: bool) -> str:
        path = dialect.path(operation, model, stream)
        if self._azure_version is not None:
            path = f"/openai/deployments/{quote(model, safe='')}{path}?api-version={self._azure_version}"
        target = self._base_path + path
        if self._query:
            target += ("&" if "?" in target else "?") + self._query
        return target


PLAIN_OPERATIONS = frozenset(
    (
        "completions",
        "embeddings",
        "images.generations",
        "images.edits",
        "images.variations",
        "audio.transcriptions",
        "audio.translations",
        "audio.speech",
        "moderations",
        "rerank",
    )
)
"""What is passed through to a target of the same format, and never translated."""

_OPERATION = {
    "openai": "chat",
    "openai-responses": "responses",
    "anthropic": "messages",
    "gemini": "chat",
    "bedrock": "chat",
}
