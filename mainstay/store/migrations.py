"""Brings the control database to this version's tables, one process at a time."""

from __future__ import annotations

import importlib
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from mainstay.core.errors import BadConfig
from mainstay.store.database import Database, metadata

REVISIONS = Path(__file__).parent / "revisions"
"""The steps, a file each; every one is run once, in the order of their ``down_revision``."""

_TABLES = ("behaviour", "keys", "manifest", "responses", "shares", "verdicts")
_LOCK = 7_301_000  # the number of PostgreSQL's advisory lock that only a migrating process holds


async def upgrade(database: Database) -> None:
    """Run the steps that this database has not seen: all of them in one transaction, under a lock, or none.

    Raises ``BadConfig`` for a database that a newer version of Mainstay has migrated.
    """
    async with database.write() as connection:  # on SQLite this is the lock: BEGIN IMMEDIATE
        if not database.sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        await connection.run_sync(_upgrade)


def differences(connection: Connection) -> list[str]:
    """What the tables of the database and those of the code do not agree on; empty when the steps are complete."""
    declare()
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return [repr(difference) for difference in compare_metadata(context, metadata)]


def declare() -> None:
    """Import every module that has tables, so that ``metadata`` knows all of them."""
    for name in _TABLES:
        importlib.import_module(f"mainstay.store.{name}")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(REVISIONS).replace("%", "%%"))
    config.set_main_option("version_locations", str(REVISIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    scripts = ScriptDirectory.from_config(config)
    there = MigrationContext.configure(connection).get_current_revision()
    if there == scripts.get_current_head():
        return

    def steps(revision: object, _context: MigrationContext) -> object:
        return scripts._upgrade_revs("head", revision)  # type: ignore[arg-type] # pyright: ignore[reportPrivateUsage]

    with EnvironmentContext(config, scripts, fn=steps, destination_rev="head") as environment:
        environment.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
        try:
            with environment.begin_transaction():
                environment.run_migrations()
        except CommandError:
            raise BadConfig(
                [
                    f"the control database is at the revision {there}, which this version of Mainstay does not know: a newer "
                    "version has migrated it; run that one, or restore a backup"
                ]
            ) from None
