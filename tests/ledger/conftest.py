"""Fixtures of the ledger's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.ledger.cases import Control


@pytest.fixture
async def control(tmp_path: Path) -> AsyncGenerator[Control]:
    started = await Control(tmp_path, flush_seconds=1e9).start()
    yield started
    await started.close()
