"""Faults of a stream bridge that concern what it keeps, and how long: S10."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from deerflow_backends.cursors import Entry, Read
from deerflow_backends.events import NewEvent
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.streams import StreamStatus
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.streams import with_methods

_publish = InProcessStreamBridge._publish
_publish_end = InProcessStreamBridge.publish_end
_append = InProcessStreamBridge._append
_read = InProcessStreamBridge.read
_status = InProcessStreamBridge.status
_find = InProcessStreamBridge._find


@mutant("S10", "stream_bridge", by="the_last_max_events_replay")
def one_event_too_many_is_kept() -> Patched:
    """A stream keeps one event more than max_events."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        oldest = stream.entries[0] if len(stream.entries) == self._options.max_events else None
        entries = _append(self, stream, new)
        if oldest is not None and len(new) == 1 and stream.entries[0].id.seq == oldest.id.seq + 1:
            stream.entries.appendleft(oldest)
            stream.size += len(oldest.data)
        return entries

    return with_methods(_append=append)


@mutant("S10", "stream_bridge", by="the_last_max_events_replay")
def one_event_too_few_is_kept() -> Patched:
    """A stream that is full keeps one event less than max_events."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        entries = _append(self, stream, new)
        if len(stream.entries) == self._options.max_events > 1:
            stream.size -= len(stream.entries.popleft().data)
        return entries

    return with_methods(_append=append)


@mutant("S10", "stream_bridge", by="the_last_max_events_replay")
def a_batch_is_trimmed_with_the_next() -> Patched:
    """What is too much is trimmed when the next event comes."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        kept = list(stream.entries)[-self._options.max_events :]
        entries = _append(self, stream, new)
        stream.entries.clear()
        stream.entries.extend([*kept, *entries])
        stream.size = sum(len(entry.data) for entry in stream.entries)
        return entries

    return with_methods(_append=append)


@mutant("S10", "stream_bridge", by="the_last_max_events_replay")
def the_end_takes_a_place() -> Patched:
    """END counts as an event: a full stream loses its earliest one to it."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        await _publish_end(self, run_id)
        stream = self._table.streams[run_id]
        if len(stream.entries) == self._options.max_events > 1:
            stream.size -= len(stream.entries.popleft().data)

    return with_methods(publish_end=publish_end)


@mutant("S10", "stream_bridge", by="exactly_what_fits_is_retained")
def what_is_too_large_alone_is_dropped() -> Patched:
    """An event that alone exceeds max_bytes is not kept."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        entries = _append(self, stream, new)
        if stream.size > self._options.max_bytes:
            stream.entries.clear()
            stream.size = 0
        return entries

    return with_methods(_append=append)


@mutant("S10", "stream_bridge", by="bytes_count_as_encoded")
def bytes_are_counted_as_characters() -> Patched:
    """max_bytes is compared with the number of characters."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        stream.size -= sum(len(event.data) - len(event.data.decode()) for event in new)
        return _append(self, stream, new)

    return with_methods(_append=append)


@mutant("S10", "stream_bridge", by="bytes_count_as_encoded")
def names_count_as_bytes() -> Patched:
    """max_bytes is compared with the size of data and names."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        stream.size += sum(len(event.event) for event in new)
        return _append(self, stream, new)

    return with_methods(_append=append)


@mutant("S10", "stream_bridge", by="exactly_what_fits_is_retained")
def the_status_counts_every_event() -> Patched:
    """The length that the status tells is that of all events there ever were."""

    async def status(self: InProcessStreamBridge, run_id: str) -> StreamStatus | None:
        found = await _status(self, run_id)
        return found and dataclasses.replace(found, length=self._table.streams[run_id].latest.seq)

    return with_methods(status=status)


@mutant("S10", "stream_bridge", by=("a_stream_expires_whole", "expires_at_moves_with_writes"))
def a_stream_expires_by_its_first_write() -> Patched:
    """Later writes do not keep a stream alive."""

    def publish(self: InProcessStreamBridge, run_id: str, new: Sequence[NewEvent]) -> list[str]:
        before = self._find(run_id, self._clock())
        expires_at = before.expires_at if before is not None and not before.cleaned else None
        ids = _publish(self, run_id, new)
        if expires_at is not None:
            self._table.streams[run_id].expires_at = expires_at
        return ids

    return with_methods(_publish=publish)


@mutant("S10", "stream_bridge", by="a_stream_expires_whole")
def single_events_expire() -> Patched:
    """Each event is gone ttl_seconds after it came."""
    came: dict[tuple[int, int], int] = {}

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        entries = _append(self, stream, new)
        came.update((entry.id, self._clock()) for entry in entries)
        return entries

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = _find(self, run_id, now)
        while stream is not None and stream.entries and came[stream.entries[0].id] + self._ttl <= now:
            stream.size -= len(stream.entries.popleft().data)
        return stream

    return with_methods(_append=append, _find=find)


@mutant("S10", "stream_bridge", by="a_stream_expires_whole")
def a_stream_never_expires() -> Patched:
    """A stream stays, however long nothing is written to it."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = self._table.streams.get(run_id)
        if stream is not None and not stream.cleaned:
            stream.expires_at = max(stream.expires_at, now + 1)
        return _find(self, run_id, now)

    return with_methods(_find=find)


@mutant("S10", "stream_bridge", by="expires_at_moves_with_writes")
def the_end_is_no_write() -> Patched:
    """publish_end does not keep a stream alive."""

    async def publish_end(self: InProcessStreamBridge, run_id: str) -> None:
        stream = self._table.streams.get(run_id)
        expires_at = None if stream is None else stream.expires_at
        await _publish_end(self, run_id)
        if expires_at is not None:
            self._table.streams[run_id].expires_at = expires_at

    return with_methods(publish_end=publish_end)


@mutant("S10", "stream_bridge", by="expires_at_moves_with_writes")
def reading_keeps_a_stream_alive() -> Patched:
    """Who reads a stream keeps it from expiring."""

    async def read(self: InProcessStreamBridge, run_id: str, *rest: int) -> Read:
        now = self._clock()
        stream = self._find(run_id, now)
        if stream is not None:
            stream.expires_at = now + self._ttl
        return await _read(self, run_id, *rest)

    return with_methods(read=read)
