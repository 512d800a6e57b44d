"""The outcome figures, checked by hand on a small scenario, over a real ledger and real verdicts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from mainstay.core.clock import Clock
from mainstay.core.errors import Invalid
from mainstay.core.ids import Ids
from mainstay.core.verdict import BUILT_IN, VerdictType
from mainstay.ledger.engine import Engine
from mainstay.ledger.query import Ledger
from mainstay.ledger.verdicts import Draft, Sender, Verdicts
from mainstay.observe.intervals import wilson
from mainstay.observe.outcome_metrics import samples
from mainstay.observe.outcomes import Outcome, outcomes
from mainstay.store.blobs import FolderBlobs
from mainstay.store.database import Database
from mainstay.store.manifest import SqlManifest
from mainstay.store.verdicts import SqlVerdicts
from tests.ledger.cases import AT, record

TYPES: Mapping[str, VerdictType] = {**BUILT_IN, "tone": VerdictType("tone", "category")}
RED = Sender("key red/web", "red")


class Scene:
    """A ledger with verdicts, without a gateway."""

    def __init__(self, home: Path) -> None:
        self.home = home

    async def open(self) -> Scene:
        self.database = await Database.open(f"sqlite+aiosqlite:///{self.home / 'control.db'}")
        ids, engine = Ids(), Engine(self.home / "ledger")
        self.ledger = Ledger(self.home / "ledger", self.database, SqlManifest(), ids, engine)
        await self.ledger.open()
        blobs = FolderBlobs(self.home / "blobs")
        self.verdicts = Verdicts(self.ledger, self.database, SqlVerdicts(), blobs, ids, Clock(), lambda: TYPES)
        await self.verdicts.open()
        return self

    async def calls(self, **by_name: Mapping[str, object]) -> None:
        """Calls named as given, one after the other, of team red unless told otherwise."""
        rows = [
            record(i, **{"id": f"call_{name}", "team": "red", "input": 1, "output": 1, **fields})
            for i, (name, fields) in enumerate(by_name.items())
        ]
        assert await self.ledger.add([msgspec.json.encode(row) for row in rows]) == 0
        for row in rows:
            self.verdicts.saw(row)

    async def judge(self, subject: str, name: str, value: object, by: str = "product", at: int | None = None) -> None:
        """``subject`` is a call's name, ``session:NAME`` or ``external:NAME``."""
        about, colon, rest = subject.partition(":")
        if colon:
            await self.verdicts.add([Draft(about, rest, name, value, by, at=at)], RED)  # type: ignore[arg-type]
        else:
            await self.verdicts.add([Draft("call", f"call_{subject}", name, value, by, at=at)], RED)
        await self.verdicts.match()

    async def asked(self, *by: str, **more: object) -> dict[tuple[str | None, ...], Outcome]:
        found = await outcomes(self.ledger, TYPES, by, **more)  # type: ignore[arg-type]
        return {tuple(one.group.values()): one for one in found}

    async def close(self) -> None:
        await self.ledger.close()
        await self.database.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = await Scene(tmp_path).open()
    yield made
    await made.close()


