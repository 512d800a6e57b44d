"""The house rules of DESIGN §2: captions, sizes, names, docstrings; and nothing of a particular machine in any file."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, name, tracked

LINES, FUNCTION = 400, 60
MODULES = sorted(path for path in tracked(".py") if path.is_relative_to(ROOT / "mainstay"))
EVERYTHING = sorted(tracked(".py"))

LONG_FILES: dict[str, str] = {
    "mainstay/wire/openai_chat_request.py": "one wire format: every field that callers of chat are known to send",
}
"""Files over the limit, each with its reason."""

LONG_FUNCTIONS: dict[str, str] = {
    "add": "routes of the control API are closures over what they act on; each of them is short",
    "upgrade": "a migration is a list of tables",
}
"""Functions over the limit by name, each with its reason."""

VAGUE = {"utils", "util", "helpers", "common", "manager", "base", "service", "misc"}
"""Names that say nothing."""


def long_test(path: Path) -> bool:
    """Whether the size limits do not bind: a test module is a list of cases."""
    return not path.is_relative_to(ROOT / "mainstay")


def functions(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from functions(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_a_module_begins_with_its_caption(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not text and path.name == "__init__.py" and long_test(path):
        return
    caption = ast.get_docstring(ast.parse(text))
    assert caption, "say in a docstring what the file is"
    assert text.startswith(('"""', "#!")), "the caption is the first line"
    assert caption.split("\n\n")[0].rstrip().endswith((".", ":", "?")), "the caption is a sentence"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_is_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    excused = str(path.relative_to(ROOT)) in LONG_FILES
    assert (count > LINES) == excused, f"{count} lines; split it, or list it here with its reason (or no longer)"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_functions_are_short_and_public_ones_are_described(path: Path) -> None:
    long: list[str] = []
    silent: list[str] = []
    for qualified, node in functions(ast.parse(path.read_text(encoding="utf-8"))):
        parts = qualified.split(".")
        if not isinstance(node, ast.ClassDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION and node.name not in LONG_FUNCTIONS:
                long.append(f"{qualified} ({length})")
        if all(not part.startswith("_") for part in parts) and ast.get_docstring(node) is None:
            stub = not isinstance(node, ast.ClassDef) and len(node.body) == 1 and _is_ellipsis(node.body[0])
            if not (
                stub or (len(parts) > 1 and (node.name.startswith("on_") or node.name in _described() | _CALLBACKS))
            ):
                silent.append(qualified)
    assert not long
    assert not silent


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis


_CALLBACKS = frozenset(name for base in (asyncio.Protocol, asyncio.DatagramProtocol) for name in dir(base))
"""Methods that the event loop calls by their name; parsers call theirs ``on_…``."""


def _attributes(node: ast.ClassDef) -> set[str]:
    """Attributes of a class with a sentence below them."""
    pairs = zip(node.body, node.body[1:], strict=False)
    return {
        one.target.id
        for one, after in pairs
        if isinstance(one, ast.AnnAssign)
        and isinstance(one.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


@cache
def _described() -> frozenset[str]:
    """Methods that a port or a base class describes: what fulfils them need not say it again."""
    found: set[str] = set()
    for path in MODULES:
        for qualified, node in functions(ast.parse(path.read_text(encoding="utf-8"))):
            if "." in qualified and ast.get_docstring(node) is not None:
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= _attributes(node)
    return frozenset(found)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_names_say_something(path: Path) -> None:
    assert path.stem not in VAGUE
    assert len(path.relative_to(ROOT).parts) <= 3 or path.parts[-2] == "revisions", "a room is one folder deep"
    if path.name == "__init__.py":
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, "an __init__.py holds a docstring only"


# The hosts of registries are put together here, so that this file names none either.
_REGISTRIES = "|".join(("python" + r"hosted\.", r"\bpy" + r"pi\.\w+/", r"registry\." + "npm" + "js"))
_PLACES = re.compile(
    r"(?<![\w.])/(?:root|home/\w+|Users/\w+|work)/|/opt/py|index-url|--trusted-host|mirrors?\.\w+\.\w+|" + _REGISTRIES
)


@pytest.mark.parametrize("path", [p for p in tracked() if "test_house_rules" not in p.name], ids=name)
def test_a_file_says_nothing_of_this_machine(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    found = [f"{text.count(chr(10), 0, m.start()) + 1}: {m[0]}" for m in _PLACES.finditer(text)]
    assert not found
