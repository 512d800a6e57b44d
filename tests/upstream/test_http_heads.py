"""The caller's headers beside the provider's own: each name once, and nothing of a format where it means nothing."""

from __future__ import annotations

from mainstay.upstream.http_heads import head, with_callers

USUAL = {"host": "a.example", "content-type": "application/json", "anthropic-version": "2023-06-01"}


def test_the_callers_version_takes_the_place_of_ours() -> None:
    sent = with_callers(USUAL, {"anthropic-version": "2026-10-21", "traceparent": "00-1-2-01"}, same=True)
    assert sent == (
        b"host: a.example\r\ncontent-type: application/json\r\nanthropic-version: 2026-10-21\r\ntraceparent: 00-1-2-01\r\n"
    )


def test_a_formats_own_headers_stay_with_it() -> None:
    given = {"anthropic-version": "2026-10-21", "anthropic-beta": "x", "openai-beta": "y", "traceparent": "00-1-2-01"}
    assert with_callers(USUAL, given, same=False) == head(USUAL) + b"traceparent: 00-1-2-01\r\n"


def test_beta_flags_add_up() -> None:
    sent = with_callers({**USUAL, "anthropic-beta": "ours"}, {"anthropic-beta": "theirs"}, same=True)
    assert b"anthropic-beta: ours,theirs\r\n" in sent


def test_a_forms_boundary_is_the_callers() -> None:
    sent = with_callers(USUAL, {"content-type": "multipart/form-data; boundary=x"}, same=True)
    assert sent.count(b"content-type") == 1
    assert b"boundary=x" in sent
