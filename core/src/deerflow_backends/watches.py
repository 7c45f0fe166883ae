"""What a process knows of one watched run: its newest head, and the ring of its newest events."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Final

from deerflow_backends.cursors import PAST_THE_END, Entry, Head, Read
from deerflow_backends.subscription import Subscription

if TYPE_CHECKING:
    from deerflow_backends.hub import Hub

#: Timers fire this much late, so that the store's clock has certainly passed the moment, and never in a tight loop.
_LATE_SECONDS: Final = 0.001


class Watch:
    """One watched run: the newest head known, and the ring of its newest events, contiguous up to the seq `last`.

    `turn` is its place in the rounds in which the hub looks at watched runs.
    """

    def __init__(self, hub: Hub, run_id: str, turn: int) -> None:
        self.run_id, self.turn = run_id, turn
        self.subscriptions: set[weakref.ref[Subscription]] = (
            set()
        )  # iterated for each event: a WeakSet takes thrice as long
        self.head: Head | None = None
        self.ring: dict[int, Entry] = {}
        self.version = 0
        self.failure: BaseException | None = None
        self._hub = hub
        self._ring_bytes = 0
        self.last = PAST_THE_END  # a first read asks for the head alone: the ring begins at the tail
        self._reading: asyncio.Task[Read] | None = None
        self._dirty = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stream(self) -> int | None:
        """The epoch that names the stream now there, None if there is none (or only a trace)."""
        return None if self.head is None or self.head.cleaned else self.head.created

    @property
    def epoch(self) -> int | None:
        """The newest epoch of that stream: what is in the ring is certain to be in the store as of this one."""
        return None if self.head is None else self.head.latest.epoch

    def differs(self, head: Head | None) -> bool:
        """Whether *head*, just looked up, is not what is known here."""
        known = self.head
        if head is None or known is None:
            return head is not known
        return (head.created, head.latest, head.ended, head.cleaned) != (
            known.created,
            known.latest,
            known.ended,
            known.cleaned,
        )

    def wake(self) -> None:
        """Read the store, once more afterwards if a read is under way already."""
        if not self.subscriptions and self.version:
            self._hub.drop(self)
        elif self._reading is not None:
            self._dirty = True
        else:
            options = self._hub.options
            self._reading = self._hub.start_read(self.run_id, self.last, options.max_buffered_events, options.max_bytes)
            self._reading.add_done_callback(self._was_read)

    def feed(self, read: Read) -> None:
        """Absorb what was stored, unless a read is under way, whose answer may be older: then read again."""
        if self._reading is not None:
            self._dirty = True
        elif self._fits(read):
            self._absorb(read)
            if self._is_behind(read):
                self.wake()
        else:
            self.wake()

    def release(self, reference: weakref.ref[Subscription]) -> None:
        """Have a subscriber no more; stop watching if it was the last."""
        self.subscriptions.discard(reference)
        if not self.subscriptions:
            self._hub.drop(self)

    def close(self) -> None:
        """Stop the timer and the read; wake the subscribers, who find themselves closed."""
        self._closed = True
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
        if self._closed:
            return
        if self.failure is not None:
            self._notify()
            return
        read = task.result()
        self._absorb(read)
        if self._dirty or self._is_behind(read):
            self._dirty = False
            self.wake()

    def _is_behind(self, read: Read) -> bool:
        """Whether there was more than was read at once."""
        return bool(read.entries) and read.head is not None and self.last < read.head.latest.seq

    def _fits(self, read: Read) -> bool:
        """Whether nothing is missing between what is known here and what was fed."""
        if read.head is None or read.head.cleaned or not self.version:
            return False
        if self.head is not None and self.head.ended and not read.head.ended:
            return False  # stored before the end that is known here
        first = read.entries[0].id.seq if read.entries else read.head.latest.seq + 1
        if self.stream == read.head.created:
            return first == self.last + 1 and self.epoch == read.head.latest.epoch
        return self.head is None and first == 1

    def _absorb(self, read: Read) -> None:
        head = read.head
        if head is None or head.cleaned:
            self._clear(last=0)  # the next stream will be read from its first event
        elif (self.stream, self.epoch) != (head.created, head.latest.epoch) or head.latest.seq < self.last:
            # Some are lost, or may be, with others in their places: nobody is to get them from here.
            self._clear(last=read.entries[0].id.seq - 1 if read.entries else head.latest.seq)
        self.head = head
        for entry in read.entries:
            if entry.id.seq > self.last:
                self._append(entry)
        if head is not None and head.vanishes_in is not None:
            self._arm(head.vanishes_in)
        self._notify()

    def _append(self, entry: Entry) -> None:
        if entry.id.seq != self.last + 1:
            self._clear(last=entry.id.seq - 1)
        self.ring[entry.id.seq] = entry
        self.last = entry.id.seq
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
        self.last = last

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
        for reference in tuple(self.subscriptions):
            subscription = reference()
            if subscription is not None:
                subscription.wake()
