"""Verdicts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "verdicts",
        sa.Column("origin", sa.String(length=128), nullable=False),
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("team", sa.String(length=128), nullable=False),
        sa.Column("about", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("by", sa.String(length=140), nullable=False),
        sa.Column("number", sa.Double, nullable=True),
        sa.Column("word", sa.String(length=128), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("sender", sa.String(length=300), nullable=False),
        sa.Column("edit", sa.String(length=200), nullable=True),
        sa.Column("matched", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("origin", "id"),
    )
    op.create_index("verdicts_subject", "verdicts", ["subject", "about", "team", "name", "by", "at"], unique=False)
    op.create_index("verdicts_at", "verdicts", ["at", "origin", "id"], unique=False)
    op.create_index("verdicts_matched", "verdicts", ["matched"], unique=False)
