"""Every example in the documents works: bundles pass the check, shell and Python lines run against the product."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.demo import BUNDLE
from mainstay.registry.bundle import check
from tests.docs.pages import RUN, Example, examples, name, pages
from tests.docs.session import KEY, NOTHING, ROWS, Fakes, merged, run, script, variables, with_key
from tests.running import Server

PAGES = [page for page in pages() if any(example.language in RUN for example in examples(page))]
BUNDLES = [example for page in pages() for example in examples(page) if example.language == "yaml"]
DEMO = [Example(Path("demo"), 1, "yaml", BUNDLE)]


@pytest.fixture(scope="module")
def fakes() -> Iterator[Fakes]:
    with Fakes() as started:
        yield started


def of_page(example: Example) -> list[Example]:
    """The bundles of the example's page up to it."""
    blocks = [one for one in examples(example.page) if one.language == "yaml" and one.line <= example.line]
    return blocks


@pytest.mark.parametrize("example", BUNDLES, ids=lambda example: example.where)
def test_a_bundle_passes_the_check(example: Example) -> None:
    # One with providers stands for itself; another adds to those before it on its page, and to the demo's.
    text = example.text if "providers:" in example.text else json.dumps(merged([*DEMO, *of_page(example)]))
    checked = check(text, example.where, variables(text), NOTHING, ROWS)
    assert not checked.problems


@pytest.mark.parametrize("page", pages(), ids=name)
def test_json_is_json(page: Path) -> None:
    for example in examples(page):
        if example.language == "json":
            json.loads(example.text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, and the examples use it")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_lines_of_a_page_run(page: Path, fakes: Fakes, tmp_path: Path) -> None:
    blocks = examples(page)
    pages_own = [block for block in blocks if block.language == "yaml"]

    def bundle(count: int) -> str:
        return with_key(fakes.substituted(merged([*DEMO, *pages_own[:count]])))

    env = {**variables("".join(block.text for block in [*DEMO, *blocks])), "KEY": KEY}
    env["REPOSITORY"] = str(Path(__file__).parents[2])
    server = Server(bundle(0), home=tmp_path / ".mainstay", **env)
    server.config = tmp_path / "mainstay.yaml"
    server.write(bundle(0))
    with server:
        done = run(script(blocks, bundle, tmp_path, server.port), tmp_path, env)
        log = server.log.read_text()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log}"
    assert "Traceback" not in log
