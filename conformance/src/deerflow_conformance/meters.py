"""What a backend takes, in counts: round trips or steps of work, threads, file handles, memory.

Counts and never times: they are the same on a busy machine.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from typing import Any, Final

from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import CouldNotRun, NotApplicable, expect
from deerflow_conformance.expectations import UNSEEN_WORK
from deerflow_conformance.isolation import open_handles
from deerflow_conformance.spaces import Space

#: What "the same" leaves room for: half as much again ...
_RATIO: Final = 1.5
#: ... and what goes on by itself while a call is measured, such as a sweep or a sign of life.
_ASIDE: Final = {"round trips": 1, "steps of work": 30}
#: A pool makes a connection when it first needs one, and the event loop a thread: this many more are no growth.
_A_FEW: Final = 4


@dataclass(frozen=True, slots=True)
class Meter:
    """What `metered` gives.

    Attributes:
        space: The space to open.
        unit: What is counted: ``round trips`` where there is a network, else ``steps of work``.
        taken: Returns how many there were so far.
        unseen: Takes down that this may not be all, if so.
    """

    space: Space
    unit: str
    taken: Callable[[], int]
    unseen: Callable[[], None] = lambda: None

    async def cost(self, call: Callable[[], Awaitable[Any]]) -> int:
        """Return the least that one of three like calls takes: what goes on by itself now and then does not count."""
        costs = []
        for _ in range(3):
            before = self.taken()
            await call()
            costs.append(self.taken() - before)
        return min(costs)

    def expect_same(self, what: str, few: int, many: int, *, aside: int | None = None) -> None:
        """Fail the check if *what* took more than it did for few.

        Args:
            what: The subject of a sentence.
            few: What it takes where there is little.
            many: What it took where there was much.
            aside: How much goes on by itself meanwhile; None for what does during one call.
        """
        self.unseen()
        room = _ASIDE[self.unit] if aside is None else aside
        expect(many <= few * _RATIO + room, f"{what} in about {few} {self.unit}, as for few", many)


@asynccontextmanager
async def metered(bench: Bench, space: Space) -> AsyncIterator[Meter]:
    """Count round trips through the kit's proxies where they are between the backend and its servers, else work.

    See `Bench.network` and `Bench.work`.
    """

    def unseen() -> None:
        if not bench.sees_all_work:
            bench.unseen_in_part(UNSEEN_WORK)

    async with AsyncExitStack() as stack:
        try:
            network = await stack.enter_async_context(bench.network(space))
        except (NotApplicable, CouldNotRun):
            await bench.expect_work_counts()
            yield Meter(space, "steps of work", bench.work, unseen)
        else:
            yield Meter(network.space, "round trips", lambda: network.requests)


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at a moment.

    Attributes:
        threads: Of this process.
        handles: File handles of this process, connections to servers included.
    """

    threads: int
    handles: int

    def or_more(self, other: Held) -> Held:
        """Return the higher one of each count."""
        return Held(*map(max, astuple(self), astuple(other)))

    def expect_no_more(self, many: Held, who: str) -> None:
        """Fail the check if *many* holds more than this, which few held.

        Args:
            many: What was held for many.
            who: For whom, such as ``1,000 subscribers``.
        """
        for name, few, now in zip(self.__slots__, astuple(self), astuple(many), strict=True):
            expect(now <= few + _A_FEW, f"about {few} {name} for {who}, as for few", now)


def held() -> Held:
    """Return what this process holds now."""
    return Held(threading.active_count(), len(open_handles()))


def memory_blocks() -> int:
    """Return how many pieces of memory this process has from Python, after what is unreachable was freed."""
    gc.collect()
    return sys.getallocatedblocks()
