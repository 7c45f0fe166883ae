"""The clients of the demo: each reads one run over SSE and survives the loss of the replica it reads from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx

from deerflow_backends.cli.demo.script import digest
from deerflow_backends.cli.demo.verify import Delivered, Reader
from deerflow_backends.codec import decode


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event; a comment has neither event nor id.

    Attributes:
        event: Its name, empty for a comment.
        data: Its data, not decoded.
        id: None if it bears none.
    """

    event: str
    data: bytes
    id: str | None


def parse_frame(raw: bytes) -> Frame:
    """Read the frame between two blank lines."""
    event, data, event_id = "", b"", None
    for line in raw.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == b"event":
            event = value.decode()
        elif name == b"data":
            data = value
        elif name == b"id":
            event_id = value.decode()
    return Frame(event, data, event_id)


async def frames(response: httpx.Response) -> AsyncIterator[Frame]:
    """Yield whole frames as they arrive; one that the connection's end cut off is not yielded.

    httpx's own lines also end at U+2028 and the like, which JSON allows inside a text.
    """
    rest = b""
    async for chunk in response.aiter_bytes():
        *whole, rest = (rest + chunk).split(b"\n\n")
        for raw in whole:
            yield parse_frame(raw)


@dataclass(slots=True)
class Client:
    """One reader of a run, and what happened to it so far.

    Attributes:
        name: For people.
        pause_seconds: How long it rests after each event, as slow readers do.
        replica: The replica it is connected to, None while it is to none.
        done: It saw the run's end, or a gap.
    """

    name: str
    pause_seconds: float
    replica: str | None = None
    done: bool = False
    delivered: list[Delivered] = field(default_factory=list)
    ends: int = 0
    gaps: int = 0
    reconnect_seconds: list[float] = field(default_factory=list)
    _lost_at: float | None = None

    async def read(self, http: httpx.AsyncClient, run_id: str, replicas: Sequence[tuple[str, str]]) -> None:
        """Read the run to its end: from the first of *replicas*, and whenever a connection is lost from the next.

        Args:
            replicas: ``(name, url)`` of each.
        """
        turn = 0
        while not self.done:
            name, url = replicas[turn % len(replicas)]
            try:
                await self._read_from(http, name, f"{url}/api/runs/{run_id}/stream")
            except httpx.HTTPError:
                await asyncio.sleep(0.01)  # a real client would wait longer before it tries the next one
            self.replica = None
            if self._lost_at is None:
                self._lost_at = time.monotonic()
            turn += 1

    async def _read_from(self, http: httpx.AsyncClient, replica: str, url: str) -> None:
        headers = {"last-event-id": self.delivered[-1].id} if self.delivered else {}
        async with http.stream("GET", url, headers=headers) as response:
            response.raise_for_status()
            self.replica = replica
            async for frame in frames(response):
                if frame.id is not None:
                    self._deliver(frame, frame.id, replica)
                    await asyncio.sleep(self.pause_seconds)
                elif frame.event in {"end", "gap"}:
                    self.ends += frame.event == "end"
                    self.gaps += frame.event == "gap"
                    self.done = True
                    return

    def _deliver(self, frame: Frame, event_id: str, replica: str) -> None:
        if self._lost_at is not None:
            self.reconnect_seconds.append(time.monotonic() - self._lost_at)
            self._lost_at = None
        seen = digest(frame.event, decode(frame.data))
        self.delivered.append(Delivered(event_id, seen, time.time(), replica))

    def reader(self) -> Reader:
        """Return what it went through, to be judged."""
        return Reader(
            self.name, self.delivered, self.ends, self.gaps, self.reconnect_seconds, full_speed=not self.pause_seconds
        )
