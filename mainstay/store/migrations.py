"""Brings the control database to this version's tables, under a lock."""

from __future__ import annotations

from mainstay.store.database import Database, metadata


async def upgrade(database: Database) -> None:
    """Create what is missing."""
    async with database.write() as connection:
        await connection.run_sync(metadata.create_all)
