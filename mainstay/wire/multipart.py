"""The plain fields of a multipart/form-data body, found in its bytes; files are stepped over.

It is strict where parsers differ, so that the provider cannot read another field than the one that was judged here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mainstay.core.errors import Invalid

PARTS = 256
"""The most parts that a body may have."""
HEADER = 8192
"""The most bytes that the header of one part may have."""

_BOUNDARY = re.compile(r';[ \t]*boundary=(?:"([^"\\\r\n]{1,70})"|([^\s;,"]{1,70}))[ \t]*(?:;|$)', re.IGNORECASE)
_NAMED = re.compile(r"boundary\*?[ \t]*=", re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition[ \t]*:[ \t]*form-data((?:;[^\r\n]*)?)", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z*]+)=("(?:[^"\\]|\\.)*"|[^\s;"]+)[ \t]*')


class FormField(NamedTuple):
    """One part: its name, where its content lies, and whether it is a file."""

    name: str
    start: int
    end: int
    file: bool


def boundary_of(content_type: str) -> bytes:
    """The boundary that a content-type names. Raises ``Invalid``."""
    found = _BOUNDARY.findall(content_type)
    if len(found) != 1 or len(_NAMED.findall(content_type)) != 1:
        raise _malformed("its content-type names no boundary, or two")
    return (found[0][0] or found[0][1]).encode()


def form_fields(body: bytes, content_type: str) -> list[FormField]:
    """All parts in order. Raises ``Invalid`` for a body that is not of the form exactly."""
    delimiter = b"--" + boundary_of(content_type)
    at = 2 if body.startswith(b"\r\n") else 0
    if not body.startswith(delimiter, at):
        raise _malformed("it does not begin with its boundary")
    fields: list[FormField] = []
    separator = b"\r\n" + delimiter
    at += len(delimiter)
    while True:
        if body.startswith(b"--", at):
            return fields
        if not body.startswith(b"\r\n", at):
            raise _malformed("a boundary is not followed by the end of its line")
        if len(fields) == PARTS:
            raise _malformed(f"it has more than {PARTS} parts")
        head = at + 2
        start = body.find(b"\r\n\r\n", at, head + HEADER)
        if start < 0:
            raise _malformed("the header of a part does not end")
        start += 4
        end = body.find(separator, start - 2)
        if end < 0:
            raise _malformed("it ends within a part")
        if end < start:
            raise _malformed("a part has no content")
        fields.append(_field(body[head : start - 4], start, end))
        at = end + len(separator)


def _field(header: bytes, start: int, end: int) -> FormField:
    found = [match for line in header.split(b"\r\n") if (match := _DISPOSITION.fullmatch(line)) is not None]
    if len(found) != 1 or b"\n" in header.replace(b"\r\n", b"") or b"\0" in header:
        raise _malformed("a part has no content-disposition, or two, or one that is not form-data")
    text, at = found[0][1], 0
    parameters: dict[str, bytes] = {}
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None or parameter[1].lower().decode() in parameters:
            raise _malformed("the content-disposition of a part cannot be read")
        parameters[parameter[1].lower().decode()] = parameter[2]
        at = parameter.end()
    name = parameters.get("name")
    if name is None or "name*" in parameters:
        raise _malformed("a part has no name")
    file = "filename" in parameters or "filename*" in parameters
    if not file and b"content-transfer-encoding" in header.lower():
        raise _malformed("a field has a content-transfer-encoding")
    return FormField(name.strip(b'"').decode("utf-8", "replace"), start, end, file)


def with_field(body: bytes, name: str, value: bytes) -> bytes:
    """``body``, a form, with one more field before all others."""
    at = 2 if body.startswith(b"\r\n") else 0
    line = body[at : body.index(b"\r\n", at)]
    head = b'%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (line, name.encode(), value)
    return body[:at] + head + body[at:]


def _malformed(what: str) -> Invalid:
    return Invalid(f"the body is not proper multipart/form-data: {what}", code="invalid_multipart")