async def test_every_figure_of_a_small_scenario(scene: Scene) -> None:
    """Five tasks: a session of three calls, a workflow run of two, and three single calls of which one is unjudged.

    session s: 100 + 200 + 50 nano-dollars, judged a success; run t: 30 + 3, judged a failure; single x: 7, a success;
    single y: 11, unjudged; single z: of unknown cost, judged a failure.
    """
    await scene.calls(
        s1={"session": "s", "cost_nano": 100, "model": "large", "tags": {"prompt": "p1"}},
        s2={"session": "s", "cost_nano": 200, "model": "small", "tags": {"prompt": "p2", "id": "order-9"}},
        s3={"session": "s", "cost_nano": 50, "model": "small"},
        w1={"workflow": "mail", "trace": "t", "cost_nano": 30, "model": "small"},
        w2={"workflow": "mail", "trace": "t", "cost_nano": 3, "model": "small"},
        x={"cost_nano": 7, "model": "large", "workflow": "mail"},
        y={"cost_nano": 11, "model": "large"},
        z={"cost_nano": None, "model": "large"},
        other={"team": "blue", "session": "s", "cost_nano": 1_000_000},
    )
    await scene.judge("external:order-9", "task_success", True, "human:ann")
    await scene.judge("session:s", "task_success", False, "judge:j")  # a reviewer's word counts more
    await scene.judge("w1", "task_success", True)
    await scene.judge("w2", "task_success", False)  # a tie of the product with itself: no success
    await scene.judge("x", "task_success", True, "judge:j")
    await scene.judge("z", "task_success", False, "user")
    await scene.judge("s2", "edit", 0.25, "user")
    await scene.judge("w1", "edit", 0.0, "user")
    await scene.judge("x", "handoff", True)
    await scene.judge("session:s", "thumbs", True, "user")
    await scene.judge("y", "thumbs", False, "judge:j")

    whole = (await scene.asked(team="red"))[()]
    assert (whole.tasks, whole.calls, whole.cost_nano) == (5, 8, 401)
    assert (whole.success.part, whole.success.whole) == (2, 4)
    assert whole.judged_nano == 350 + 33 + 7
    assert whole.per_success_nano == 195
    assert whole.unpriced == 1
    assert (whole.override.part, whole.override.whole) == (2, 3)  # s was changed, x taken over, t accepted as it was
    assert (whole.feedback.part, whole.feedback.whole) == (4, 5)  # all but y, on which only a judge spoke
    assert whole.success.interval == wilson(2, 4)
    thumbs, edit = whole.scores["thumbs"], whole.scores["edit"]
    assert (thumbs.count, thumbs.mean, thumbs.interval) == (2, 0.5, wilson(1, 2))  # a session's verdict counts once
    assert (edit.count, edit.mean) == (2, 0.125)
    assert edit.interval == pytest.approx((0.125 - 12.7062 * 0.125, 0.125 + 12.7062 * 0.125), abs=1e-4)

    models = await scene.asked("model", team="red")
    assert sum(one.cost_nano for one in models.values()) == whole.cost_nano
    large, small = models[("large",)], models[("small",)]
    assert (large.tasks, small.tasks) == (4, 2)  # the session has calls of both
    assert (large.success.part, large.success.whole, large.judged_nano) == (2, 3, 107)
    assert (small.success.part, small.success.whole, small.judged_nano) == (1, 2, 283)
    assert (large.per_success_nano, small.per_success_nano) == (54, 283)  # 53.5, half to even
    assert "edit" not in large.scores  # it was about a call of the other model
    prompts = await scene.asked("prompt", team="red")
    assert prompts[("p1",)].per_success_nano == 100
    assert (prompts[("p2",)].per_success_nano, prompts[("p2",)].scores["edit"].mean) == (200, 0.25)
    flows = await scene.asked("workflow", "team")
    assert (flows[("mail", "red")].tasks, flows[("mail", "red")].success.part) == (2, 1)
    assert flows[(None, "blue")].success.whole == 0  # another team's session of that name is not judged
    assert flows[(None, "blue")].per_success_nano is None


async def test_verdicts_late_and_superseded_move_the_figures(scene: Scene) -> None:
    await scene.judge("a", "task_success", True, at=2)
    await scene.judge("a", "task_success", False, at=1)
    assert scene.verdicts.unmatched == 2
    await scene.calls(a={"cost_nano": 3}, b={"cost_nano": 4})
    await scene.verdicts.match()
    assert scene.verdicts.unmatched == 0
    assert (await scene.asked())[()].per_success_nano == 3
    await scene.judge("a", "task_success", False, at=3)
    found = (await scene.asked())[()]
    assert (found.success.part, found.success.whole, found.per_success_nano) == (0, 1, None)
    assert (await scene.asked(since=AT + 1))[()].success.whole == 0  # the window is of the calls


async def test_categories_are_counted(scene: Scene) -> None:
    await scene.calls(a={}, b={}, c={})
    for name, word in (("a", "kind"), ("b", "kind"), ("c", "rude")):
        await scene.judge(name, "tone", word)
    score = (await scene.asked())[()].scores["tone"]
    assert (score.count, score.mean, score.words) == (3, None, {"kind": 2, "rude": 1})


async def test_what_is_asked_wrongly_is_refused(scene: Scene) -> None:
    for by in (["nothing"], ["cost_usd"], ["team", "team"], ["verdict.thumbs"], ["a", "b", "c", "d", "e"]):
        with pytest.raises(Invalid):
            await scene.asked(*by)
    with pytest.raises(Invalid):
        await scene.asked(limit=0)
    assert (await scene.asked())[()].tasks == 0


async def test_what_was_swept_is_gone_from_the_figures(scene: Scene) -> None:
    await scene.calls(a={})
    await scene.judge("a", "thumbs", True, at=10)
    await scene.judge("a", "rating", 4, at=20)
    assert await scene.verdicts.sweep(15) == 1
    assert set((await scene.asked())[()].scores) == {"rating"}


async def test_the_figures_for_prometheus(scene: Scene) -> None:
    await scene.calls(a={"workflow": "mail", "cost_nano": 5}, b={"workflow": "mail"})
    await scene.judge("a", "task_success", True)
    day = await outcomes(scene.ledger, TYPES, ("team", "workflow"))
    found = {(one.name, *one.labels.values()): one.value for one in samples(scene.verdicts.accepted, 3, day)}
    assert found["mainstay_verdicts_total", "task_success", "product"] == 1
    assert found[("mainstay_verdicts_unmatched",)] == 3
    assert found["mainstay_outcome_feedback_ratio", "red", "mail"] == 0.5
    assert found["mainstay_outcome_success_ratio", "red", "mail"] == 1
    assert found["mainstay_outcome_cost_per_success_usd", "red", "mail"] == 5e-9
    assert ("mainstay_outcome_override_ratio", "red", "mail") not in found  # nobody has decided on any
