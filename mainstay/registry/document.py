"""Reads the text of a YAML file into plain values that know their lines, with every mistake in it; bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import yaml

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 48

Path = tuple[str | int, ...]
"""Where a value is: keys of mappings and indexes of lists, from the top."""


class Expanded(str):
    """Text in which an environment variable stood, so that it is never shown; ``plain`` if it was not in quotes."""

    __slots__ = ("plain",)
    plain: bool

    def __new__(cls, value: str, plain: bool) -> Expanded:
        made = super().__new__(cls, value)
        made.plain = plain
        return made


@dataclass(slots=True)
class Place:
    """The line of a value, of the keys in it, and the places of what it contains."""

    line: int
    keys: dict[str, int] = field(default_factory=dict[str, int])
    inside: dict[str | int, Place] = field(default_factory=dict[str | int, "Place"])
    unset: bool = False  # it names an environment variable that is not set
    literal: bool = True  # no environment variable stands in it

    def lacks(self) -> bool:
        """Whether a variable that is not set stands anywhere in it."""
        return self.unset or any(place.lacks() for place in self.inside.values())


@dataclass(slots=True)
class Document:
    """What was read: the value (None if nothing could be), its places, and ``(line, sentence)`` for each mistake."""

    value: Any
    place: Place
    problems: list[tuple[int, str]]

    def find(self, path: Path) -> Place:
        """The place of ``path``, or of the nearest thing around it that there is."""
        place = self.place
        for step in path:
            inner = place.inside.get(step)
            if inner is None:
                line = place.keys.get(step) if isinstance(step, str) else None
                return place if line is None else Place(line)
            place = inner
        return place

    def line(self, path: Path) -> int:
        """The line of the key at ``path``, or of the value where it is an item of a list."""
        if path and isinstance(path[-1], str):
            around = self.find(path[:-1])
            if path[-1] in around.keys:
                return around.keys[path[-1]]
        return self.find(path).line


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    # No implicit types: YAML 1.1 would turn "off" into false and a date into an object.
    yaml_implicit_resolvers: ClassVar[Any] = {}


_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_BARE = re.compile(r"""[:,\[]\s*\$\{""")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)
_STR = "tag:yaml.org,2002:str"
_KNOWN_TAGS = (_STR, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def read(content: str | bytes, env: Mapping[str, str]) -> Document:
    """Read ``content``, with ``${VARIABLE}`` replaced from ``env``. Never raises; mistakes are in the result."""
    if isinstance(content, bytes):
        if len(content) > MAX_BYTES:
            return _nothing(1, f"the file has {len(content)} bytes; the most is {MAX_BYTES}, so split it into several")
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            return _nothing(line, "the file is not UTF-8 here; save it as UTF-8")
    content = content.removeprefix("\ufeff")
    try:
        if len(content.encode()) > MAX_BYTES:
            return _nothing(1, f"the file has more than {MAX_BYTES} bytes; split it into several")
    except UnicodeEncodeError as error:
        return _nothing(content[: error.start].count("\n") + 1, "half of a surrogate pair; save the file as UTF-8")
    try:
        too_much = _measure(content)
        if too_much is not None:
            return _nothing(*too_much)
        node: yaml.Node | None = cast(Any, yaml).compose(content, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        return _nothing(*_syntax(error, content))
    except yaml.YAMLError as error:
        at = getattr(error, "position", None)
        line = content[:at].count("\n") + 1 if isinstance(at, int) else 1
        return _nothing(line, "a character that YAML does not allow; remove it or write it as an escape in quotes")
    if node is None:
        return Document(None, Place(1), [])
    builder = _Builder(env)
    value, place = builder.build(node, 0)
    return Document(value, place, builder.problems)


def scalar(text: str) -> Any:
    """The value of unquoted ``text`` by the core schema of YAML 1.2: null, true, false, numbers, else text."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.match(text) and len(text) < 40:
        return int(text)
    if _FLOAT.match(text) and math.isfinite(float(text)):
        return float(text)
    return text


def _nothing(line: int, sentence: str) -> Document:
    return Document(None, Place(line), [(line, sentence)])


def _syntax(error: yaml.MarkedYAMLError, content: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    problem = (error.problem or "not YAML").strip()
    if "found character that cannot start any token" in problem:
        problem += " (a tab, or a value that needs quotes)"
    context = f" {error.context.strip()}" if error.context else ""
    if "expected a single document" in f"{context} {problem}":
        return line, "a second document begins here; put each bundle in a file of its own"
    written = content.splitlines()[line - 1 : line]
    hint = '; within { } or [ ] put quotes around "${NAME}"' if written and _BARE.search(written[0]) else ""
    return line, f"not YAML{context}: {problem}{hint}"


def _measure(content: str) -> tuple[int, str] | None:
    """What is too much, found without building anything: a deep or huge document would exhaust the stack or memory."""
    depth = nodes = 0
    for event in cast(Any, yaml).parse(content, Loader=_Loader):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            nodes += 1
            if depth > MAX_DEPTH:
                return event.start_mark.line + 1, f"nested more than {MAX_DEPTH} levels deep; flatten it"
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            nodes += 1
        if nodes > MAX_NODES:
            return event.start_mark.line + 1, f"more than {MAX_NODES} values; split the file into several"
    return None


class _Builder:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._nodes = 0
        self._full = False
        self.problems: list[tuple[int, str]] = []

    def build(self, node: yaml.Node, depth: int) -> tuple[Any, Place]:
        line = node.start_mark.line + 1
        self._nodes += 1  # aliases count each time they are used: that is what a "billion laughs" lives on
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            if not self._full:
                self._full = True
                self.problems.append((line, "the aliases of this file multiply into too much, or into themselves"))
            return None, Place(line, unset=True)
        if node.tag not in _KNOWN_TAGS:
            self.problems.append((line, f"the tag {node.tag} has no meaning here; remove it (quotes make text)"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, line, depth)
        if isinstance(node, yaml.SequenceNode):
            place, items = Place(line), list[Any]()
            for i, child in enumerate(cast(Sequence[yaml.Node], node.value)):
                item, place.inside[i] = self.build(child, depth + 1)
                items.append(item)
            return items, place
        return self._scalar(cast(yaml.ScalarNode, node), line)

    def _mapping(self, node: yaml.MappingNode, line: int, depth: int) -> tuple[dict[str, Any], Place]:
        place, values = Place(line), dict[str, Any]()
        merged: list[yaml.Node] = []
        for key_node, value_node in cast(Sequence[tuple[yaml.Node, yaml.Node]], node.value):
            at = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append((at, "a key must be plain text, not a list or mapping"))
                continue
            key = cast(str, key_node.value)
            if key == "<<" and not key_node.style:
                merged.append(value_node)
                continue
            if key in values:
                first = place.keys[key]
                self.problems.append((at, f'the key "{key}" is given twice, first on line {first}; remove one'))
                continue
            values[key], place.inside[key] = self.build(value_node, depth + 1)
            place.keys[key] = at
        for source in merged:
            self._merge(source, values, place, depth)
        return values, place

    def _merge(self, source: yaml.Node, values: dict[str, Any], place: Place, depth: int) -> None:
        value, inner = self.build(source, depth + 1)
        parts = cast(list[Any], value) if isinstance(value, list) else [value]
        for i, part in enumerate(parts):
            origin = inner.inside[i] if isinstance(value, list) else inner
            if not isinstance(part, dict):
                if not inner.unset:
                    self.problems.append((source.start_mark.line + 1, "<< merges a mapping, or a list of mappings"))
                return
            for key, item in cast(dict[str, Any], part).items():
                if key not in values:
                    values[key] = item
                    place.inside[key] = origin.inside[key]
                    place.keys[key] = origin.keys[key]

    def _scalar(self, node: yaml.ScalarNode, line: int) -> tuple[Any, Place]:
        text, plain = cast(str, node.value), not node.style
        place = Place(line)
        if "${" not in text:
            return (scalar(text) if plain else text), place
        expanded = self._expand(text, line, place)
        return (expanded if place.literal else Expanded(expanded, plain)), place

    def _expand(self, text: str, line: int, place: Place) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            place.literal = False
            name = _NAME.match(match[1])
            if not match[2] or name is None:
                place.unset = True
                what = "is not closed" if not match[2] else "does not name an environment variable"
                self.problems.append((line, f"${{ {what}; write ${{NAME}} or ${{NAME:-default}}, or $${{ for itself"))
                return ""
            value = self._env.get(name[1])
            if name[2] is not None and not value:
                return name[2]
            if value is None:
                place.unset = True
                self.problems.append(
                    (
                        line,
                        f"the environment variable {name[1]} is not set; set it (export {name[1]}=…) "
                        f"or give a default: ${{{name[1]}:-…}}",
                    )
                )
                return ""
            return value

        return _VARIABLE.sub(replace, text)
