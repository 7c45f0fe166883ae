"""One subscriber's iterator over a watched run."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from deerflow_backends.arguments import check_identifier, check_seconds
from deerflow_backends.codec import decode
from deerflow_backends.cursors import PAST_THE_END, End, Entry, Place, Read
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamItem

if TYPE_CHECKING:
    from deerflow_backends.hub import Hub
    from deerflow_backends.watches import Watch

#: What a subscriber that is not served from the ring reads of the store at once: all that it holds of its own (S12).
READ_EVENTS: Final = 256
READ_BYTES: Final = 256 * 1024


class Subscription:
    """One subscriber's iterator. Unlike a generator, it survives the cancellation of ``__anext__``."""

    def __init__(self, hub: Hub, run_id: str, last_event_id: str | None, heartbeat_interval: float) -> None:
        self.reference = weakref.ref(self)
        self._hub = hub
        self._arguments = (run_id, last_event_id, heartbeat_interval)
        self._watch: Watch | None = None
        self._place = Place(None)
        self._queue: deque[Entry] = deque()  # read from the store, since the ring is past it
        self._reading: asyncio.Task[Read] | None = None
        self._seen_version = -1  # of the watch, when the last read was asked for
        self._behind = True
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
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
            if self._place.settled:
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
                self._hub.binding.loop.call_soon_threadsafe(self._watch.release, self.reference)
                if self._reading is not None:
                    self._hub.binding.loop.call_soon_threadsafe(self._reading.cancel)

    async def _next(self) -> StreamItem:
        watch = self._watch or self._begin()
        item = self._take(watch)
        return await self._wait(watch) if item is None else item

    async def _wait(self, watch: Watch) -> StreamItem:
        """Return what comes next; nothing is at hand."""
        loop = self._hub.binding.loop
        interval = self._arguments[2]
        self._deadline = loop.time() + interval
        item: StreamItem | None = None
        while item is None:
            self._waiter = loop.create_future()
            if self._timer is None or self._timer.when() > self._deadline:
                self._set_timer()
            try:
                await self._waiter
            finally:
                self._waiter = None
            if self._finished:
                raise StopAsyncIteration  # closed by another task
            if self._hub.binding.closed:
                self._hub.binding.check()
            item = self._take(watch)
            if item is None and loop.time() >= self._deadline:
                if self._place.settled or self._hub.unavailable:
                    return HEARTBEAT_SENTINEL
                self._deadline = loop.time() + interval
        return item

    def _set_timer(self) -> None:
        """Have the wait end at its deadline. A timer that fires too early is set anew: cheaper than one each event."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._hub.binding.loop.call_at(self._deadline, _end_wait_weakly, self.reference)

    def end_wait(self) -> None:
        """Wake up if the deadline has come."""
        self._timer = None
        if self._waiter is None:
            return
        if self._hub.binding.loop.time() < self._deadline:
            self._set_timer()
        else:
            self.wake()

    def _begin(self) -> Watch:
        run_id, last_event_id, heartbeat_interval = self._arguments
        check_identifier("run_id", run_id)
        if last_event_id is not None and not isinstance(last_event_id, str):
            raise InvalidArgument("last_event_id", f"must be a str or None, not {type(last_event_id).__name__}")
        check_seconds("heartbeat_interval", heartbeat_interval)
        self._place = Place(last_event_id)
        self._watch = self._hub.attach(self, run_id)
        return self._watch

    def _take(self, watch: Watch) -> StreamItem | None:
        """Return what comes next if it is known, else see to it that `wake` will be called when it is."""
        place = self._place
        while True:
            if self._queue and self._seen_version != watch.version and watch.stream != place.created:
                self._queue.clear()  # the stream was cleaned or replaced since they were read
                self._behind = True
            if self._queue:
                return self._deliver(self._queue.popleft())
            head = watch.head
            here = (place.created, place.epoch)
            if head is not None and not head.cleaned and (head.created, head.latest.epoch) == here:
                entry = watch.ring.get(place.seq + 1)
                if entry is not None:
                    self._stop_reading()  # it may be of a moment when this event was not there yet
                    return self._deliver(entry)
                if place.seq == head.latest.seq and self._reading is None and not head.ended and watch.failure is None:
                    self._seen_version, self._behind = watch.version, False  # it has all that there is
                    return None
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

    def _has_news(self, watch: Watch) -> bool:
        return self._behind or self._seen_version != watch.version

    def _known(self, watch: Watch) -> Read | None:
        """What the watch alone can tell this subscriber: nothing new, END, or how a stream that it waited for begins.

        None if the store must be asked.
        """
        head, place = watch.head, self._place
        known: Read | None
        if head is None:
            known = Read(None) if place.waiting and watch.version else None
        elif head.cleaned:
            known = None
        elif place.created is None:
            first = watch.ring.get(1)
            known = None if place.fresh or first is None else Read(head, (first,))
        else:
            here = (place.created, place.epoch, place.seq)
            known = Read(head) if here == (head.created, head.latest.epoch, head.latest.seq) else None
        if known is not None:
            self._seen_version, self._behind = watch.version, False
        return known

    def _start_reading(self, watch: Watch) -> None:
        self._seen_version = watch.version
        self._behind = False
        after = self._place.read_after()
        limit = 0 if after == PAST_THE_END else READ_EVENTS
        self._reading = self._hub.start_read(watch.run_id, after, limit, READ_BYTES)
        self._reading.add_done_callback(functools.partial(_wake_weakly, self.reference))

    def _judge(self, read: Read) -> StreamItem | None:
        place, head = self._place, read.head
        entries, finish = place.step(read)
        self._queue.extend(entries)
        if finish is not None:
            self._finish()
            return END_SENTINEL if isinstance(finish, End) else finish
        if not entries and head is not None and not head.cleaned:
            # Not where the events begin yet, or in no stream while there is one: read again at once.
            self._behind = place.created is None or place.in_doubt or place.seq < head.latest.seq
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
        if self._timer is not None:
            self._timer.cancel()
        self.wake()
        self._stop_reading()
        self._queue.clear()
        if self._watch is not None:
            self._watch.release(self.reference)


def _end_wait_weakly(subscription: weakref.ref[Subscription]) -> None:
    """End a wait at its deadline; the timer must not keep an abandoned subscriber alive."""
    alive = subscription()
    if alive is not None:
        alive.end_wait()


def _wake_weakly(subscription: weakref.ref[Subscription], task: asyncio.Task[Read]) -> None:
    """Wake a subscriber that still exists: a read under way must not keep an abandoned one alive."""
    if not task.cancelled():
        task.exception()  # seen, even if nobody is left to raise it to
    alive = subscription()
    if alive is not None:
        alive.wake()
