"""Compares plain values with the types of ``kinds``: every difference, each as a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec
from msgspec import inspect as types

from mainstay.registry import kinds
from mainstay.registry.document import Document, Expanded, Path, scalar

SECRET = frozenset({"api_key", "secret", "secret_key", "session_token", "headers", "query", "proxy"})
"""Fields whose values are never shown."""

_MEANT = {
    "url": "base_url",
    "api_base": "base_url",
    "endpoint": "base_url",
    "key": "api_key",
    "token": "api_key",
    "type": "kind",
    "provider": "target",
    "model": "target",
    "max_tokens": "max_output",
    "context": "context_window",
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "concurrency": "concurrent",
    "timeout": "timeouts",
    "retries": "retry",
    "fallbacks": "to",
    "targets": "to",
    "limit": "usd",
    "period": "per",
}

Report = Callable[[Path, str], None]


def spoken(path: Path) -> str:
    """``path`` as a person writes it: ``routes[0].retry.attempts``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def meant(word: str, there: Iterable[str]) -> str:
    """``; did you mean "…"?`` if a word of ``there`` is near ``word``, else nothing."""
    words = list(there)
    near = difflib.get_close_matches(word, words, 1, 0.6)
    if not near and _MEANT.get(word) in words:
        near = [_MEANT[word]]
    return f'; did you mean "{near[0]}"?' if near else ""


def checked(value: Any, kind: type[kinds.Body], document: Document, path: Path, report: Report) -> Any:
    """``value`` as a ``kind``, or None after each difference was reported."""
    found: list[int] = []

    def count(at: Path, sentence: str) -> None:
        found.append(1)
        report(at, sentence)

    plain = _Walk(document, count).walk(value, types.type_info(kind), path)
    if found:
        return None
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        if not document.find(path).lacks():  # what lacks a variable was reported where it was read
            report(path, str(error))
        return None


