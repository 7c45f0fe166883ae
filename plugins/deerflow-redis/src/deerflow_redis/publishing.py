"""How writes to streams are gathered and sent: those to one run one after the other, all others beside them.

What is published to a run while an earlier write to it is on the way goes together, in one call of a script. Every call
bears a number of its producer's, and is repeated under it until it was answered: the server does no call twice.
"""

from __future__ import annotations

import asyncio
import copy
import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import msgspec

from deerflow_backends.cursors import EventId
from deerflow_backends.errors import BackendsError, BackendUnavailable, Closed, StreamEnded
from deerflow_backends.events import NewEvent
from deerflow_backends.streams import StreamOptions
from deerflow_redis.commands import Command
from deerflow_redis.connection import Connection
from deerflow_redis.layout import StreamKeys
from deerflow_redis.scripts import script
from deerflow_redis.transport import Lane

#: What goes together in one call at most.
_MOST_EVENTS: Final = 512
_MOST_BYTES: Final = 1024 * 1024

#: A message carries data up to this; of larger events readers are told alone, lest the server cut them off as too slow.
MESSAGE_BYTES: Final = 16 * 1024

#: A call is remembered at the server for this long beyond the time in which it is repeated.
_KEPT_SECONDS: Final = 30.0

#: Of so many runs the last epoch is remembered here, lest a server whose clock is behind gives one a second time.
_KNOWN_EPOCHS: Final = 10_000


@dataclass(slots=True, eq=False)
class _Write:
    """A write to a run: events, its end, or a cleanup.

    Attributes:
        script: Its name.
        timeout_seconds: How long the caller waits.
        asked: What the script is to know, besides what all are told.
        events: To append; none for another script.
        future: Holds what the caller is to get, if the write had to wait for others.
        command: What it is sent in, once it is.
    """

    script: str
    timeout_seconds: float
    asked: Mapping[str, int]
    events: Sequence[NewEvent] = ()
    future: asyncio.Future[Any] | None = None
    command: Command | None = None

    @property
    def size(self) -> int:
        return sum(len(event.data) for event in self.events)


