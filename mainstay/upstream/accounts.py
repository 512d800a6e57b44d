"""Makes the answerer of a configured provider: its row in the table, its address, and how its key is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlencode

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid, UpstreamFailed
from mainstay.registry import kinds
from mainstay.registry.kinds import seconds
from mainstay.upstream.ask import Answerer
from mainstay.upstream.google_auth import FORM, ServiceAccount, Token, read_account, read_token, token_request
from mainstay.upstream.http import Origin, Pool, header_lines
from mainstay.upstream.http_target import Auth, HttpTarget
from mainstay.upstream.providers import Provider, row
from mainstay.upstream.sigv4 import sign
from mainstay.upstream.sim import KINDS, SimFault, SimSettings, Simulator
from mainstay.wire.dialect import Dialect


class Accounts:
    """Turns a provider's body into its answerer; one HTTP pool serves them all."""

    def __init__(self, pool: Pool, dialects: Mapping[str, Dialect], plain: Dialect, clock: Clock) -> None:
        self._pool, self._dialects, self._plain, self._clock = pool, dialects, plain, clock

    def answerer(self, body: kinds.Provider) -> Answerer:
        """The answerer of ``body``, whose secrets are unsealed. Raises ``Invalid`` for what cannot be reached."""
        try:
            known = row(body.kind, body.wire)
        except KeyError:
            raise Invalid(f"there is no kind of provider {body.kind!r}", field="kind") from None
        wire = body.wire or known.wire
        if wire == "sim":
            return Simulator(simulated(body.sim or kinds.Simulator()), self._dialects["openai"], self._clock)
        address = base_url(body, known)
        origin, path = Origin.parse(
            address, private=body.private or known.local, ca_file=body.ca_file, proxy=body.proxy
        )
        dialect = self._dialects[wire]
        if wire == "anthropic" and path.endswith("/v1"):
            path = path[:-3]  # this format's own paths begin with /v1
        headers: dict[str, str] = {} if wire == "bedrock" else dict(known.headers)
        headers.update({name.lower(): value for name, value in body.headers.items()})
        header_lines(headers.items())
        auth = self._auth(body, known)
        if isinstance(auth, Fixed):  # the same for every request: it stands with the other headers
            headers.update(auth.shown)
            auth = None
        azure = body.api_version if known.kind == "azure" else None
        if azure is not None and path.endswith("/openai/v1"):
            path = path[: -len("/openai/v1")]
        return HttpTarget(
            self._pool,
            origin,
            path,
            urlencode(body.query),
            headers,
            auth,
            dialect,
            self._plain if wire in ("openai", "openai-responses") else None,
            self._clock,
            stream_usage=known.stream_usage and wire == "openai",
            azure_version=azure,
            max_tokens_field=known.max_tokens_field,
            developer_role=known.developer_role,
            top_k=known.top_k or None,
            secrets=[secret for secret in (body.api_key, body.secret_key, body.session_token) if secret]
            + [*body.headers.values(), *body.query.values()],
        )

    def _auth(self, body: kinds.Provider, known: Provider) -> Auth | None:
        key = body.api_key
        if known.auth == "sigv4" and body.secret_key is not None and key is not None:
            if body.region is None:
                raise Invalid("Bedrock needs a region, such as us-east-1", field="region")
            return SigV4(key, body.secret_key, body.session_token, body.region, self._clock)
        if key is None or known.auth == "none":
            return None
        if known.auth == "google" and key.lstrip().startswith("{"):
            return Google(read_account(key), self._pool, self._clock)
        if known.auth in ("bearer", "google", "sigv4"):  # Bedrock takes API keys as bearer tokens too
            return Fixed("authorization", f"Bearer {key}")
        return Fixed(known.auth, key)


def base_url(body: kinds.Provider, known: Provider) -> str:
    """The provider's address: the bundle's own, else its row's with the blanks filled in."""
    if body.base_url is not None:
        return body.base_url
    if known.base_url is None:
        raise Invalid(f"provider {body.name!r} needs a base_url", field="base_url")
    blanks = {"region": body.region, "project": body.project, "resource": body.project}
    for name, value in blanks.items():
        if "{" + name + "}" in known.base_url and not value:
            needed = "project" if name == "resource" else name
            raise Invalid(f"provider {body.name!r} ({known.kind}) needs {needed}, or a base_url", field=needed)
    if known.kind == "vertex" and body.region == "global":  # the one location without a host of its own
        return known.base_url.replace("{region}-", "").format(**blanks)
    return known.base_url.format(**blanks)


def simulated(body: kinds.Simulator) -> SimSettings:
    """The simulator's settings from its body. Raises ``Invalid`` for an unknown fault."""
    for fault in body.faults:
        if fault.kind not in KINDS:
            raise Invalid(
                f"the simulator has no fault {fault.kind!r}; there are {', '.join(sorted(KINDS))}", field="faults"
            )
    faults = tuple(SimFault(f.kind, f.rate, f.after, f.times, f.retry_after, f.seconds) for f in body.faults)
    return SimSettings(
        body.seed, seconds(body.latency), body.jitter, body.tokens_per_second, body.tokens, body.reply, faults
    )


class Fixed:
    """A key in a header, the same for every request."""

    def __init__(self, name: str, value: str) -> None:
        header_lines(((name, value),))
        self.shown = {name: value}

    async def headers(self, method: str, host: str, target: str, body: bytes) -> Mapping[str, str]:
        """The header with the key."""
        return self.shown


class SigV4:
    """A signature over each request, as AWS wants it."""

    def __init__(self, access_key: str, secret_key: str, token: str | None, region: str, clock: Clock) -> None:
        self._access_key, self._secret_key, self._token, self._region = access_key, secret_key, token, region
        self._clock = clock

    async def headers(self, method: str, host: str, target: str, body: bytes) -> Mapping[str, str]:
        """The headers that prove who asks."""
        return sign(
            method,
            host,
            target,
            {},
            body,
            access_key=self._access_key,
            secret_key=self._secret_key,
            session_token=self._token,
            region=self._region,
            service="bedrock",
            now=self._clock.now(),
        )


class Google:
    """An access token of a service account, fetched when it is needed and renewed before it ends."""

    def __init__(self, account: ServiceAccount, pool: Pool, clock: Clock) -> None:
        self._account, self._pool, self._clock = account, pool, clock
        self._token: Token | None = None
        self._fetching = asyncio.Lock()

    async def headers(self, method: str, host: str, target: str, body: bytes) -> Mapping[str, str]:
        """The header with the token."""
        token = self._token
        if token is None or token.due(self._clock.now()):
            async with self._fetching:
                token = self._token
                if token is None or token.due(self._clock.now()):
                    token = await self._renewed(token)
        return {"authorization": f"Bearer {token.value}"}

    async def _renewed(self, old: Token | None) -> Token:
        now = self._clock.now()
        try:
            url = self._account.token_uri
            scheme, _, rest = url.partition("://")
            host, _, path = rest.partition("/")
            origin, _ = Origin.parse(f"{scheme}://{host}")
            head = header_lines((("host", origin.authority), ("content-type", FORM)))
            sent = await self._pool.send(
                origin, "POST", f"/{path}", head, token_request(self._account, now), connect_timeout=5.0, max_body=65536
            )
            try:
                sent.deadline = self._clock.monotonic() + 10.0
                status, _ = await sent.head()
                body = await sent.body()
            finally:
                sent.release()
            self._token = read_token(status, body, now)
        except UpstreamFailed:
            if old is None or old.dead(now):
                raise
            return old  # it still opens; the next call tries again
        return self._token