class _Walk:
    """Walks a value along its type and gives back what msgspec may convert."""

    def __init__(self, document: Document, report: Report) -> None:
        self._document = document
        self._report = report

    def walk(self, value: Any, kind: types.Type, path: Path) -> Any:
        if self._document.find(path).unset:
            return value  # said already, where it was read
        while isinstance(kind, types.Metadata):
            kind = kind.type
        if isinstance(kind, types.UnionType):
            return self._union(value, kind, path)
        if isinstance(kind, types.StructType):
            return self._struct(value, kind, path)
        if isinstance(kind, types.ListType):
            if not isinstance(value, list):
                return self._wrong("a list", value, path)
            items = cast(list[Any], value)
            return [self.walk(item, kind.item_type, (*path, i)) for i, item in enumerate(items)]
        if isinstance(kind, types.DictType):
            if not isinstance(value, dict):
                return self._wrong("a mapping", value, path)
            entries = cast(dict[str, Any], value)
            return {key: self.walk(item, kind.value_type, (*path, key)) for key, item in entries.items()}
        if isinstance(kind, types.AnyType):
            return _plain(value)
        return self._leaf(value, kind, path)

    def _union(self, value: Any, kind: types.UnionType, path: Path) -> Any:
        options = [_bare(option) for option in kind.types]
        if value is None and any(isinstance(option, types.NoneType) for option in options):
            return None
        options = [option for option in options if not isinstance(option, types.NoneType)]
        if len(options) == 1:
            return self.walk(value, options[0], path)
        wanted: type[Any] | None = (
            types.StructType if isinstance(value, dict) else types.ListType if isinstance(value, list) else None
        )
        for option in options:
            if wanted is not None and isinstance(option, wanted):
                return self.walk(value, option, path)
        if {type(option) for option in options} == {types.StrType, types.IntType, types.FloatType}:
            return self._duration(value, path)
        return self._wrong(" or ".join(_expected(option) for option in options), value, path)

    def _duration(self, value: Any, path: Path) -> Any:
        if isinstance(value, Expanded):
            value = str(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return self._wrong("a duration such as 500ms, 2s, 10m or 1h", value, path)
        try:
            kinds.seconds(value)
        except ValueError as error:
            self._report(path, f"{spoken(path)}: {error}")
        return value

    def _struct(self, value: Any, kind: types.StructType, path: Path) -> Any:
        fields = {field.name: field for field in kind.fields}
        if not isinstance(value, dict):
            return self._wrong(f"a mapping with {', '.join(list(fields)[:4])}{' …' * (len(fields) > 4)}", value, path)
        given = cast(dict[str, Any], value)
        plain: dict[str, Any] = {}
        for key, item in given.items():
            if key not in fields:
                where = f" in {spoken(path)}" if path else ""
                hint = meant(key, fields) or f"; there are {', '.join(fields)}"
                self._report((*path, key), f'unknown key "{key}"{where}{hint}')
                continue
            plain[key] = self.walk(item, fields[key].type, (*path, key))
        for field in kind.fields:
            if field.required and field.name not in given:
                self._report(path, f'{spoken(path)}: "{field.name}" is missing')
        return plain

    def _leaf(self, value: Any, kind: types.Type, path: Path) -> Any:
        if isinstance(value, Expanded):
            # what a variable holds is text; where a number or true or false is wanted, it is read as one
            value = str(value) if isinstance(kind, types.StrType | types.LiteralType) else scalar(value)
        try:
            if isinstance(kind, types.StrType):
                rule = msgspec.Meta(pattern=kind.pattern) if kind.pattern else None
                msgspec.convert(value, _annotated(str, rule))
            elif isinstance(kind, types.IntType):
                msgspec.convert(value, _annotated(int, _bounds(kind)))
            elif isinstance(kind, types.FloatType):
                msgspec.convert(value, _annotated(float, _bounds(kind)))
            elif isinstance(kind, types.BoolType):
                msgspec.convert(value, bool)
            elif isinstance(kind, types.LiteralType) and (isinstance(value, bool) or value not in kind.values):
                raise msgspec.ValidationError
        except msgspec.ValidationError:
            hint = ""
            if isinstance(kind, types.LiteralType) and isinstance(value, str):
                hint = meant(value, map(str, kind.values))
            elif isinstance(kind, types.StrType) and isinstance(value, int | float):
                hint = "; put it in quotes"
            return self._wrong(_expected(kind), value, path, hint)
        return value

    def _wrong(self, expected: str, value: Any, path: Path, hint: str = "") -> Any:
        hidden = not self._document.find(path).literal or any(step in SECRET for step in path)
        self._report(path, f"{spoken(path) or 'the file'}: expected {expected}, found {_found(value, hidden)}{hint}")
        return value


def _bare(kind: types.Type) -> types.Type:
    while isinstance(kind, types.Metadata):
        kind = kind.type
    return kind


def _plain(value: Any) -> Any:
    if isinstance(value, Expanded):
        return scalar(value) if value.plain else str(value)
    if isinstance(value, list):
        return [_plain(item) for item in cast(list[Any], value)]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast(Mapping[str, Any], value).items()}
    return value


def _annotated(kind: type, rule: msgspec.Meta | None) -> Any:
    from typing import Annotated

    return kind if rule is None else Annotated[kind, rule]


def _bounds(kind: types.IntType | types.FloatType) -> msgspec.Meta | None:
    given = {name: getattr(kind, name) for name in ("gt", "ge", "lt", "le") if getattr(kind, name) is not None}
    return msgspec.Meta(**given) if given else None


def _expected(kind: types.Type) -> str:
    if isinstance(kind, types.StrType):
        if kind.pattern is None:
            return "text"
        if "/.+" in kind.pattern:
            return "provider/model"
        return "a name (letters, digits and . _ : @ / -, at most 128, the first a letter or digit)"
    if isinstance(kind, types.IntType | types.FloatType):
        number = "a whole number" if isinstance(kind, types.IntType) else "a number"
        low = (
            f" from {_number(kind.ge)}"
            if kind.ge is not None
            else f" above {_number(kind.gt)}"
            if kind.gt is not None
            else ""
        )
        high = f" to {_number(kind.le)}" if kind.le is not None else ""
        return f"{number}{low}{high}"
    if isinstance(kind, types.BoolType):
        return "true or false"
    if isinstance(kind, types.LiteralType):
        return f"one of {', '.join(sorted(map(str, kind.values)))}"
    if isinstance(kind, types.StructType):
        return "a mapping"
    if isinstance(kind, types.ListType):
        return "a list"
    return "another sort of value"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _found(value: Any, hidden: bool) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if hidden:
        return "another value (not shown)"
    if isinstance(value, int | float):
        return f"the number {value}"
    text = str(value)
    return f'"{text if len(text) <= 60 else text[:57] + "…"}"'
