"""The typed body of each kind of artifact, and of the teams and keys that a bundle declares.

These structs are the only schema there is: a bundle is checked against them, the JSON Schema for editors and the
configuration reference are made from them, and a gateway decodes its Snapshot with them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$", description="Letters, digits and . _ : @ / -")
]
Duration = Annotated[
    str | int | float, Meta(description="Seconds, or a number with ms, s, m, h or d, such as 500ms, 2s or 10m")
]
Amount = Annotated[float, Meta(ge=0, description="US dollars")]
WireName = Literal["openai", "openai-responses", "anthropic", "gemini", "bedrock", "sim"]
Period = Literal["minute", "hour", "day", "month", "total"]


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What all bodies share: unknown fields are refused."""


class Concurrency(Body):
    """How many calls a provider may have in flight per gateway process, and how many more may wait."""

    limit: Annotated[int, Meta(ge=1)]
    queue: Annotated[int, Meta(ge=0)] = 0
    wait: Duration = "10s"


class Provider(Body):
    """An account with someone who answers: an address, a wire format, a key."""

    name: Name
    wire: WireName | None = None  # left out: the kind's own
    kind: str | None = None  # a row of the provider table, such as groq; left out: any address of that wire
    base_url: str | None = None  # left out: the kind's own
    api_key: str | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    region: str | None = None  # Bedrock, Vertex
    project: str | None = None  # Vertex, Databricks, Cloudflare (the account)
    api_version: str | None = None  # Azure
    secret_key: str | None = None  # AWS: api_key is the access key id
    session_token: str | None = None  # AWS
    private: bool = False  # the address may be a private, link-local or loopback one when its name resolves to it
    concurrency: Concurrency | None = None
    ca_file: str | None = None
    proxy: str | None = None
    sim: Simulator | None = None


class Fault(Body):
    """One misbehaviour of the simulator, and how often it happens."""

    kind: str
    rate: Annotated[float, Meta(ge=0, le=1)] = 1.0
    after: Annotated[int, Meta(ge=0)] = 0  # tokens before it happens, or calls where the kind counts those
    times: int | None = None  # at most so often; left out: for ever
    retry_after: float | None = None
    seconds: float | None = None


class Simulator(Body):
    """The built-in provider for trying out, tests, load and game days."""

    seed: int = 0
    latency: Duration = "50ms"
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.0
    tokens_per_second: Annotated[float, Meta(gt=0)] = 100.0
    tokens: Annotated[int, Meta(ge=1)] | None = None
    reply: str | None = None
    faults: list[Fault] = []


class PriceBody(Body):
    """US dollars per million tokens of each sort, and per request."""

    input: Amount
    output: Amount = 0
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    reasoning: Amount | None = None
    input_audio: Amount | None = None
    output_audio: Amount | None = None
    request: Amount = 0


class Breaker(Body):
    """When a target is left alone: so many failures in a row, or such a share of the recent calls; and for how long."""

    failures: Annotated[int, Meta(ge=1)] = 5
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.5
    min_calls: Annotated[int, Meta(ge=1)] = 20
    window: Duration = "30s"
    open_for: Duration = "10s"


class Model(Body):
    """One model of one provider, under the name that routes and callers use."""

    name: Name
    target: Annotated[str, Meta(pattern=r"^[^/]+/.+$", description="provider/model, cut at the first slash")]
    price: PriceBody | None = None
    context_window: Annotated[int, Meta(ge=1)] | None = None
    max_output: Annotated[int, Meta(ge=1)] | None = None
    tools: bool | None = None
    images: bool | None = None
    audio: bool | None = None
    documents: bool | None = None
    schema: bool | None = None
    reasoning: bool | None = None
    sampling: bool | None = None
    prefill: bool | None = None
    max_call_usd: Amount | None = None  # the declared bound of one call, for what the body's size cannot bound
    concurrency: Concurrency | None = None
    breaker: Breaker = msgspec.field(default_factory=Breaker)


