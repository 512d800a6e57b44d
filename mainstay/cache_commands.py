"""The command line's part for the exact cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mainstay.settings import read

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

    count = cache_files.clear(read(os.environ, home=home).cache)
    print(f"removed {count} {'entry' if count == 1 else 'entries'}")
