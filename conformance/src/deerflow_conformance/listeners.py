"""Subscribers that listen in tasks of their own while a check does something else, and how steadily they hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamGap, StreamItem
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.subscribers import data_of

#: How often heartbeats are asked for.
INTERVAL_SECONDS: Final = 0.1


class Listener:
    """What one subscriber heard so far.

    Attributes:
        items: What it got, without heartbeats.
        what: Names it in messages.
    """

    def __init__(self, bench: Bench, iterator: AsyncIterator[StreamItem], what: str) -> None:
        self.items: list[StreamItem] = []
        self.what = what
        self._bench, self._iterator = bench, iterator
        # Intervals by a timer of the same event loop, which a busy machine slows too, and in how many it got anything.
        self._intervals = self._lively = 0
        self._heard = False
        self._listening = asyncio.create_task(self._listen())
        self._ticking = asyncio.create_task(self._tick())

    async def gets(self, count: int, seconds: float) -> None:
        """Wait until it got so many items."""
        await self._until(lambda: len(self.items) >= count, f"{count} items", seconds)

    async def is_told(self, seconds: float) -> None:
        """Wait until it got END or a gap."""
        await self._until(lambda: self._is_over, "END or a gap", seconds)

    @property
    def _is_over(self) -> bool:
        return bool(self.items) and (self.items[-1] is END_SENTINEL or isinstance(self.items[-1], StreamGap))

    async def _until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if self._listening.done():
                error = self._listening.exception() or "the end of the iterator"
                unkept(f"{what} for {self.what}", f"{self.items!r}, then {error!r}")
            if asyncio.get_running_loop().time() > deadline:
                unkept(f"{what} for {self.what} within {seconds:g} s", self.items)
            await self._bench.sleep(0.02)

    def hears_steadily(self) -> None:
        """Expect that all along something came about as often as heartbeats were asked for, if only these."""
        expect(
            self._lively >= self._intervals // 2,
            f"{self.what} to get something every {INTERVAL_SECONDS:g} s, if only a heartbeat",
            f"something in {self._lively} of {self._intervals} such intervals",
        )

    async def leave(self) -> None:
        """Give the subscription back."""
        for task in (self._listening, self._ticking):
            task.cancel()
        await asyncio.gather(self._listening, self._ticking, return_exceptions=True)
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()

    async def _listen(self) -> None:
        async for item in self._iterator:
            self._heard = True
            if item is not HEARTBEAT_SENTINEL:
                self.items.append(item)
        self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            self._intervals += 1
            self._lively += self._heard
            self._heard = False


@asynccontextmanager
async def listening(
    bench: Bench, bridge: Any, run_id: str, what: str, last_event_id: str | None = None
) -> AsyncIterator[Listener]:
    """Subscribe at once, and give the subscription back at the end."""
    iterator = bridge.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=INTERVAL_SECONDS)
    listener = Listener(bench, iterator, what)
    try:
        yield listener
    finally:
        await listener.leave()


def expect_data(listener: Listener, data: list[Any]) -> None:
    """Expect it to have got events of exactly these data, and other items as they are."""
    got = data_of(listener.items)
    expect(got == data, f"{data!r} for {listener.what}", got)
