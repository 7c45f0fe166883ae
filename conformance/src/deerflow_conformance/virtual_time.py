"""An event loop whose time jumps to the next timer whenever nothing is ready, so that waiting costs nothing.

Only for code without threads, sockets or processes: with one of those in play "nothing is ready" does not mean that
nothing will be, and every deadline would fire at once.
"""

from __future__ import annotations

import asyncio
import collections
import random
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, TypeVar, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

#: What a fresh loop's `time()` says, in seconds: not 0, which reads as "never" in too much code.
START_SECONDS: Final = 1_000.0
#: What the clock says then, in microseconds since 1970: 2026-01-01 and those seconds.
START_MICROSECONDS: Final = 1_767_225_600_000_000


class Deadlock(Exception):
    """Every task waits for another one, and no timer is set: in real time this would hang for ever."""


class _Selector(selectors.DefaultSelector):
    """Never waits: moves its loop's time by what it was asked to wait."""

    now_seconds = START_SECONDS

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; if nothing is, move the time to the next timer."""
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("nothing is ready and no timer is set: every task waits for another one")
            self.now_seconds += max(timeout, 0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. It has no threads: `run_in_executor` raises.

    Args:
        shuffled: Draws the order in which tasks go on that could do so at the same moment; None keeps asyncio's.
    """

    def __init__(self, shuffled: random.Random | None = None) -> None:
        self._shuffled = shuffled
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def _run_once(self) -> None:
        ready: collections.deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]  # asyncio does not publish it
        # What asyncio itself promises of the order is about one task at a time, and each has one step in here at most.
        if self._shuffled is not None and len(ready) > 1:
            order = list(ready)
            self._shuffled.shuffle(order)
            ready.clear()
            ready.extend(order)
        super()._run_once()  # type: ignore[misc]

    def time(self) -> float:
        """Return the virtual seconds, beginning at `START_SECONDS`."""
        return float(self._virtual.now_seconds)

    def clock(self) -> int:
        """Return the virtual time in microseconds since 1970, as embedded backends take it."""
        return START_MICROSECONDS + round(self.time() * 1_000_000)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        """Refuse: a thread lives in real time."""
        raise RuntimeError(
            f"{func!r} would run in a thread, which virtual time cannot wait for; conform with virtual_time=False"
        )
