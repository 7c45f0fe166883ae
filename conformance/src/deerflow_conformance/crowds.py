"""Many subscribers at once, for checks that are about many: each takes down what it gets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamItem
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import unkept
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
        _, waiting = await asyncio.wait(self.tasks, timeout=CROWD_SECONDS)
        if waiting:
            number = next(number for number, task in enumerate(self.tasks) if task in waiting)
            still = f"{len(waiting)} still wait; one, in {self.runs[number]!r}, after {self.seen[number][-1:]}"
            unkept(f"END for each of {len(self.tasks):,} subscribers within {CROWD_SECONDS:g} s", still)
        for task in self.tasks:
            task.result()

    def expect_all(self, data: Sequence[Any]) -> None:
        """Expect each to have got exactly these data in the order of its run, the same for all of a run, and then END.

        Args:
            data: Of each run, in any order: who publishes together has none.
        """
        orders: dict[str, list[Any]] = {}
        for run, seen in zip(self.runs, self.seen, strict=True):
            if not seen or seen[-1] is not END_SENTINEL:
                last = f"{len(seen):,} items, the last of them {seen[-1:]}"
                unkept(f"END for each subscriber of {run!r}, last", last)
            got = data_of(seen[:-1])
            first = orders.setdefault(run, got)
            if got != first:
                unkept(f"the same for all subscribers of {run!r}, in one order", differences(first, got))
        for run, order in orders.items():
            if Counter(order) != Counter(data):
                unkept(f"each of {len(data):,} events of {run!r} once", differences(data, order))


def differences(wanted: Sequence[Any], got: Sequence[Any]) -> str:
    """Say in what *got* differs from *wanted*, by examples, since both may be long."""
    lost, added = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    found = (("lost", lost), ("too many", added))
    told = [f"{some.total():,} {what}, such as {next(iter(some))!r}" for what, some in found if some]
    if not told:
        place = next(place for place, (one, other) in enumerate(zip(wanted, got, strict=True)) if one != other)
        told = [f"another order: {got[place]!r} in place of {wanted[place]!r} after {place:,} others"]
    return " and ".join(told)


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
