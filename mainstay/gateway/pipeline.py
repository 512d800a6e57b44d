"""The one list of stages that every model call goes through, and what runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Protocol

from mainstay.core.call import Reply
from mainstay.core.errors import MainstayError
from mainstay.gateway.routed import Routed


class Stage(Protocol):
    """One thing that stands in the way of an answer: what an asynchronous context manager does, as two calls.

    ``enter`` refuses by raising, answers by returning a ``Reply``, or lets the call pass with None; only a stage that
    must wait returns an awaitable of the same. ``leave`` runs once for every stage entered, in reverse order, also when a
    later stage raised or the caller went away, and never waits.
    """

    def enter(self, call: Routed) -> Reply | Awaitable[Reply | None] | None:
        """Before the answer."""
        ...

    def leave(self, call: Routed, error: BaseException | None) -> None:
        """After it; ``error`` is what broke it off, if anything did."""
        ...


class Pipeline:
    """Runs calls through its stages: ``record, identify, resolve, admit, cache, attempt`` (wired in ``gateway/build.py``)."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)

    def open(self, call: Routed) -> Running:
        """The call as a context manager: entering commits to a reply, leaving settles."""
        return Running(self._stages, call)


class Running:
    """One call inside the pipeline."""

    __slots__ = ("_call", "_entered", "_stages")

    def __init__(self, stages: tuple[Stage, ...], call: Routed) -> None:
        self._stages, self._call, self._entered = stages, call, 0

    async def __aenter__(self) -> Reply:
        try:
            for stage in self._stages:
                self._entered += 1
                result = stage.enter(self._call)
                if result is not None and not isinstance(result, Reply):
                    result = await result
                if result is not None:
                    return result
        except BaseException as error:
            self._leave(error)
            raise
        nobody = MainstayError("no stage answered the call")
        self._leave(nobody)
        raise nobody

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        entered, self._entered = self._entered, 0
        failed: BaseException | None = None
        for stage in reversed(self._stages[:entered]):
            try:
                stage.leave(self._call, error)
            except Exception as broken:  # the other stages must settle all the same
                failed = failed or broken
        if failed is not None:
            raise failed
