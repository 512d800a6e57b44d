"""Who calls and what for: keys, tags, trace, timeout, and the refusals that belong to them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.access.authenticate import secret
from mainstay.core.errors import Forbidden, Invalid, NotFound, Unauthenticated
from mainstay.gateway.identify import tags
from tests.gateway.rig import SECRET, Done, Rig, chat_body

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-api-key": " abc "}, "abc"),
        ({"api-key": "abc"}, "abc"),
        ({"authorization": "Basic abc", "x-api-key": "def"}, "def"),
        ({"authorization": "Bearer"}, ""),
        ({}, ""),
    ],
)
def test_where_a_secret_may_stand(headers: dict[str, str], shown: str) -> None:
    assert secret(headers) == shown


texts = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())


@given(st.dictionaries(texts, st.text(max_size=20), max_size=8))
def test_tags_say_what_was_encoded(given_tags: dict[str, str]) -> None:
    written = ", ".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in given_tags.items())
    assert tags(written) == given_tags


def test_tags_as_people_write_them() -> None:
    assert tags("feature=search, tier=free,") == {"feature": "search", "tier": "free"}
    assert tags("lang=c++,formula=a=b") == {"lang": "c++", "formula": "a=b"}
    assert tags("empty=") == {"empty": ""}
    many = ",".join(f"t{i}=1" for i in range(32))
    assert len(tags(many)) == 32
    for wrong in ("name", "=value", "a" * 129 + "=1", "a=" + "b" * 129, many + ",one=more"):
        with pytest.raises(Invalid) as caught:
            tags(wrong)
        assert caught.value.field == "x-mainstay-tags"


async def ask(tmp_path: Path, **headers: str) -> Done:
    rig = Rig(tmp_path, models={"m": {"target": "alpha/m"}})
    done = await rig.ask(headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert len(rig.records) == 1, "whatever became of it, it is recorded once"
    rig.nothing_held()
    rig.journal.stop()
    return done


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{'<script>' * 4}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        ("", False),
    ],
)
async def test_only_a_sound_traceparent_is_taken(tmp_path: Path, header: str, found: bool) -> None:
    call = (await ask(tmp_path, traceparent=header)).call
    assert (call.trace, call.parent_span) == ((TRACE, SPAN) if found else (None, None))


@pytest.mark.parametrize(
    ("written", "seconds"), [("5", 5.0), ("0.5", 0.5), ("250ms", 0.25), ("2s", 2.0), ("10m", 600.0), ("2h", 600.0)]
)
async def test_a_caller_may_ask_for_less_time_but_not_for_more(tmp_path: Path, written: str, seconds: float) -> None:
    done = await ask(tmp_path, x_mainstay_timeout=written)
    assert done.error is None
    assert done.call.deadline == pytest.approx(done.call.started + seconds)


@pytest.mark.parametrize("written", ["", "soon", "-1", "0", "nan", "1e99", "5 apples", "\xb2"])
async def test_a_timeout_that_is_none_is_refused(tmp_path: Path, written: str) -> None:
    done = await ask(tmp_path, x_mainstay_timeout=written)
    assert isinstance(done.error, Invalid)
    assert done.error.field == "x-mainstay-timeout"


@pytest.mark.parametrize("name", ["user", "session", "workflow"])
async def test_names_of_callers_have_a_length(tmp_path: Path, name: str) -> None:
    done = await ask(tmp_path, **{f"x_mainstay_{name}": "x" * 256})
    assert getattr(done.call, name) == "x" * 256
    done = await ask(tmp_path / "again", **{f"x_mainstay_{name}": "x" * 257})
    assert isinstance(done.error, Invalid)
    assert done.error.field == f"x-mainstay-{name}"


async def test_the_user_of_the_header_comes_before_that_of_the_body(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models={"m": {"target": "alpha/m"}})
    assert (await rig.ask(chat_body(user="body"))).call.user == "body"
    assert (await rig.ask(chat_body(user="body"), {"x-mainstay-user": "header"})).call.user == "header"
    rig.journal.stop()


async def test_keys_open_what_they_and_their_team_may_use(tmp_path: Path) -> None:
    rig = Rig(
        tmp_path,
        models={name: {"target": f"alpha/{name}"} for name in ("m", "n", "o")},
        keys={
            "k": {},
            "some": {"models": ["m", "n"]},
            "teamed": {"team": "s"},
            "both": {"team": "s", "models": ["m", "o"]},
            "gone": {"revoked": True},
            "old": {"expires": 1_800_000_000.0},
        },
        teams={"t": {}, "s": {"models": ["m", "n"]}},
    )

    async def opens(key: str) -> set[str]:
        found: set[str] = set()
        for name in ("m", "n", "o"):
            done = await rig.ask(chat_body(model=name), {"authorization": f"Bearer {SECRET}-{key}"})
            assert done.error is None or isinstance(done.error, Forbidden)
            found |= {name} if done.error is None else set()
        return found

    assert [await opens(key) for key in ("some", "teamed", "both")] == [{"m", "n"}, {"m", "n"}, {"m"}]
    for key in ("gone", "old", "unknown"):
        done = await rig.ask(chat_body(), {"authorization": f"Bearer {SECRET}-{key}"})
        assert isinstance(done.error, Unauthenticated)
        assert (done.call.status, rig.records[-1].team, rig.records[-1].outcome) == (401, None, "refused")
    unknown = await rig.ask(chat_body(model="nothing"))
    assert isinstance(unknown.error, NotFound)
    assert rig.records[-1].team == "t"
    rig.journal.stop()
