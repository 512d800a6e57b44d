"""The command line's part for the exact cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mainstay.core.errors import Unavailable
from mainstay.settings import Settings, read

cache = typer.Typer(no_args_is_help=True, help="The exact cache's entries.")


@cache.callback()
def entry() -> None:
    """The exact cache's entries."""


@cache.command()
def clear(
    home: Annotated[Path | None, typer.Option("--home", help="Where everything is kept.")] = None,
) -> None:
    """Remove all entries of the exact cache; gateways forget what they have in memory within a second."""
    from mainstay.gateway import cache_files

    settings = read(os.environ, home=home)
    count = cache_files.clear(settings.cache)
    if settings.cache_url:
        count += _clear_server(settings)
    print(f"removed {count} {'entry' if count == 1 else 'entries'}")


def _clear_server(settings: Settings) -> int:
    import asyncio

    from valkey.exceptions import ValkeyError

    from mainstay.access.secrets import Vault, master_key
    from mainstay.gateway import cache_valkey

    secret = Vault(master_key(settings.home, os.environ)).cache_key()
    try:
        return asyncio.run(cache_valkey.clear(settings.cache_url, secret))
    except (ValkeyError, OSError, ValueError) as error:
        raise Unavailable(
            f"the cache's server cannot be used ({type(error).__name__}); check that it runs, and that "
            "MAINSTAY_CACHE_URL is right"
        ) from None
