"""The house that all these tests attack: with two gateway processes, and logging everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.provider import chat
from tests.running import Server
from tests.security.rig import House, Upstream, the_bundle


@pytest.fixture(scope="package")
def house() -> Iterator[House]:
    with (
        Upstream(chat(["tok1 ", "tok2"])) as upstream,
        Server(the_bundle(upstream.provider.url), workers=2, MAINSTAY_LOG="DEBUG") as server,
    ):
        made = House(server, upstream)
        yield made
        made.http.close()
