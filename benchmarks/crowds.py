"""Many subscribers in one process, each a task that follows one run, and what they were given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.loads import payload
from benchmarks.rivals import Bridge
from deerflow_backends import HEARTBEAT_SENTINEL, StreamEvent

#: How long to wait for deliveries: whoever needs longer has lost some.
PATIENCE_SECONDS = 60.0

#: A process is quiet that used less than a tenth of a core for so long; waited for at most so many times as long.
_SETTLING_SECONDS = 0.25
_LONGEST_SETTLING = 40

#: How many first events are on their way together.
_AT_ONCE = 64


class Crowd:
    """Subscribers; made by `crowd`.

    Attributes:
        delivered: Events given so far, to all together.
        latencies: Milliseconds from when an event was due to when a subscriber had it, each delivery one.
    """

    def __init__(self, bridge: Bridge, heartbeat_seconds: float) -> None:
        self.delivered = 0
        self.latencies: list[float] = []
        self._bridge, self._heartbeat_seconds = bridge, heartbeat_seconds
        self._followers: list[asyncio.Task[None]] = []
        self._wanted = 0
        self._news = asyncio.Event()

    async def attach(self, runs: Sequence[str], each: int) -> None:
        """Have *each* subscribers follow each run, and return once all were given a first event."""
        for run_id in runs:
            for _ in range(each):
                self._followers.append(asyncio.create_task(self._follow(run_id)))
                self._followers[-1].add_done_callback(lambda _: self._news.set())
        for start in range(0, len(runs), _AT_ONCE):
            some = runs[start : start + _AT_ONCE]
            await asyncio.gather(*(self._bridge.publish(run_id, "messages", payload(0.0)) for run_id in some))
        await self.wait_for(len(self._followers))

    async def settle(self) -> None:
        """Wait until this process is done with what attaching has begun: reads that turn out to be unnecessary, too."""
        for _ in range(_LONGEST_SETTLING):
            used = time.process_time()
            await asyncio.sleep(_SETTLING_SECONDS)
            if time.process_time() - used < _SETTLING_SECONDS / 10:
                return

    async def wait_for(self, deliveries: int) -> None:
        """Wait until so many were delivered in all.

        Raises:
            RuntimeError: They were not, or a subscriber ended.
        """
        self._wanted = deliveries
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.delivered < deliveries:
            if any(follower.done() for follower in self._followers):
                raise RuntimeError("a subscriber ended while its run did not")
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise RuntimeError(f"{self.delivered:,} of {deliveries:,} events were delivered in time") from None

    async def leave(self) -> None:
        """End all subscriptions."""
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)

    async def _follow(self, run_id: str) -> None:
        async for item in self._bridge.subscribe(run_id, heartbeat_interval=self._heartbeat_seconds):
            if item is HEARTBEAT_SENTINEL or not isinstance(item, StreamEvent):
                continue
            self.delivered += 1
            at = item.data["at"]
            if at:
                self.latencies.append((time.monotonic() - at) * 1_000)
            if self.delivered == self._wanted:
                self._news.set()


@asynccontextmanager
async def crowd(bridge: Bridge, *, heartbeat_seconds: float = 15.0) -> AsyncIterator[Crowd]:
    """Have a crowd, and end its subscriptions on leaving."""
    made = Crowd(bridge, heartbeat_seconds)
    try:
        yield made
    finally:
        await made.leave()
