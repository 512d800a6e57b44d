"""The command line: serve, check, apply, keys, calls, trace, budgets, cost, prices, cache, import, schema, doctor, demo."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from mainstay.cache_commands import cache
from mainstay.client import ApiError, Client, connected
from mainstay.core.errors import BadConfig, MainstayError
from mainstay.cost_commands import cost
from mainstay.settings import BadSetting, Settings, read
from mainstay.table import show
from mainstay.trace_commands import trace
from mainstay.verdict_commands import outcomes, verdicts

app = typer.Typer(
    name="mainstay",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The platform layer between products and models.",
)
keys = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke keys.")
prices = typer.Typer(no_args_is_help=True, help="What models cost, and where that comes from.")
imports = typer.Typer(no_args_is_help=True, help="Turn another gateway's configuration into a bundle.")
app.add_typer(keys, name="keys")
app.add_typer(prices, name="prices")
app.add_typer(imports, name="import")
app.add_typer(cache, name="cache")
app.add_typer(cost, name="cost")
app.command()(trace)
app.add_typer(verdicts, name="verdicts")
app.command()(outcomes)

Home = Annotated[Path | None, typer.Option("--home", help="Where everything is kept; made if absent.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, a line for each thing.")]
Why = Annotated[str, typer.Option("--why", help="Recorded with the change.")]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


def main() -> int:
    """Run the command line; the exit status."""
    try:
        status = app(standalone_mode=False)  # what a command exits with is returned, not raised
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BadConfig as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    except ApiError as error:
        print("\n".join(error.problems) if error.problems else f"mainstay: {error.message}", file=sys.stderr)
        return 1
    except (MainstayError, BadSetting) as error:
        print(f"mainstay: {error}", file=sys.stderr)
        return 1
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"mainstay: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except Exception as error:
        shown: Callable[[], None] | None = getattr(error, "show", None)
        if shown is None:
            raise
        shown()  # a usage error: typer says what is wrong and how to find out more
        return getattr(error, "exit_code", 2)


def _settings(home: Path | None, **more: Any) -> Settings:
    return read(os.environ, home=home, **more)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mainstay {version('mainstay')}")
        raise typer.Exit


@app.callback()
def entry(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The platform layer between products and models."""


@app.command()
def serve(
    home: Home = None,
    config: Annotated[Path | None, typer.Option(help="The bundle that must be in force; watched for changes.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 8080 by default, 0 for any free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway processes that share the port; 1 by default.")] = None,
) -> None:
    """Start the gateways and the control process, and keep them running."""
    from mainstay.serve import Supervisor

    settings = _settings(home, config=config, host=host, port=port, workers=workers)
    raise typer.Exit(Supervisor(settings).run())


@app.command()
def demo(
    home: Annotated[Path, typer.Option("--home", help="Where the demo is kept.")] = Path(".home"),
    port: Annotated[int, typer.Option(help="The port.")] = 8080,
) -> None:
    """Serve a demo on the built-in simulator, with a key and a line to paste."""
    from mainstay.demo import run

    raise typer.Exit(run(_settings(home, port=port)))


def _bundle(file: Path, dry_run: bool, why: str) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadConfig([f"{file}:1: cannot be read: {error.strerror}; check the path"]) from None
    except UnicodeDecodeError:
        raise BadConfig([f"{file}:1: is not UTF-8 text"]) from None
    named = set(_VARIABLE.findall(text))
    return {
        "text": text,
        "filename": str(file),
        "source": str(file.resolve()),
        "environment": {name: os.environ[name] for name in named if name in os.environ},
        "dry_run": dry_run,
        "why": why,
    }


@app.command()
def apply(file: Path, home: Home = None, why: Why = "", as_json: Json = False) -> None:
    """Validate a bundle and put it in force: all of it, or nothing."""
    with connected(_settings(home)) as client:
        applied = client.request("POST", "/api/v1/bundles", _bundle(file, False, why))
    _applied(applied, as_json)


@app.command()
def check(file: Path, home: Home = None, as_json: Json = False) -> None:
    """The same as apply, without applying."""
    with connected(_settings(home)) as client:
        applied = client.request("POST", "/api/v1/bundles", _bundle(file, True, ""))
    _applied(applied, as_json)


