"""Fan-out: one process watches a run once, however many of its clients read it.

For each watched run there is one bounded ring, shared by all local subscribers, each with a place of its own. What a
backend reports is a hint (`Hub.wake`) or carries the events (`Hub.feed`); the truth is what its store answers to a
read. A subscriber attaches first, reads the store from its cursor next, and then accepts an event only if it is the
next one; whatever does not fit makes it read the store again.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import stamina

from deerflow_backends.arguments import check_identifier, check_seconds
from deerflow_backends.binding import Binding
from deerflow_backends.codec import decode
from deerflow_backends.cursors import PAST_THE_END, End, Entry, Head, Place, Read
from deerflow_backends.errors import BackendUnavailable, InvalidArgument
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamEvent,
    StreamItem,
    StreamOptions,
)

#: ``await read(run_id, after_seq, limit, max_bytes)``: one consistent look at a run's store, with at most *limit*
#: events after *after_seq*, and no more than *max_bytes* of their data unless a single one is larger.
ReadStream: TypeAlias = Callable[[str, int, int, int], Awaitable[Read]]

#: What a subscriber that fell behind the ring reads at once.
READ_EVENTS: Final = 256
READ_BYTES: Final = 1024 * 1024

#: Timers fire this much late, so that the store's clock has certainly passed the moment, and never in a tight loop.
_LATE_SECONDS: Final = 0.001


_retrying = stamina.AsyncRetryingCaller(
    attempts=None, timeout=None, wait_initial=0.1, wait_max=2.0, wait_jitter=0.5
).on(BackendUnavailable)


class Hub:
    """The watched runs of one stream bridge in one process."""

    def __init__(self, binding: Binding, read: ReadStream, options: StreamOptions) -> None:
        self.binding = binding
        self.options = options
        self._read = read
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def watched(self) -> Collection[str]:
        """The runs that have subscribers here."""
        return self._watches.keys()

    def subscribe(self, run_id: str, *, last_event_id: str | None, heartbeat_interval: float) -> Subscription:
        """Return an iterator that attaches, and checks its arguments, at its first ``__anext__``."""
        return Subscription(self, run_id, last_event_id, heartbeat_interval)

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
        for watch in tuple(self._watches.values()):
            watch.close()
        self._watches.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def attach(self, subscription: Subscription, run_id: str) -> _Watch:
        """Note that *subscription* wants to know of changes in a run."""
        watch = self._watches.get(run_id)
        if watch is None:
            watch = self._watches[run_id] = _Watch(self, run_id)
            watch.wake()
        watch.subscriptions.add(subscription)
        return watch

    def drop(self, watch: _Watch) -> None:
        """Forget a run that nobody reads any more."""
        if self._watches.get(watch.run_id) is watch:
            del self._watches[watch.run_id]
            watch.close()

    def start_read(self, run_id: str, after: int, limit: int, max_bytes: int) -> asyncio.Task[Read]:
        """Read the store in a task of its own, again and again while the backend is unavailable (S16)."""
        task = asyncio.create_task(self._read_until_answered(run_id, after, limit, max_bytes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read_until_answered(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        with suppress(BackendUnavailable):  # the usual case, without the price of setting up retries
            return await self._read(run_id, after, limit, max_bytes)
        return await _retrying(self._read, run_id, after, limit, max_bytes)


class _Watch:
    """One watched run: the newest head known, and the ring of its newest events, contiguous up to `last`."""

    def __init__(self, hub: Hub, run_id: str) -> None:
        self.run_id = run_id
        self.subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self.head: Head | None = None
        self.ring: dict[int, Entry] = {}
        self.version = 0
        self.failure: BaseException | None = None
        self._hub = hub
        self._ring_bytes = 0
        self._last = PAST_THE_END  # a first read asks for the head alone: the ring begins at the tail
        self._reading: asyncio.Task[Read] | None = None
        self._dirty = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stream(self) -> int | None:
        """The epoch that names the stream now there, None if there is none (or only a trace)."""
        return None if self.head is None or self.head.cleaned else self.head.created

    def wake(self) -> None:
        """Read the store, once more afterwards if a read is under way already."""
        if not self.subscriptions and self.version:
            self._hub.drop(self)
        elif self._reading is not None:
            self._dirty = True
        else:
            options = self._hub.options
            self._reading = self._hub.start_read(
                self.run_id, self._last, options.max_buffered_events, options.max_bytes
            )
            self._reading.add_done_callback(self._was_read)

    def feed(self, read: Read) -> None:
        """Absorb what was stored, unless a read is under way, whose answer may be older: then read again."""
        if self._reading is not None:
            self._dirty = True
        elif self._fits(read):
            self._absorb(read)
        else:
            self.wake()

    def prune(self) -> None:
        """Stop watching if the last subscriber is gone."""
        if not self.subscriptions:
            self._hub.drop(self)

    def close(self) -> None:
        """Stop the timer and the read; wake the subscribers, who find themselves closed."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        self._notify()

    def _was_read(self, task: asyncio.Task[Read]) -> None:
        self._reading = None
        if task.cancelled():
            return
        self.failure = task.exception()
        if self.failure is not None:
            self._notify()
            return
        read = task.result()
        self._absorb(read)
        behind = bool(read.entries) and read.head is not None and self._last < read.head.latest.seq
        if self._dirty or behind:
            self._dirty = False
            self.wake()

    def _fits(self, read: Read) -> bool:
        """Whether nothing is missing between what is known here and what was fed."""
        if read.head is None or read.head.cleaned or not self.version:
            return False
        first = read.entries[0].id.seq if read.entries else read.head.latest.seq + 1
        if self.stream == read.head.created:
            return first == self._last + 1
        return self.head is None and first == 1

    def _absorb(self, read: Read) -> None:
        head = read.head
        if head is None or head.cleaned:
            self._clear(last=0)  # the next stream will be read from its first event
        elif self.stream != head.created:
            self._clear(last=read.entries[0].id.seq - 1 if read.entries else head.latest.seq)
        self.head = head
        for entry in read.entries:
            if entry.id.seq > self._last:
                self._append(entry)
        if head is not None and head.vanishes_in is not None:
            self._arm(head.vanishes_in)
        self._notify()

    def _append(self, entry: Entry) -> None:
        if entry.id.seq != self._last + 1:
            self._clear(last=entry.id.seq - 1)
        self.ring[entry.id.seq] = entry
        self._last = entry.id.seq
        self._ring_bytes += len(entry.data)
        options = self._hub.options
        while len(self.ring) > options.max_buffered_events or (
            self._ring_bytes > options.max_bytes and len(self.ring) > 1
        ):
            oldest = next(iter(self.ring))
            self._ring_bytes -= len(self.ring.pop(oldest).data)

    def _clear(self, *, last: int) -> None:
        self.ring.clear()
        self._ring_bytes = 0
        self._last = last

    def _arm(self, vanishes_in: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + vanishes_in + _LATE_SECONDS
        if self._timer is not None:
            if self._timer.when() <= when:
                return  # it fires earlier, reads again, and arms anew
            self._timer.cancel()
        self._timer = loop.call_at(when, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.wake()

    def _notify(self) -> None:
        self.version += 1
        for subscription in tuple(self.subscriptions):
            subscription.wake()


class Subscription:
    """One subscriber's iterator. Unlike a generator, it survives the cancellation of ``__anext__``."""

    def __init__(self, hub: Hub, run_id: str, last_event_id: str | None, heartbeat_interval: float) -> None:
        self._hub = hub
        self._arguments = (run_id, last_event_id, heartbeat_interval)
        self._watch: _Watch | None = None
        self._place = Place(None)
        self._queue: deque[Entry] = deque()  # read from the store, since the ring is past it
        self._reading: asyncio.Task[Read] | None = None
        self._seen_version = -1  # of the watch, when the last read was asked for
        self._behind = True
        self._waiter: asyncio.Future[None] | None = None
        self._active = False
        self._finished = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> StreamItem:
        if self._finished:
            raise StopAsyncIteration
        self._hub.binding.check()
        if self._active:
            raise RuntimeError("another task is already waiting in this subscription")
        self._active = True
        try:
            return await self._next()
        except asyncio.CancelledError:
            self._stop_reading()
            raise
        except BaseException:
            self._finish()
            raise
        finally:
            self._active = False

    async def aclose(self) -> None:
        """Finish: give back what the subscription holds. Further items are not given."""
        self._finish()

    def wake(self) -> None:
        """Look again: the watch has news, or the read is done."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __del__(self) -> None:
        if self._watch is not None and not self._finished:
            with suppress(RuntimeError):  # the loop is closed, and the watch with it
                self._hub.binding.loop.call_soon_threadsafe(self._watch.prune)

    async def _next(self) -> StreamItem:
        loop = asyncio.get_running_loop()
        watch = self._watch or self._begin()
        deadline = loop.time() + self._arguments[2]
        item = self._take(watch)
        while item is None:
            self._waiter = loop.create_future()
            timer = loop.call_at(deadline, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            self._hub.binding.check()
            item = self._take(watch)
            if item is None and loop.time() >= deadline:
                return HEARTBEAT_SENTINEL
        return item

    def _begin(self) -> _Watch:
        run_id, last_event_id, heartbeat_interval = self._arguments
        check_identifier("run_id", run_id)
        if last_event_id is not None and not isinstance(last_event_id, str):
            raise InvalidArgument("last_event_id", f"must be a str or None, not {type(last_event_id).__name__}")
        check_seconds("heartbeat_interval", heartbeat_interval)
        self._place = Place(last_event_id)
        self._watch = self._hub.attach(self, run_id)
        return self._watch

    def _take(self, watch: _Watch) -> StreamItem | None:
        """Return what comes next if it is known, else see to it that `wake` will be called when it is."""
        place = self._place
        while True:
            if self._queue and self._seen_version != watch.version and watch.stream != place.created:
                self._queue.clear()  # the stream was cleaned or replaced since they were read
                self._behind = True
            if self._queue:
                return self._deliver(self._queue.popleft())
            if place.created is not None and watch.stream == place.created:
                entry = watch.ring.get(place.seq + 1)
                if entry is not None:
                    return self._deliver(entry)
            if self._reading is not None:
                if not self._reading.done():
                    return None
                read, self._reading = self._reading.result(), None
            elif watch.failure is not None:
                raise watch.failure
            elif not self._has_news(watch):
                return None
            else:
                known = self._known(watch)
                if known is None:
                    self._start_reading(watch)
                    return None
                read = known
            outcome = self._judge(read)
            if outcome is not None:
                return outcome

    def _has_news(self, watch: _Watch) -> bool:
        return self._behind or self._seen_version != watch.version

    def _known(self, watch: _Watch) -> Read | None:
        """What the watch alone can tell this subscriber: nothing new, END, or how a stream that it waited for begins.

        None if the store must be asked.
        """
        head, place = watch.head, self._place
        if head is None or head.cleaned:
            return None
        if place.created is None:
            first = watch.ring.get(1)
            known = None if place.fresh or first is None else Read(head, (first,))
        else:
            known = Read(head) if (place.created, place.seq) == (head.created, head.latest.seq) else None
        if known is not None:
            self._seen_version, self._behind = watch.version, False
        return known

    def _start_reading(self, watch: _Watch) -> None:
        self._seen_version = watch.version
        self._behind = False
        after = self._place.read_after()
        limit = 0 if after == PAST_THE_END else READ_EVENTS
        self._reading = self._hub.start_read(watch.run_id, after, limit, READ_BYTES)
        self._reading.add_done_callback(functools.partial(_wake_weakly, weakref.ref(self)))

    def _judge(self, read: Read) -> StreamItem | None:
        place, head = self._place, read.head
        entries, finish = place.step(read)
        self._queue.extend(entries)
        if finish is not None:
            self._finish()
            return END_SENTINEL if isinstance(finish, End) else finish
        if not entries and head is not None and not head.cleaned:
            # Not where the events begin yet, or in no stream while there is one: read again at once.
            self._behind = place.created is None or place.seq < head.latest.seq
        return None

    def _deliver(self, entry: Entry) -> StreamEvent:
        event = StreamEvent(str(entry.id), entry.event, decode(entry.data))
        self._place.delivered(entry)
        self._behind = True
        return event

    def _stop_reading(self) -> None:
        """Drop a read under way; the next ``__anext__`` starts it again."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._behind = True

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._stop_reading()
        self._queue.clear()
        if self._watch is not None:
            self._watch.subscriptions.discard(self)
            self._watch.prune()


def _wake_weakly(subscription: weakref.ref[Subscription], task: asyncio.Task[Read]) -> None:
    """Wake a subscriber that still exists: a read under way must not keep an abandoned one alive."""
    if not task.cancelled():
        task.exception()  # seen, even if nobody is left to raise it to
    alive = subscription()
    if alive is not None:
        alive.wake()
