"""The Snapshot: all that is in force at one instant as one JSON document with a digest. Gateways read this, no more.

Gateway-side: this file needs msgspec and nothing heavier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from mainstay.core.artifact import Artifact
from mainstay.core.errors import Invalid
from mainstay.core.money import Price
from mainstay.registry import kinds

VERSION = 1
"""The version of the document's form. A gateway refuses one that it does not know and goes on with what it has."""

LABEL = "live"
"""The label of the channels that a Snapshot resolves."""

_BLANK = "0" * 32


class Looked(NamedTuple):
    """What a price book knows of a model: its price (None: unknown), its context window, and why a price is unknown."""

    price: Price | None = None
    context_window: int | None = None
    note: str = ""


class ResolvedProvider(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A provider in force. Its secrets, headers and parameters are sealed; ``unsealed`` opens them."""

    digest: str
    body: kinds.Provider


class ResolvedModel(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A model in force: whose it is, what the provider calls it, what it costs.

    ``price`` is in nano-dollars per million tokens, with source and date; None is unknown, and ``note`` may say why.
    """

    digest: str
    body: kinds.Model
    provider: str
    upstream_model: str
    price: Price | None = None
    context_window: int | None = None
    note: str = ""


class ResolvedRoute(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A route in force; ``body.to`` is the tree as ``core.route.parse`` reads it."""

    digest: str
    body: kinds.Route


class ResolvedTeam(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A team and what all its keys together may do."""

    name: str
    models: list[str] | None = None
    limits: kinds.Limits | None = None
    budgets: list[kinds.Budget] = []


class ResolvedKey(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A key by the hash of its secret. One that is being rotated stands here twice, with different ids and hashes.

    ``expires`` is in seconds since the epoch. Revoked keys may be left out or marked: neither opens anything.
    """

    id: str
    name: str
    team: str
    hash: str
    models: list[str] | None = None
    limits: kinds.Limits | None = None
    budgets: list[kinds.Budget] = []
    expires: float | None = None
    admin: bool = False
    revoked: bool = False
    content: bool | None = None
    priority: int | None = None


class ResolvedBudget(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A budget by user, tag, model or over everything."""

    digest: str
    body: kinds.NamedBudget


class Resolved(msgspec.Struct, kw_only=True):
    """The Snapshot. ``pepper`` is what key hashes are keyed with, sealed or not as ``access`` hands it in."""

    digest: str = _BLANK
    version: int = VERSION
    providers: list[ResolvedProvider] = []
    models: list[ResolvedModel] = []
    routes: list[ResolvedRoute] = []
    teams: list[ResolvedTeam] = []
    keys: list[ResolvedKey] = []
    budgets: list[ResolvedBudget] = []
    pepper: str = ""


def resolve(
    artifacts: Iterable[Artifact],
    look: Callable[[kinds.Provider, kinds.Model], Looked],
    teams: Iterable[ResolvedTeam],
    keys: Iterable[ResolvedKey],
    pepper: str,
) -> Resolved:
    """The Snapshot of ``artifacts`` (those in force), teams and keys; ``look`` finds a model's price.

    Equal behaviour has an equal digest, whatever the order in which it is handed in.
    """
    resolved = Resolved(
        teams=sorted(teams, key=lambda team: team.name),
        keys=sorted(keys, key=lambda key: (key.team, key.name, key.id)),
        pepper=pepper,
    )
    found = sorted(artifacts, key=lambda artifact: (artifact.kind, artifact.name))
    for artifact in found:
        if artifact.kind == "provider":
            body = msgspec.convert(artifact.body, kinds.Provider)
            resolved.providers.append(ResolvedProvider(digest=artifact.digest, body=body))
        elif artifact.kind == "route":
            route = msgspec.convert(artifact.body, kinds.Route)
            resolved.routes.append(ResolvedRoute(digest=artifact.digest, body=route))
        elif artifact.kind == "budget":
            budget = msgspec.convert(artifact.body, kinds.NamedBudget)
            resolved.budgets.append(ResolvedBudget(digest=artifact.digest, body=budget))
    providers = {provider.body.name: provider.body for provider in resolved.providers}
    for artifact in found:
        if artifact.kind == "model":
            resolved.models.append(_model(artifact, providers, look))
    resolved.digest = _digest(_encoder.encode(resolved))
    return resolved


def encode(resolved: Resolved) -> bytes:
    """The document; its digest is that of its own bytes."""
    resolved.digest = _BLANK
    blank = _encoder.encode(resolved)
    resolved.digest = _digest(blank)
    return blank.replace(_BLANK.encode(), resolved.digest.encode(), 1)


def decode(document: bytes) -> Resolved:
    """The Snapshot in ``document``. Raises ``Invalid`` for one that is torn, altered or of another version."""
    start = document[:64].find(b'"digest":"') + len('"digest":"')
    said = document[start : start + len(_BLANK)]
    blank = document[:start] + _BLANK.encode() + document[start + len(_BLANK) :]
    if _digest(blank).encode() != said:
        raise Invalid("the snapshot is damaged: its digest is not that of its content")
    try:
        version = msgspec.json.decode(document, type=_Version).version
        if version != VERSION:
            raise Invalid(f"the snapshot has form {version}, this version of Mainstay reads form {VERSION}")
        return _decoder.decode(document)
    except msgspec.MsgspecError as error:
        raise Invalid(f"the snapshot cannot be read: {error}") from None


def sealed(provider: kinds.Provider, seal: Callable[[str], str]) -> kinds.Provider:
    """``provider`` with everything that may be secret in it made unreadable by ``seal``."""
    return _with_secrets(provider, seal)


def unsealed(provider: kinds.Provider, unseal: Callable[[str], str]) -> kinds.Provider:
    """``provider`` with everything that ``sealed`` made unreadable opened by ``unseal``."""
    return _with_secrets(provider, unseal)


class _Version(msgspec.Struct):
    version: int


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Resolved)


def _digest(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()[: len(_BLANK)]


def _with_secrets(provider: kinds.Provider, change: Callable[[str], str]) -> kinds.Provider:
    def changed(value: str | None) -> str | None:
        return None if value is None else change(value)

    return msgspec.structs.replace(
        provider,
        api_key=changed(provider.api_key),
        secret_key=changed(provider.secret_key),
        session_token=changed(provider.session_token),
        proxy=changed(provider.proxy),
        headers={name: change(value) for name, value in provider.headers.items()},
        query={name: change(value) for name, value in provider.query.items()},
    )


def _model(
    artifact: Artifact,
    providers: dict[str, kinds.Provider],
    look: Callable[[kinds.Provider, kinds.Model], Looked],
) -> ResolvedModel:
    body = msgspec.convert(artifact.body, kinds.Model)
    name, _, upstream_model = body.target.partition("/")
    provider = providers.get(name)
    looked = Looked() if provider is None else look(provider, body)
    return ResolvedModel(
        digest=artifact.digest,
        body=body,
        provider=name,
        upstream_model=upstream_model,
        price=looked.price,
        context_window=looked.context_window,
        note=looked.note,
    )
