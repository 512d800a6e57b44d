"""Every link in the documents leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import KNOWN, ROOT, examples, name, pages, prose

_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        at, number = slug, 0
        while at in found:
            number += 1
            at = f"{slug}-{number}"
        found.add(at)
    return found


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_and_anchors_resolve(page: Path) -> None:
    broken: list[str] = []
    for link in _LINK.findall(prose(page)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", pages(), ids=name)
def test_a_page_begins_with_its_title(page: Path) -> None:
    assert page.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_example_says_its_language(page: Path) -> None:
    odd = [example.where for example in examples(page) if example.language not in KNOWN]
    assert not odd


def test_every_guide_is_on_the_map() -> None:
    linked = {
        (ROOT / "docs" / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(ROOT / "docs" / "README.md"))
    }
    missing = [name(page) for page in pages() if page.parent.name in ("guide", "reference") and page not in linked]
    assert not missing
