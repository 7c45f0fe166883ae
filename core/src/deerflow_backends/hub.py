"""Fan-out: one process watches a run once, however many of its clients read it.

For each watched run there is one bounded ring, shared by all local subscribers, each with a place of its own. What a
backend reports is a hint (`Hub.wake`) or carries the events (`Hub.feed`); the truth is what its store answers to a
read. A subscriber attaches first, reads the store from its cursor next, and then accepts an event only if it is the
next one; whatever does not fit makes it read the store again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeAlias

from deerflow_backends.binding import Binding
from deerflow_backends.clocks import MICROSECONDS, Clock
from deerflow_backends.cursors import Entry, Head, Read
from deerflow_backends.errors import BackendsError, BackendUnavailable
from deerflow_backends.streams import StreamOptions
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch

_log = logging.getLogger("deerflow_backends")

#: ``await read(run_id, after_seq, limit, max_bytes)``: one consistent look at a run's store, with at most *limit*
#: events after *after_seq*, and no more than *max_bytes* of their data unless a single one is larger.
ReadStream: TypeAlias = Callable[[str, int, int, int], Awaitable[Read]]

#: ``await look(run_ids)``: the heads of many runs at once, as cheaply as the store can tell them. A head that may be
#: about to change by itself may be given as `cleaned`: what differs from what is known is read.
LookAtHeads: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Head | None]]]

#: Between tries while the backend is unavailable: doubling, with jitter.
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0

#: How often the store's clock is looked at, and what counts as a jump: a host that slept, a clock set anew.
_CLOCK_CHECK_SECONDS: Final = 2.0
_CLOCK_JUMP_SECONDS: Final = 0.5

#: Every watched run is looked at once in so long, a few at a time, in case that its wake-up was lost (S14: 15 s).
_ROUND_SECONDS: Final = 12.0
_STEP_SECONDS: Final = 0.5


class Hub:
    """The watched runs of one stream bridge in one process."""

    def __init__(
        self,
        binding: Binding,
        read: ReadStream,
        options: StreamOptions,
        clock: Clock | None = None,
        *,
        look: LookAtHeads | None = None,
        forget: Callable[[str], None] | None = None,
    ) -> None:
        """Make a hub.

        Args:
            binding: Closed before the hub is.
            read: Asks the store.
            options: Of the bridge.
            clock: The store's clock, if it is this host's: should it jump, every watched run is read again.
            look: Asks the store for many heads, where wake-ups may get lost: what differs is read again.
            forget: Told of each run that is watched no more.
        """
        self.binding = binding
        self.options = options
        self.unavailable = False
        self._read = read
        self._clock = clock
        self._clock_check: asyncio.TimerHandle | None = None
        self._look, self._forget = look, forget
        self._looking: asyncio.Task[None] | None = None
        self._turns = round(_ROUND_SECONDS / _STEP_SECONDS)
        self._next_watch = 0
        self._watches: dict[str, Watch] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def watched(self) -> Collection[str]:
        """The runs that have subscribers here."""
        return self._watches.keys()

    def subscribe(self, run_id: str, *, last_event_id: str | None, heartbeat_interval: float) -> Subscription:
        """Return an iterator that attaches, and checks its arguments, at its first ``__anext__``."""
        return Subscription(self, run_id, last_event_id, heartbeat_interval)

    def position(self, run_id: str) -> int | None:
        """Return the seq after which `feed` continues a watched run, None if nobody watches it.

        The one method that other threads may call, too: by the time it is used it may have changed.
        """
        watch = self._watches.get(run_id)
        return None if watch is None else watch.last

    def wake(self, run_id: str) -> None:
        """Something may have changed in a run: read it again if it is watched."""
        watch = self._watches.get(run_id)
        if watch is not None:
            watch.wake()

    def wake_all(self) -> None:
        """Anything may have changed: read every watched run again."""
        for watch in tuple(self._watches.values()):
            watch.wake()

    def feed(self, run_id: str, head: Head, entries: Sequence[Entry]) -> None:
        """Take what was just stored, with the head as it was afterwards, instead of reading it again."""
        watch = self._watches.get(run_id)
        if watch is not None:
            watch.feed(Read(head, tuple(entries)))

    async def close(self) -> None:
        """End every subscription with `Closed` (the binding is closed before) and leave no task behind."""
        if self._clock_check is not None:
            self._clock_check.cancel()
        for watch in tuple(self._watches.values()):
            watch.close()
        self._watches.clear()
        if self._looking is not None:
            self._looking.cancel()
            self._tasks.add(self._looking)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def attach(self, subscription: Subscription, run_id: str) -> Watch:
        """Note that *subscription* wants to know of changes in a run."""
        watch = self._watches.get(run_id)
        if watch is None:
            watch = self._watches[run_id] = Watch(self, run_id, self._next_watch % self._turns)
            self._next_watch += 1
            watch.wake()
            self._check_clock(None)
            if self._look is not None and self._looking is None:
                self._looking = asyncio.create_task(self._look_around(self._look))
        elif watch.failure is not None:
            watch.failure = None  # it may have been mended since
            watch.wake()
        watch.subscriptions.add(subscription.reference)
        return watch

    def drop(self, watch: Watch) -> None:
        """Forget a run that nobody reads any more."""
        if self._watches.get(watch.run_id) is watch:
            del self._watches[watch.run_id]
            watch.close()
            if self._forget is not None:
                self._forget(watch.run_id)

    def start_read(self, run_id: str, after: int, limit: int, max_bytes: int) -> asyncio.Task[Read]:
        """Read the store in a task of its own, again and again while the backend is unavailable (S16)."""
        task = asyncio.create_task(self._read_until_answered(run_id, after, limit, max_bytes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read_until_answered(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        # Not stamina: a host that switches its retries off must not end subscriptions (S16), and one line an outage
        # is enough in the log, however many subscribers there are.
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                read = await self._read(run_id, after, limit, max_bytes)
            except BackendUnavailable as error:
                if not self.unavailable:
                    self.unavailable = True
                    _log.warning("stream_bridge.unavailable", extra={"error": str(error)})
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                if self.unavailable:
                    self.unavailable = False
                    _log.info("stream_bridge.available")
                return read

    async def _look_around(self, look: LookAtHeads) -> None:
        """While runs are watched, look at a few of them every now and then (S14); the tasks of replicas drift apart."""
        turn = 0
        while self._watches:
            await asyncio.sleep(_STEP_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  # jitter is no secret
            turn, watches = self._next_turn(turn)
            before = [watch.version for watch in watches]
            try:
                heads = await look([watch.run_id for watch in watches]) if watches else ()
            except BackendsError:
                continue  # the reads that are under way say so
            for watch, version, head in zip(watches, before, heads, strict=True):
                if watch.version == version and watch.differs(head):
                    watch.wake()
        self._looking = None

    def _next_turn(self, last: int) -> tuple[int, list[Watch]]:
        """Return the turn after *last* that any watched run has, and whose it is.

        Each run has its place in a round, so however many of the others go away, it waits no longer than that.
        """
        for turn in (*range(last + 1, self._turns), *range(last + 1)):
            watches = [watch for watch in self._watches.values() if watch.turn == turn]
            if watches:
                return turn, watches
        return last, []

    def _check_clock(self, before: float | None) -> None:
        """While runs are watched, see every few seconds whether the store's clock kept pace with our timers (S14)."""
        if self._clock is None or (before is None and self._clock_check is not None):
            return
        self._clock_check = None
        if not self._watches:
            return
        loop = self.binding.loop
        ahead = self._clock() / MICROSECONDS - loop.time()
        if before is not None and abs(ahead - before) > _CLOCK_JUMP_SECONDS:
            self.wake_all()
        self._clock_check = loop.call_later(_CLOCK_CHECK_SECONDS, self._check_clock, ahead)