class Retry(Body):
    """Tries per target, and the pause between them: full jitter under base · 2ⁿ."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 2
    base: Duration = "250ms"
    cap: Duration = "8s"
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.2  # retries as a share of calls, beyond a small reserve


class Timeouts(Body):
    """How long each phase may take."""

    connect: Duration = "5s"
    first_token: Duration = "60s"
    idle: Duration = "60s"
    plain: Duration = "300s"
    total: Duration = "600s"


class CacheRule(Body):
    """Whether equal requests may be answered from the exact cache, and for how long."""

    ttl: Duration
    scope: Literal["key", "team"] = "team"
    max_bytes: Annotated[int, Meta(ge=1)] = 1_048_576


class Hedge(Body):
    """Ask a second target when the first is slow; whoever is first wins, the other is cancelled."""

    after: Duration
    max_usd: Amount | None = None
    max_share: Annotated[float, Meta(ge=0, le=1)] = 0.1


class Route(Body):
    """A name that callers may ask for, and what happens when they do."""

    name: Name
    to: Any
    retry: Retry = msgspec.field(default_factory=Retry)
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    cache: CacheRule | None = None
    hedge: Hedge | None = None
    rescue: Literal["auto", "off"] = "auto"
    hold_back: Annotated[int, Meta(ge=0)] = (
        0  # characters kept back at the start of a stream, so that a rescue is clean
    )
    on_filter: Literal["refuse", "fallback"] = "refuse"
    prompt_cache: Literal["5m", "1h"] | None = None  # put Anthropic cache marks in
    content: bool = False  # store inputs and outputs
    priority: int = 0


class Limits(Body):
    """How fast a key may ask."""

    requests_per_minute: Annotated[int, Meta(ge=0)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=0)] | None = None
    concurrent: Annotated[int, Meta(ge=0)] | None = None


class Budget(Body):
    """How much may be spent per period. ``soft`` warns by header and lets the call pass."""

    usd: Amount
    per: Literal["day", "month", "total"] = "month"
    soft: bool = False
    warn_at: Annotated[float, Meta(ge=0, le=1)] = 0.8
    unpriced: Literal["refuse", "allow"] = "refuse"
    unreachable: Literal["refuse", "allow"] = "refuse"  # when control cannot be asked and the leased slice is used up


class NamedBudget(Body):
    """A budget over something that is neither a key nor a team: each user, each value of a tag, or one model."""

    name: Name
    usd: Amount
    by: Literal["user", "tag", "model", "all"]
    tag: str | None = None  # by: tag: the tag's name; one budget per value
    value: str | None = None  # only this user, tag value or model; left out: one budget for each
    per: Literal["day", "month", "total"] = "month"
    soft: bool = False
    warn_at: Annotated[float, Meta(ge=0, le=1)] = 0.8
    unpriced: Literal["refuse", "allow"] = "refuse"
    unreachable: Literal["refuse", "allow"] = "refuse"


class Team(Body):
    """Who shares limits and budgets."""

    name: Name
    budget: Budget | list[Budget] | None = None
    limits: Limits | None = None
    models: list[str] | None = None


class Key(Body):
    """A key that must exist. Its secret is stored only as a hash."""

    name: Name
    team: Name
    secret: str | None = None
    models: list[str] | None = None
    limits: Limits | None = None
    budget: Budget | list[Budget] | None = None
    expires: str | None = None  # ISO 8601
    admin: bool = False
    content: bool | None = None  # overrides the route's
    priority: int | None = None


class Bundle(Body):
    """A ``mainstay.yaml``: every section is optional."""

    providers: list[Provider] = []
    models: list[Model] = []
    routes: list[Route] = []
    teams: list[Team] = []
    keys: list[Key] = []
    budgets: list[NamedBudget] = []


def seconds(duration: str | int | float) -> float:
    """A ``Duration`` in seconds. Raises ``ValueError`` with a sentence for what is none."""
    if isinstance(duration, int | float):
        value = float(duration)
    else:
        text = duration.strip()
        number = text.rstrip("mshd")
        factor = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}.get(text[len(number) :])
        try:
            if factor is None:
                raise ValueError
            value = float(number) * factor
        except ValueError:
            raise ValueError(f"{duration!r} is not a duration; write one such as 500ms, 2s, 10m or 1h") from None
    if not 0 <= value < 1e9:
        raise ValueError(f"{duration!r} is not a duration; write one such as 500ms, 2s, 10m or 1h")
    return value
