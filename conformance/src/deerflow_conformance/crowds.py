"""Many subscribers at once, for checks that are about many: each takes down what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamItem
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.subscribers import data_of

#: Longer than any check: heartbeats would be work that a check did not mean.
_INTERVAL_SECONDS: Final = 900.0
#: What all of a crowd together may take, in seconds.
CROWD_SECONDS: Final = 45.0


class Crowd:
    """What `crowd` gives: subscribers that read on until END or a gap.

    Attributes:
        runs: The run that each one reads.
        seen: What each one got so far, without heartbeats.
    """

    def __init__(self, bench: Bench, bridge: StreamBridge, runs: Sequence[str]) -> None:
        self.runs = runs
        self.seen: list[list[StreamItem]] = [[] for _ in runs]
        self.iterators: list[Any] = [bridge.subscribe(run, heartbeat_interval=_INTERVAL_SECONDS) for run in runs]
        self._bench = bench
        self._waiting = len(runs)
        self._all_began = asyncio.Event()
        self.tasks = [asyncio.create_task(self._read(number)) for number in range(len(runs))]

    async def _read(self, number: int) -> None:
        seen = self.seen[number]
        try:
            async for item in self.iterators[number]:
                if item is HEARTBEAT_SENTINEL:
                    continue
                seen.append(item)
                if len(seen) == 1:
                    self._waiting -= 1
                    if not self._waiting:
                        self._all_began.set()
        except Exception:
            self._all_began.set()  # whoever waits for this one would wait in vain
            raise

    async def began(self) -> None:
        """Return once each has got a first item."""
        await self._bench.soon(self._all_began.wait(), CROWD_SECONDS)
        for task in self.tasks:
            if task.done():
                task.result()

    async def ended(self) -> None:
        """Return once each has come to an end of its own."""
        await self._bench.soon(asyncio.wait(self.tasks), CROWD_SECONDS)
        for task in self.tasks:
            task.result()

    def expect_all(self, data: Sequence[Any]) -> None:
        """Expect each to have got exactly these data in the order of its run, the same for all of a run, and then END.

        Args:
            data: Of each run, sorted: who published together is in any order.
        """
        orders: dict[str, list[Any]] = {}
        for run, seen in zip(self.runs, self.seen, strict=True):
            expect(seen and seen[-1] is END_SENTINEL, "END for each subscriber, last", seen)
            got = data_of(seen[:-1])
            first = orders.setdefault(run, got)
            if got != first:
                unkept(f"one order for all subscribers of {run!r}, {first}", got)
        for run, order in orders.items():
            if sorted(order) != list(data):
                unkept(f"each event of {run!r} once, {list(data)}", order)


@asynccontextmanager
async def crowd(bench: Bench, bridge: StreamBridge, runs: Sequence[str]) -> AsyncIterator[Crowd]:
    """Subscribe once for each of *runs*, without a cursor; all subscriptions are given back at the end."""
    opened = Crowd(bench, bridge, runs)
    try:
        yield opened
    finally:
        for task in opened.tasks:
            task.cancel()
        await asyncio.gather(*opened.tasks, return_exceptions=True)
        for iterator in opened.iterators:
            if (close := getattr(iterator, "aclose", None)) is not None:
                await close()
