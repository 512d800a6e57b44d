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


def _about(sentence: str) -> Meta:
    return Meta(description=sentence)


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What all bodies share: unknown fields are refused."""


class Concurrency(Body):
    """How many calls may be in flight per gateway process, and how many more may wait."""

    limit: Annotated[int, Meta(ge=1, description="Calls in flight per gateway process")]
    queue: Annotated[int, Meta(ge=0, description="Calls that may wait; the next one is answered 503")] = 0
    wait: Annotated[Duration, _about("How long a call may wait before it is answered 503")] = "10s"


class Provider(Body):
    """An account with someone who answers: an address, a wire format, a key."""

    name: Annotated[Name, _about("What targets call it: the part before the first slash")]
    wire: Annotated[WireName | None, _about("The wire format; left out: the kind's own")] = None
    kind: Annotated[
        str | None, _about("A row of the provider table, such as groq; left out: any address that speaks the wire")
    ] = None
    base_url: Annotated[str | None, _about("Where it is, as the provider's SDK takes it; left out: the kind's own")] = (
        None
    )
    api_key: Annotated[str | None, _about("The key shown to the provider; for AWS the access key id")] = None
    headers: Annotated[dict[str, str], _about("More headers on every request")] = {}
    query: Annotated[dict[str, str], _about("More query parameters on every request")] = {}
    region: Annotated[str | None, _about("The region, for Bedrock and Vertex")] = None
    project: Annotated[
        str | None,
        _about("Vertex: the project; Cloudflare: the account; Azure: the resource; Databricks: the workspace's host"),
    ] = None
    api_version: Annotated[str | None, _about("The api-version of Azure's dated API; left out: its v1 API")] = None
    secret_key: Annotated[str | None, _about("The AWS secret access key")] = None
    session_token: Annotated[str | None, _about("The AWS session token, for temporary credentials")] = None
    private: Annotated[
        bool, _about("The name may resolve to a private, link-local or loopback address; an address written as one may")
    ] = False
    concurrency: Annotated[Concurrency | None, _about("A limit on calls in flight to this provider")] = None
    ca_file: Annotated[str | None, _about("A file with the certificates to trust instead of the system's")] = None
    proxy: Annotated[str | None, _about("An HTTP proxy to go through, such as http://proxy.internal:3128")] = None
    sim: Annotated[Simulator | None, _about("How the built-in simulator behaves, with wire: sim")] = None


class Fault(Body):
    """One misbehaviour of the simulator, and how often it happens."""

    kind: Annotated[str, _about("Which fault")]
    rate: Annotated[float, Meta(ge=0, le=1, description="The share of calls that it happens to")] = 1.0
    after: Annotated[int, Meta(ge=0, description="Tokens before it happens, or calls where the kind counts those")] = 0
    times: Annotated[int | None, _about("How often it happens at most; left out: for ever")] = None
    retry_after: Annotated[float | None, _about("What the fault's Retry-After says, in seconds")] = None
    seconds: Annotated[float | None, _about("How long the fault lasts, in seconds")] = None


class Simulator(Body):
    """The built-in provider for trying out, tests, load and game days."""

    seed: Annotated[int, _about("The same seed and requests give the same replies")] = 0
    latency: Annotated[Duration, _about("The time to the first token")] = "50ms"
    jitter: Annotated[float, Meta(ge=0, le=1, description="How far latency varies, as a share of it")] = 0.0
    tokens_per_second: Annotated[float, Meta(gt=0, description="How fast tokens come")] = 100.0
    tokens: (
        Annotated[int, Meta(ge=1, description="How long a reply is; left out: it depends on the request")] | None
    ) = None
    reply: Annotated[str | None, _about("What it answers; left out: made-up text")] = None
    faults: Annotated[list[Fault], _about("What goes wrong")] = []


class PriceBody(Body):
    """US dollars per million tokens of each sort, and per request."""

    input: Annotated[Amount, _about("Per million input tokens")]
    output: Annotated[Amount, _about("Per million output tokens")] = 0
    cached_input: Annotated[Amount | None, _about("Per million tokens read from a cache; left out: as input")] = None
    cache_write: Annotated[Amount | None, _about("Per million tokens written to a cache; left out: as input")] = None
    reasoning: Annotated[Amount | None, _about("Per million reasoning tokens; left out: as output")] = None
    input_audio: Annotated[Amount | None, _about("Per million audio tokens in; left out: as input")] = None
    output_audio: Annotated[Amount | None, _about("Per million audio tokens out; left out: as output")] = None
    request: Annotated[Amount, _about("Per request")] = 0


class Breaker(Body):
    """When a target is left alone: so many failures in a row, or such a share of the recent calls; and for how long."""

    failures: Annotated[int, Meta(ge=1, description="Failures in a row that open it")] = 5
    rate: Annotated[float, Meta(gt=0, le=1, description="The share of failures that opens it")] = 0.5
    min_calls: Annotated[int, Meta(ge=1, description="Calls in the window before the share counts")] = 20
    window: Annotated[Duration, _about("How far back the share looks")] = "30s"
    open_for: Annotated[Duration, _about("How long the target is left alone before a probe")] = "10s"


class Model(Body):
    """One model of one provider, under the name that routes and callers use."""

    name: Annotated[Name, _about("What routes and callers call it")]
    target: Annotated[str, Meta(pattern=r"^[^/]+/.+$", description="provider/model, cut at the first slash")]
    price: Annotated[PriceBody | None, _about("US dollars per million tokens; left out: the price book")] = None
    context_window: Annotated[int, Meta(ge=1, description="Tokens that fit in; left out: the price book")] | None = None
    max_output: Annotated[int, Meta(ge=1, description="Tokens that it can answer with at most")] | None = None
    tools: Annotated[bool | None, _about("Whether it can call tools; left out: what is known of the model")] = None
    images: Annotated[bool | None, _about("Whether it takes images")] = None
    audio: Annotated[bool | None, _about("Whether it takes audio")] = None
    documents: Annotated[bool | None, _about("Whether it takes documents")] = None
    schema: Annotated[bool | None, _about("Whether it answers in a given JSON Schema")] = None
    reasoning: Annotated[bool | None, _about("Whether it reasons before it answers")] = None
    sampling: Annotated[bool | None, _about("Whether it accepts temperature and top_p")] = None
    prefill: Annotated[bool | None, _about("Whether it continues a last message of role assistant")] = None
    max_call_usd: Annotated[
        Amount | None, _about("The most that one call can cost, for what the size of a request cannot bound")
    ] = None
    concurrency: Annotated[Concurrency | None, _about("A limit on calls in flight to this model")] = None
    breaker: Annotated[Breaker, _about("When this target is left alone")] = msgspec.field(default_factory=Breaker)


class Retry(Body):
    """Tries per target, and the pause between them: full jitter under base · 2ⁿ."""

    attempts: Annotated[int, Meta(ge=1, le=10, description="Tries per target; 2 is one retry")] = 2
    base: Annotated[Duration, _about("The first pause is a random one up to this")] = "250ms"
    cap: Annotated[Duration, _about("No pause is longer, unless the provider asks for it")] = "8s"
    budget: Annotated[float, Meta(ge=0, le=1, description="Retries as a share of calls, beyond a small reserve")] = 0.2


class Timeouts(Body):
    """How long each phase may take."""

    connect: Annotated[Duration, _about("Until the connection stands")] = "5s"
    first_token: Annotated[Duration, _about("Until the first content of a stream")] = "60s"
    idle: Annotated[Duration, _about("Between two events of a stream")] = "60s"
    plain: Annotated[Duration, _about("Until the first byte of an unstreamed reply")] = "300s"
    total: Annotated[Duration, _about("The whole call, retries included")] = "600s"


class CacheRule(Body):
    """Whether equal requests may be answered from the exact cache, and for how long."""

    ttl: Annotated[Duration, _about("How long an answer may be given again")]
    scope: Annotated[Literal["key", "team"], _about("Who shares answers")] = "team"
    max_bytes: Annotated[int, Meta(ge=1, description="Longer answers are not kept")] = 1_048_576


class Hedge(Body):
    """Ask a second target when the first is slow; whoever is first wins, the other is cancelled."""

    after: Annotated[Duration, _about("How long the first has before the second is asked")]
    max_usd: Annotated[Amount | None, _about("No second try for a call that could cost more")] = None
    max_share: Annotated[float, Meta(ge=0, le=1, description="Second tries as a share of calls")] = 0.1


class Route(Body):
    """A name that callers may ask for, and what happens when they do."""

    name: Annotated[Name, _about("What callers put in model; no model may have the same name")]
    to: Annotated[
        Any, _about("The tree of targets: a name, or fallback, weighted, cheapest, fastest, least_busy, when")
    ]
    retry: Annotated[Retry, _about("Tries per target")] = msgspec.field(default_factory=Retry)
    timeouts: Annotated[Timeouts, _about("How long each phase may take")] = msgspec.field(default_factory=Timeouts)
    cache: Annotated[CacheRule | None, _about("The exact cache; left out: none")] = None
    hedge: Annotated[Hedge | None, _about("A second target for slow calls; left out: none")] = None
    rescue: Annotated[
        Literal["auto", "off"], _about("Whether a stream that broke off is completed by another target")
    ] = "auto"
    hold_back: Annotated[
        int, Meta(ge=0, description="Characters kept back at the start of a stream, so that a rescue is clean")
    ] = 0
    on_filter: Annotated[
        Literal["refuse", "fallback"], _about("What happens when a provider's content filter refuses")
    ] = "refuse"
    prompt_cache: Annotated[Literal["5m", "1h"] | None, _about("Put Anthropic's cache marks in, for so long")] = None
    content: Annotated[bool, _about("Store inputs and outputs")] = False
    priority: Annotated[int, _about("Who waits less when there is a queue: the higher")] = 0


class Limits(Body):
    """How fast one may ask. Left out: no limit."""

    requests_per_minute: Annotated[int, Meta(ge=0, description="Calls in any 60 seconds")] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=0, description="Tokens, in and out, in any 60 seconds")] | None = None
    concurrent: Annotated[int, Meta(ge=0, description="Calls in flight")] | None = None


class Budget(Body):
    """How much may be spent per period."""

    usd: Annotated[Amount, _about("US dollars per period")]
    per: Annotated[Literal["day", "month", "total"], _about("The period, in UTC")] = "month"
    soft: Annotated[bool, _about("Warn by header and let the call pass")] = False
    warn_at: Annotated[float, Meta(ge=0, le=1, description="The share from which a header warns")] = 0.8
    unpriced: Annotated[Literal["refuse", "allow"], _about("Calls to a model without a price")] = "refuse"
    unreachable: Annotated[
        Literal["refuse", "allow"], _about("When control cannot be asked and the leased slice is used up")
    ] = "refuse"


class NamedBudget(Body):
    """A budget over something that is neither a key nor a team: each user, each value of a tag, or one model."""

    name: Annotated[Name, _about("What reports and refusals call it")]
    usd: Annotated[Amount, _about("US dollars per period")]
    by: Annotated[Literal["user", "tag", "model", "all"], _about("What it is counted by")]
    tag: Annotated[str | None, _about("With by: tag, the tag's name")] = None
    value: Annotated[str | None, _about("Only this user, tag value or model; left out: one budget for each")] = None
    per: Annotated[Literal["day", "month", "total"], _about("The period, in UTC")] = "month"
    soft: Annotated[bool, _about("Warn by header and let the call pass")] = False
    warn_at: Annotated[float, Meta(ge=0, le=1, description="The share from which a header warns")] = 0.8
    unpriced: Annotated[Literal["refuse", "allow"], _about("Calls to a model without a price")] = "refuse"
    unreachable: Annotated[
        Literal["refuse", "allow"], _about("When control cannot be asked and the leased slice is used up")
    ] = "refuse"


class Team(Body):
    """Who shares limits and budgets."""

    name: Annotated[Name, _about("What keys and reports call it")]
    budget: Annotated[Budget | list[Budget] | None, _about("What the team may spend; left out: no budget")] = None
    limits: Annotated[Limits | None, _about("How fast all its keys together may ask")] = None
    models: Annotated[list[str] | None, _about("The models and routes its keys may use; left out: all")] = None


class Key(Body):
    """A key that must exist. Its secret is stored only as a hash."""

    name: Annotated[Name, _about("What reports call it; unique within the team")]
    team: Annotated[Name, _about("The team it belongs to")]
    secret: Annotated[str | None, _about("What callers show; left out: made and printed once")] = None
    models: Annotated[list[str] | None, _about("The models and routes it may use; left out: all")] = None
    limits: Annotated[Limits | None, _about("How fast it may ask")] = None
    budget: Annotated[Budget | list[Budget] | None, _about("What it may spend; left out: no budget")] = None
    expires: Annotated[str | None, _about("When it ends: ISO 8601, such as 2027-01-31 or 2027-01-31T12:00:00Z")] = None
    admin: Annotated[bool, _about("It may use the control API")] = False
    content: Annotated[bool | None, _about("Store inputs and outputs; left out: as the route says")] = None
    priority: Annotated[int | None, _about("Who waits less when there is a queue; left out: as the route says")] = None


class VerdictType(Body):
    """A sort of opinion on calls. There are always thumbs, rating, edit, task_success, handoff and outcome."""

    name: Annotated[Name, _about("What verdicts, filters and reports call it")]
    type: Annotated[Literal["boolean", "number", "category"], _about("What its values are")]
    min: Annotated[float | None, _about("The least number, included; left out: none")] = None
    max: Annotated[float | None, _about("The greatest number, included; left out: none")] = None
    unit: Annotated[str, _about("What a number counts, such as EUR; shown beside it")] = ""
    categories: Annotated[list[str], _about("The categories there can be; left out: any")] = []
    low_below: Annotated[float | None, _about("A number under this puts a call on the list of low ones")] = None
    low_above: Annotated[float | None, _about("A number over this does")] = None
    low_when: Annotated[bool | None, _about("This boolean does")] = None
    low_of: Annotated[list[str], _about("These categories do")] = []


class Bundle(Body):
    """A ``mainstay.yaml``: every section is optional."""

    providers: Annotated[list[Provider], _about("Who answers")] = []
    models: Annotated[list[Model], _about("Which models of theirs, under which names")] = []
    routes: Annotated[list[Route], _about("What callers may ask for beside the models")] = []
    teams: Annotated[list[Team], _about("Who shares limits and budgets")] = []
    keys: Annotated[list[Key], _about("The keys that must exist")] = []
    budgets: Annotated[list[NamedBudget], _about("Budgets by user, tag, model or over everything")] = []
    verdicts: Annotated[list[VerdictType], _about("The sorts of opinion on calls, beside those there always are")] = []


def seconds(duration: str | int | float) -> float:
    """A ``Duration`` in seconds. Raises ``ValueError`` with a sentence for what is none."""
    problem = f"{duration!r} is not a duration; write one such as 500ms, 2s, 10m or 1h"
    if isinstance(duration, bool):
        raise ValueError(problem)
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
            raise ValueError(problem) from None
    if not 0 <= value < 1e9:
        raise ValueError(problem)
    return value
