"""Takes our own secrets out of what a provider reports: its errors may quote the key that it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from mainstay.core.errors import UpstreamFailed

HIDDEN = "[hidden]"

_ESCAPED = {"/": ("\\/",), "+": ("\\u002B", "\\u002b"), "=": ("\\u003D", "\\u003d")}
"""Characters of keys that need no escape in JSON, and that some escape all the same."""
_SHORTEST = 8
"""Characters of a secret that is looked for; a shorter one would be found in every other word."""


def forms(secrets: Sequence[str]) -> tuple[str, ...]:
    """What to look for: each secret as it is, and as writers of JSON and of addresses escape it; the longest first."""
    found: set[str] = set()
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            written = {secret}
            for plain, escapes in _ESCAPED.items():
                written |= {form.replace(plain, escaped) for form in written for escaped in escapes}
            found |= written
            found.add(quote(secret, safe=""))
    return tuple(sorted(found, key=len, reverse=True))


def hidden(text: str, secrets: Sequence[str]) -> str:
    """``text`` without the secrets, nor the beginning of one at its end, where a long text was cut off."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    for secret in secrets:
        begun = _begun(text[1 - len(secret) :], secret)
        if begun:
            text = text[:-begun] + HIDDEN
    return text


def hidden_bytes(data: bytes, secrets: Sequence[str]) -> bytes:
    """The same for bytes, in which a secret stands as UTF-8; unchanged, the very object, where there is none."""
    for secret in secrets:
        sought = secret.encode()
        if sought in data:
            data = data.replace(sought, HIDDEN.encode())
    for secret in secrets:
        begun = _begun(data[1 - len(secret.encode()) :].decode("latin-1"), secret)
        if begun:
            data = data[:-begun] + HIDDEN.encode()
    return data


def hide(failure: UpstreamFailed, secrets: Sequence[str]) -> None:
    """Take the secrets out of everything that ``failure`` tells."""
    if not secrets:
        return
    failure.message = hidden(failure.message, secrets)
    failure.args = (failure.message,)
    failure.content_type = hidden(failure.content_type, secrets)
    if failure.provider_code is not None:
        failure.provider_code = hidden(failure.provider_code, secrets)
    if failure.field is not None:
        failure.field = hidden(failure.field, secrets)
    if failure.body is not None:
        failure.body = hidden_bytes(failure.body, secrets)


def _begun(end: str, secret: str) -> int:
    """How many characters of the beginning of ``secret`` stand at the end of a text, if they are enough to tell."""
    for size in range(min(len(end), len(secret) - 1), _SHORTEST - 1, -1):
        if end.endswith(secret[:size]):
            return size
    return 0