def _applied(applied: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(applied))
        return
    for warning in applied["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(applied["printed"]))
    for made in applied["secrets"]:
        print(f"the secret of key {made['key']}, told this once: {made['secret']}")


@keys.command("create")
def keys_create(
    team: Annotated[str, typer.Option(help="The team; made if there is none of that name.")],
    name: Annotated[str, typer.Option(help="The key's name within the team.")],
    model: Annotated[list[str] | None, typer.Option(help="A model or route it may use; none: all.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option()] = None,
    tokens_per_minute: Annotated[int | None, typer.Option()] = None,
    concurrent: Annotated[int | None, typer.Option()] = None,
    budget_usd: Annotated[float | None, typer.Option(help="US dollars per --budget-per.")] = None,
    budget_per: Annotated[str, typer.Option(help="day, month or total")] = "month",
    expires: Annotated[str | None, typer.Option(help="ISO 8601, such as 2027-01-31.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may use the control API.")] = False,
    home: Home = None,
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Make a key, and print its secret once."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
    }
    body: dict[str, Any] = {"team": team, "name": name, "admin": admin, "create_team": True, "why": why}
    body["models"] = model or None
    body["expires"] = expires
    body["limits"] = limits if any(value is not None for value in limits.values()) else None
    body["budget"] = None if budget_usd is None else {"usd": budget_usd, "per": budget_per}
    with connected(_settings(home)) as client:
        made = client.request("POST", "/api/v1/keys", body)
    _secret(made, as_json)


@keys.command("rotate")
def keys_rotate(
    team: Annotated[str, typer.Option()],
    name: Annotated[str, typer.Option()],
    overlap: Annotated[str, typer.Option(help="How long the old secret stays valid, such as 24h.")] = "0s",
    home: Home = None,
    why: Why = "",
    as_json: Json = False,
) -> None:
    """Give a key a new secret, and print it once."""
    from mainstay.registry.kinds import seconds

    try:
        body = {"overlap": seconds(overlap), "why": why}
    except ValueError as error:
        raise BadSetting(f"--overlap: {error}") from None
    with connected(_settings(home)) as client:
        made = client.request("POST", f"/api/v1/keys/{_part(team)}/{_part(name)}/rotate", body)
    _secret(made, as_json)


@keys.command("revoke")
def keys_revoke(
    team: Annotated[str, typer.Option()], name: Annotated[str, typer.Option()], home: Home = None, why: Why = ""
) -> None:
    """End a key now."""
    with connected(_settings(home)) as client:
        done = client.request("DELETE", f"/api/v1/keys/{_part(team)}/{_part(name)}", why=why or None)
    _warn(done)
    print(f"revoked {team}/{name}")


@keys.command("list")
def keys_list(team: Annotated[str | None, typer.Option()] = None, home: Home = None, as_json: Json = False) -> None:
    """All keys in force; their secrets are known nowhere."""
    with connected(_settings(home)) as client:
        found = client.request("GET", "/api/v1/keys", team=team)["data"]
    columns = ("team", "name", "last4", "admin", "models", "expires", "created")
    show(found, columns, as_json)


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _secret(made: dict[str, Any], as_json: bool) -> None:
    _warn(made)
    print(json.dumps(made) if as_json else made["secret"])


def _warn(answer: dict[str, Any]) -> None:
    for warning in answer.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)


@app.command()
def calls(
    filter: Annotated[list[str] | None, typer.Argument(help="Such as 'status>=500 and model=large'.")] = None,
    since: Annotated[str | None, typer.Option(help="A time, or an age such as 5m.")] = None,
    until: Annotated[str | None, typer.Option(help="A time, or an age.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.")] = 0,
    low: Annotated[bool, typer.Option("--low", help="Those that a verdict says did not satisfy.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Read the ledger, oldest first."""
    if not limit and not as_json:
        limit = 50
    with connected(_settings(home)) as client:
        found = _all_calls(client, " and ".join(filter or []), since, until, limit, "low" if low else None)
    found.reverse()
    if as_json:
        for one in found:
            print(json.dumps(one, ensure_ascii=False))
        return
    for one in found:
        usage = one.get("usage")
        one["tokens"] = None if usage is None else usage["input"] + usage["output"]
        one["attempts"] = len(one["attempts"])
    columns = ("at", "status", "outcome", "route", "model", "provider", "attempts", "tokens", "cost_usd")
    show(found, (*columns, "duration_ms", "id"), False)


def _all_calls(
    client: Client, filter: str, since: str | None, until: str | None, limit: int, flag: str | None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = min(1000, limit - len(found)) if limit else 1000
        query = {"filter": filter or None, "since": since, "until": until, "cursor": cursor, "flag": flag}
        answer = client.request("GET", "/api/v1/calls", limit=page, **query)
        found += answer["data"]
        cursor = answer["cursor"]
        if cursor is None or (limit and len(found) >= limit):
            return found


@app.command()
def budgets(home: Home = None, as_json: Json = False) -> None:
    """What of each budget is spent, held and left."""
    with connected(_settings(home)) as client:
        found = client.request("GET", "/api/v1/budgets", exact="true")["data"]
    show(found, ("what", "scope", "window", "spent_usd", "held_usd", "left_usd", "limit_usd"), as_json)


@prices.command("list")
def prices_list(home: Home = None, as_json: Json = False) -> None:
    """Every model's price in US dollars per million tokens, with its source and date."""
    with connected(_settings(home)) as client:
        found = client.request("GET", "/api/v1/models")["data"]
    if not as_json:
        for one in found:
            price: dict[str, str] = one["price"] or {}
            one["price"] = ", ".join(f"{name} {usd}" for name, usd in price.items()) or one["note"]
    show(found, ("name", "target", "price", "price_source", "price_as_of"), as_json)


@prices.command("refresh")
def prices_refresh(
    url: Annotated[str | None, typer.Option(help="Another address than the authors' own.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file that was downloaded elsewhere.")] = None,
    home: Home = None,
) -> None:
    """Fetch the price book anew and put it in force."""
    body = {"url": url, "file": None if file is None else str(file.resolve())}
    with connected(_settings(home)) as client:
        done = client.request("POST", "/api/v1/prices", body)
    print(f"{'new' if done['changed'] else 'the same'} price book: {done['source']}, as of {done['as_of']}")


@imports.command("litellm")
def import_litellm(file: Path, output: Annotated[Path | None, typer.Option("--output", "-o")] = None) -> None:
    """Turn a LiteLLM proxy's config.yaml into a bundle; what could not be carried over is listed."""
    from mainstay.registry.litellm import import_litellm as convert

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadConfig([f"{file}:1: cannot be read: {error.strerror}; check the path"]) from None
    except UnicodeDecodeError:
        raise BadConfig([f"{file}:1: is not UTF-8 text"]) from None
    converted = convert(text)
    if output is None:
        print(converted.bundle_yaml, end="")
    else:
        output.write_text(converted.bundle_yaml, encoding="utf-8")
        print(f"wrote {output}")
    for note in converted.notes:
        print(f"not carried over: {note}", file=sys.stderr)


@app.command()
def schema(
    reference: Annotated[bool, typer.Option("--reference", help="The reference for people instead.")] = False,
) -> None:
    """The JSON Schema of a bundle, for editors."""
    from mainstay.registry import schema as made

    print(made.reference() if reference else json.dumps(made.json_schema(), indent=2))


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Say what is missing or unhealthy, and the next step."""
    from mainstay.doctor import examine, unreachable

    settings = _settings(home)
    health: dict[str, Any] = {}
    try:
        with connected(settings, patience=3.0) as client:
            health = client.request("GET", "/api/v1/health")
    except (MainstayError, BadSetting) as error:
        findings = unreachable(settings, str(error))
    else:
        findings = examine(settings, health)
    if as_json:
        print(json.dumps({"health": health, "findings": [finding.__dict__ for finding in findings]}))
    else:
        for finding in findings:
            print(
                f"{'ok   ' if finding.good else 'WRONG'} {finding.what}"
                + (f"\n      next: {finding.next}" if finding.next else "")
            )
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


if __name__ == "__main__":
    sys.exit(main())