class Publisher:
    """All writes of one bridge; `what` each returns is the script's reply."""

    def __init__(self, connection: Connection, lane: Lane, keys: StreamKeys, options: StreamOptions) -> None:
        self._lane, self._keys = lane, keys
        self._timeout_seconds = connection.timeout_seconds
        self._publish_timeout_seconds = connection.publish_timeout_seconds
        self._where = connection.where
        self._producer = secrets.token_hex(8)
        self._numbers = count(1)
        self._ttl = max(1, int(options.ttl_seconds * 1_000))
        self._limits = {
            "ttl": self._ttl,
            "max_events": options.max_events,
            "max_bytes": options.max_bytes,
            "room": MESSAGE_BYTES,
        }
        self._kept = int((connection.publish_timeout_seconds + _KEPT_SECONDS) * 1_000)
        self._ends = (keys.ends,) if connection.tail == "xread" else ()
        self._command = {"xread": b"", "pubsub": b"SPUBLISH" if connection.topology == "cluster" else b"PUBLISH"}[
            connection.tail
        ]
        self._waiting: dict[str, deque[_Write]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._epochs: OrderedDict[str, int] = OrderedDict()

    async def publish(self, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        """Append events, and return their ids.

        Raises:
            StreamEnded: The run has ended; nothing was stored.
            BackendUnavailable: No answer in time; `maybe_written` tells.
        """
        write = _Write("stream_publish", self._publish_timeout_seconds, self._limits, new)
        epoch, first = await self._do(run_id, write)
        return [str(EventId(epoch, seq)) for seq in range(first, first + len(new))]

    async def end(self, run_id: str) -> None:
        """End a run."""
        await self._do(run_id, _Write("stream_end", self._publish_timeout_seconds, {"ttl": self._ttl}))

    async def clean_up(self, run_id: str, delay_seconds: float) -> None:
        """Hide a run's events, now or later."""
        asked = {"ttl": self._ttl, "delay": math.ceil(delay_seconds * 1_000)}
        await self._do(run_id, _Write("stream_clean", self._timeout_seconds, asked))

    async def close(self, drain_seconds: float) -> None:
        """Let what was accepted be written, if that takes no longer than *drain_seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _do(self, run_id: str, write: _Write) -> Any:
        waiting = self._waiting.get(run_id)
        if waiting is None:
            # Nothing is on the way to this run: no task is needed, and a cancellation ends this write alone.
            waiting = self._waiting[run_id] = deque()
            self._idle.clear()
            try:
                return (await self._send(run_id, [write]))[0]
            finally:
                self._go_on(run_id, waiting)
        write.future = asyncio.get_running_loop().create_future()
        waiting.append(write)
        try:
            async with asyncio.timeout(write.timeout_seconds):
                return await write.future
        except TimeoutError:
            raise self._given_up(write, "no answer in time") from None

    def _given_up(self, write: _Write, why: str) -> BackendUnavailable:
        """Say what may have become of a write that waited for others."""
        if write.command is None or not write.command.sent:
            return BackendUnavailable(f"{self._where}: {why}; this write was not sent")
        return BackendUnavailable(f"{self._where}: {why}; the write may have happened", maybe_written=True)

    def _go_on(self, run_id: str, waiting: deque[_Write]) -> None:
        if not waiting:
            self._forget(run_id)
            return
        task = asyncio.create_task(self._send_waiting(waiting, run_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._end_waiting(run_id, waiting))

    def _forget(self, run_id: str) -> None:
        del self._waiting[run_id]
        if not self._waiting:
            self._idle.set()

    def _end_waiting(self, run_id: str, waiting: deque[_Write]) -> None:
        """See to it that nobody waits for a task that was cancelled, before it began even."""
        if self._waiting.get(run_id) is not waiting:
            return
        self._forget(run_id)
        for write in waiting:
            _resolve([write], [Closed("the bridge was closed before this was written")])

    async def _send_waiting(self, waiting: deque[_Write], run_id: str) -> None:
        while together := _next_together(waiting):
            try:
                results: Sequence[Any] = await self._send(run_id, together)
            except BackendsError as error:
                results = [copy.copy(error) for _ in together]
            except asyncio.CancelledError:
                _resolve(together, [self._given_up(write, "the bridge was closed") for write in together])
                raise
            _resolve(together, results)
        self._forget(run_id)

    async def _send(self, run_id: str, together: Sequence[_Write]) -> list[Any]:
        """Do what goes in one call of a script, and return what each write has for its caller."""
        first = together[0]
        names = self._keys.of(run_id)
        keys: tuple[bytes, ...] = names.keys
        asked = {"producer": self._producer, "number": next(self._numbers), "kept": self._kept, **first.asked}
        if first.script != "stream_clean":
            asked["lowest"] = self._epochs.get(run_id, 0) + 1
        if first.script != "stream_publish":
            keys += self._ends
        events = [part for write in together for event in write.events for part in (event.event.encode(), event.data)]
        command = Command(
            (msgspec.msgpack.encode(asked), self._command, names.channel, *events),
            script=script(first.script),
            keys=keys,
            write=True,
            repeatable=True,
            stamped=True,
        )
        for write in together:
            write.command = command
        seconds = max(write.timeout_seconds for write in together)
        reply = await self._lane.send(command, timeout_seconds=seconds)
        if reply == b"ENDED":
            raise StreamEnded(f"run {run_id!r} has ended; nothing was stored")
        if reply == b"STALE":  # a later write to this run was done, which had waited for this one
            raise BackendUnavailable(f"{self._where}: the write was overtaken", maybe_written=True)
        return self._ids(run_id, together, reply) if first.script == "stream_publish" else [reply]

    def _ids(self, run_id: str, together: Sequence[_Write], reply: Any) -> list[tuple[int, int]]:
        epoch, seq = int(reply[0]), int(reply[1])
        self._epochs[run_id] = max(epoch, self._epochs.pop(run_id, 0))
        if len(self._epochs) > _KNOWN_EPOCHS:
            self._epochs.popitem(last=False)
        firsts = []
        for write in together:
            firsts.append((epoch, seq))
            seq += len(write.events)
        return firsts


def _next_together(waiting: deque[_Write]) -> list[_Write]:
    """Take what goes in one call: events that fit, or one other write; of those given up nothing."""
    together: list[_Write] = []
    events = size = 0
    while waiting:
        write = waiting[0]
        if write.future is not None and write.future.done():
            waiting.popleft()
            continue
        events, size = events + len(write.events), size + write.size
        if together and (not write.events or events > _MOST_EVENTS or size > _MOST_BYTES):
            break
        together.append(waiting.popleft())
        if not write.events:
            break
    return together


def _resolve(writes: Sequence[_Write], results: Sequence[Any]) -> None:
    for write, result in zip(writes, results, strict=False):
        if write.future is None or write.future.done():
            continue
        if isinstance(result, Exception):
            write.future.set_exception(result)
        else:
            write.future.set_result(result)
