"""Reading from subscriptions in checks: what comes next, what comes until the end, and that nothing comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
    StreamItem,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.programs import same

#: A heartbeat interval that is soon over: a heartbeat is how a check sees that nothing else comes.
QUIET_SECONDS: Final = 0.05


class Reader:
    """One subscription, read with a deadline at every item."""

    def __init__(self, bench: Bench, iterator: AsyncIterator[StreamItem]) -> None:
        self.iterator = iterator
        self._bench = bench

    async def leave(self) -> None:
        """Give the subscription back."""
        close = getattr(self.iterator, "aclose", None)
        if close is not None:
            await close()

    async def next(self) -> StreamItem:
        """Return the next item, a heartbeat too."""
        item: StreamItem = await self._bench.soon(_next(self.iterator))
        return item

    async def item(self, seconds: float = 15.0) -> StreamItem:
        """Return the next item that is no heartbeat."""
        try:
            item: StreamItem = await self._bench.soon(_next_item(self.iterator), seconds)
        except StopAsyncIteration:
            unkept("an item, END_SENTINEL itself or a gap before the iterator ends", "the end of the iterator")
        return item

    async def events(self, count: int) -> list[StreamEvent]:
        """Return the next *count* events."""
        found: list[StreamEvent] = []
        while len(found) < count:
            item = await self.item()
            if not isinstance(item, StreamEvent) or item is END_SENTINEL:
                unkept(f"{count} events", [*found, item])
            found.append(item)
        return found

    async def gets(self, data: Sequence[Any]) -> list[StreamEvent]:
        """Expect the next events to be those of exactly these data."""
        found = await self.events(len(data))
        expect(same(data_of(found), list(data)), f"events of the data {list(data)!r}", found)
        return found

    async def rest(self) -> list[StreamItem]:
        """Return everything up to END or a gap, that one included, and see to it that nothing follows."""
        found: list[StreamItem] = []
        while True:
            item = await self.item()
            found.append(item)
            if item is END_SENTINEL or isinstance(item, StreamGap):
                await self.is_finished()
                return found

    async def waits(self) -> None:
        """Expect a heartbeat: nothing is there to come."""
        item = await self.next()
        expect(item is HEARTBEAT_SENTINEL, "a heartbeat, for there is nothing to come", item)

    async def ends(self) -> None:
        """Expect END, and nothing after it."""
        item = await self.item()
        expect(item is END_SENTINEL, "END_SENTINEL", item)
        await self.is_finished()

    async def is_gap(self, gap: StreamGap, seconds: float = 15.0) -> None:
        """Expect exactly this gap, and nothing after it."""
        item = await self.item(seconds)
        expect(item == gap, gap, item)
        await self.is_finished()

    async def is_finished(self) -> None:
        """Expect no further item."""
        try:
            item = await self.next()
        except StopAsyncIteration:
            return
        unkept("nothing after END or a gap", item)


async def _next(iterator: AsyncIterator[StreamItem]) -> StreamItem:
    return await anext(iterator)


async def _next_item(iterator: AsyncIterator[StreamItem]) -> StreamItem:
    while True:
        item = await anext(iterator)
        if item is not HEARTBEAT_SENTINEL:
            return item


@asynccontextmanager
async def reading(
    bench: Bench,
    bridge: StreamBridge,
    run_id: str,
    last_event_id: str | None = None,
    heartbeat_interval: float = QUIET_SECONDS,
) -> AsyncIterator[Reader]:
    """Subscribe, and give the subscription back at the end."""
    iterator = bridge.subscribe(run_id, last_event_id=last_event_id, heartbeat_interval=heartbeat_interval)
    reader = Reader(bench, iterator)
    try:
        yield reader
    finally:
        await reader.leave()


@asynccontextmanager
async def two_instances(bench: Bench, **options: Any) -> AsyncIterator[tuple[StreamBridge, StreamBridge]]:
    """Open one fresh space twice: here, and as a replica."""
    space = bench.space(**options)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(bench.open(space))
        there = await stack.enter_async_context(bench.replica(space))
        yield here, there


async def publish_numbers(bridge: StreamBridge, run_id: str, numbers: Sequence[int]) -> list[str]:
    """Publish events whose data are these numbers, one by one, and return their ids."""
    return [await bridge.publish(run_id, "number", number) for number in numbers]


async def replays(bench: Bench, bridge: StreamBridge, run_id: str, cursor: str | None, data: Sequence[Any]) -> None:
    """Expect a new subscriber at *cursor* to get events of exactly these data, and then to wait."""
    async with reading(bench, bridge, run_id, cursor) as reader:
        await reader.gets(data)
        await reader.waits()


def data_of(items: Sequence[StreamItem]) -> list[Any]:
    """Return the data of events, and other items as they are."""
    return [item.data if isinstance(item, StreamEvent) and item is not END_SENTINEL else item for item in items]
