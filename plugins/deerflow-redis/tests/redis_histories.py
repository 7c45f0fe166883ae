"""Writers and readers that go on whatever becomes of the servers, and a judge of what they were told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from deerflow_backends import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamEvent, StreamGap, StreamOptions
from deerflow_redis.connection import Connection, connect
from deerflow_redis.streams import open_stream_bridge

#: How long anything may take that a test waits for; so long only where something is wrong.
PATIENCE_SECONDS: Final = 45.0


@asynccontextmanager
async def opened(url: str, namespace: str = "", **further: Any) -> AsyncIterator[tuple[Connection, StreamBridge]]:
    """Open a stream bridge in *namespace*, else in one of its own."""
    namespace = namespace or f"t{uuid.uuid4().hex}"
    settings = {"timeout_seconds": 2.0, **further}
    options = StreamOptions(max_events=100_000)  # all is kept that is written meanwhile
    async with (
        connect(url=url, namespace=namespace, **settings) as connection,
        open_stream_bridge(connection, options) as bridge,
    ):
        yield connection, bridge


async def until(condition: Callable[[], bool], what: str) -> None:
    """Let other tasks work until *condition* holds."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited in vain until {what}") from None


class Writer:
    """Publishes one event after the other to a run until it is told to stop, then ends the run.

    Attributes:
        acknowledged: The data of each event that a call has returned the id of.
    """

    def __init__(self, bridge: StreamBridge, run_id: str, *, pause_seconds: float = 0.002) -> None:
        self.run_id = run_id
        self.acknowledged: dict[str, Any] = {}
        self._bridge, self._pause_seconds = bridge, pause_seconds
        self._stopped = False
        self._task = asyncio.create_task(self._write())
        self._task.add_done_callback(_seen)

    async def goes_on(self, events: int = 20) -> None:
        """Return when so many further events were acknowledged."""
        enough = len(self.acknowledged) + events
        await until(lambda: self._task.done() or len(self.acknowledged) >= enough, f"{self.run_id} is written on")
        if self._task.done():
            self._task.result()

    async def finish(self) -> None:
        """Stop and end the run; raises what a call raised."""
        self._stopped = True
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._task

    async def _write(self) -> None:
        number = 0
        while not self._stopped:
            number += 1
            self.acknowledged[await self._bridge.publish(self.run_id, "e", number)] = number
            await asyncio.sleep(self._pause_seconds)
        await self._bridge.publish_end(self.run_id)


@dataclass
class Part:
    """What one subscription gave."""

    after: str | None
    events: list[tuple[str, Any]] = field(default_factory=list)
    gap: StreamGap | None = None
    ended: bool = False


class Reader:
    """Follows a run to its end in a task; after a gap it subscribes again at the latest id, as clients do."""

    def __init__(self, bridge: StreamBridge, run_id: str, after: str | None = None) -> None:
        self.run_id = run_id
        self.parts = [Part(after)]
        self._bridge = bridge
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(_seen)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Ids and data of all that came."""
        return [event for part in self.parts for event in part.events]

    @property
    def gaps(self) -> list[StreamGap]:
        """The gaps that came."""
        return [part.gap for part in self.parts if part.gap is not None]

    async def has(self, count: int) -> None:
        """Return when *count* events have come."""
        await until(lambda: self._task.done() or len(self.events) >= count, f"{count} events of {self.run_id} came")

    async def ends(self) -> None:
        """Return when the run's end has come."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._task
        except TimeoutError:
            raise AssertionError(
                f"{self.run_id} has not ended after {self.events[-1:]}, {self.parts[-1].gap}"
            ) from None

    async def _read(self) -> None:
        while not self.parts[-1].ended:
            part = self.parts[-1]
            async for item in self._bridge.subscribe(self.run_id, last_event_id=part.after, heartbeat_interval=0.5):
                if item is END_SENTINEL:
                    part.ended = True
                elif isinstance(item, StreamGap):
                    part.gap = item
                    self.parts.append(Part(item.latest_available_event_id))
                elif item is not HEARTBEAT_SENTINEL and isinstance(item, StreamEvent):
                    part.events.append((item.id, item.data))


def _seen(task: asyncio.Task[None]) -> None:
    """Note how a task ended; a test that failed meanwhile does not ask."""
    if not task.cancelled():
        task.exception()


async def history_of(bridge: StreamBridge, run_id: str) -> list[tuple[str, Any]]:
    """Return what the servers have of an ended run."""
    reader = Reader(bridge, run_id)
    await reader.ends()
    assert not reader.gaps
    return reader.events


def judge(history: Sequence[tuple[str, Any]], writer: Writer, readers: Sequence[Reader]) -> None:
    """See that no event is there twice, no id names two, and nobody missed what the servers kept without a gap."""
    ids = [tuple(map(int, name.split("-"))) for name, _ in history]
    data = [content for _, content in history]
    assert [seq for _, seq in ids] == list(range(1, len(ids) + 1))
    assert ids == sorted(ids)
    assert data == sorted(set(data)), "the order of the one writer, each once"
    named: dict[str, Any] = {}
    for name, content in [
        *history,
        *writer.acknowledged.items(),
        *(one for reader in readers for one in reader.events),
    ]:
        assert named.setdefault(name, content) == content, f"{name} names two events"
    kept = dict(history)
    names = list(kept)
    for reader in readers:
        # While two servers count as primaries, what is lost later may come again after a gap; what is kept never does.
        seen = [name for name, _ in reader.events if name in kept]
        assert len(seen) == len(set(seen)), "twice"
        for part in reader.parts:
            start = names.index(part.after) + 1 if part.after in kept else 0
            got = [name for name, _ in part.events]
            assert len(got) == len(set(got)), "twice"
            there = [name for name in got if name in kept]
            assert there == names[start : start + len(there)], "nothing is missing in between"
            if part.gap is None:
                assert (got, part.ended) == (names[start:], True)
            else:
                assert part.gap.requested_event_id not in kept, "what was read last is there, so no gap is due"
