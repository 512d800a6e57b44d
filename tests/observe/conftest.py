"""Fixtures of what reads the ledger."""

from tests.ledger.conftest import control

__all__ = ["control"]
