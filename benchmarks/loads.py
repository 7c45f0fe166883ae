"""An open-loop load: events arrive by a schedule that does not wait for answers, as those of independent runs do.

A driver that waits for each answer goes easy on whatever is slow: in a stall it stops asking, and the stall is one bad
sample. Here every event has its time, drawn beforehand; latency counts from that time, whenever it was really sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals import Bridge

#: About what a model's token looks like on its way to a browser.
TEXT = "a token of some model, with what usually goes along " * 2


def payload(at: float) -> dict[str, Any]:
    """Return the data of an event that was due at *at* (`time.monotonic`, the same in all processes of a host)."""
    return {"type": "AIMessageChunk", "content": TEXT, "at": at}


@dataclass(frozen=True, slots=True)
class Load:
    """What to publish.

    Attributes:
        runs: Each event goes to one of them, drawn at random.
        count: How many events.
        per_second: How many a second on average; the pauses between them are random (a Poisson process).
        seed: The same seed draws the same load.
    """

    runs: tuple[str, ...]
    count: int
    per_second: float
    seed: int = 0

    def arrivals(self, start: float) -> Iterator[tuple[float, str]]:
        """Give time and run of each event, in order."""
        source = random.Random(self.seed)  # noqa: S311  # a schedule is no secret
        at = start
        for _ in range(self.count):
            at += source.expovariate(self.per_second)
            yield at, source.choice(self.runs)


async def offer(bridge: Bridge, load: Load, start: float) -> float:
    """Publish each event of *load* at its time, and return when all are answered.

    A thread keeps the time, more exactly than an event loop's timers and whatever the loop is busy with.

    Returns:
        The CPU seconds of that thread: they are the driver's, not the backend's.
    """
    loop = asyncio.get_running_loop()
    published: list[asyncio.Task[str]] = []

    def publish(at: float, run_id: str) -> None:
        published.append(loop.create_task(bridge.publish(run_id, "messages", payload(at))))

    def drive() -> float:
        begun = time.thread_time()
        for at, run_id in load.arrivals(start):
            time.sleep(max(0.0, at - time.monotonic()))
            loop.call_soon_threadsafe(publish, at, run_id)
        return time.thread_time() - begun

    seconds = await asyncio.to_thread(drive)
    await asyncio.gather(*published)
    return seconds
