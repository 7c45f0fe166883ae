"""The streams' tables: what publishing, ending, cleaning and reading do in a transaction, and when things are due.

What is due by the clock (a scheduled cleanup, expiry) is judged at every look, so it is hidden at once; `sweep` frees
what nobody looks at any more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from deerflow_backends.clocks import MICROSECONDS, Clock, to_datetime
from deerflow_backends.cursors import Entry, EventId, Head, Read
from deerflow_backends.errors import StreamEnded
from deerflow_backends.events import NewEvent
from deerflow_backends.streams import StreamOptions, StreamStatus

#: How many rows one portion of a sweep removes at most.
SWEEP_ROWS: Final = 250

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def incarnation() -> str:
    """Name this run of the host: acknowledged events may be lost when it restarts, so a new one raises the epoch (S2).

    Where the system has no boot id the name is constant, and ``synchronous=FULL`` alone keeps what was acknowledged.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


class Stored(NamedTuple):
    """What a write left: the change's number, the head afterwards, and the entries it added."""

    change: int
    head: Head
    entries: tuple[Entry, ...]


class _Stream(NamedTuple):
    """A row of `heads`: `seq` and `epoch` of the last id, `earliest` the first seq retained (above `seq`: none)."""

    stream: int
    created: int
    epoch: int
    seq: int
    earliest: int
    bytes: int
    ended: int
    cleaned: int
    prior_epoch: int | None
    prior_seq: int | None
    expires_at: int
    cleanup_at: int | None
    incarnation: str

    @property
    def latest(self) -> EventId:
        return EventId(self.epoch, self.seq)

    @property
    def vanishes_at(self) -> int:
        return self.expires_at if self.cleanup_at is None else min(self.expires_at, self.cleanup_at)

    def head(self, now: int, earliest: EventId | None) -> Head:
        prior = None
        if self.prior_epoch is not None and self.prior_seq is not None:
            prior = EventId(self.prior_epoch, self.prior_seq)
        return Head(
            created=self.created,
            latest=self.latest,
            earliest=earliest,
            ended=bool(self.ended),
            cleaned=bool(self.cleaned),
            prior=prior,
            vanishes_in=(self.vanishes_at - now) / MICROSECONDS,
        )


#: A run's stream or trace, due or not.
FIND = """
SELECT stream, created, epoch, seq, earliest, bytes, ended, cleaned, prior_epoch, prior_seq, expires_at, cleanup_at,
       incarnation
  FROM heads WHERE run_id = :run_id
"""

#: The epoch of one event, for its id.
EPOCH = "SELECT epoch FROM events WHERE stream = :stream AND seq = :seq"

#: Every write to a stream has its number, in the order of the commits: what another process has not seen is above.
NEXT_CHANGE = "UPDATE marks SET change = change + 1 RETURNING change"


class StreamTables:
    """The rules of one bridge: its options, its clock, and the host's incarnation. Holds no state."""

    def __init__(self, clock: Clock, options: StreamOptions, incarnation: str) -> None:
        self._clock, self._options, self._incarnation = clock, options, incarnation
        self._ttl = int(options.ttl_seconds * MICROSECONDS)

    def publish(self, connection: sqlite3.Connection, run_id: str, new: Sequence[NewEvent]) -> Stored:
        """Append events, creating the stream if there is none."""
        now = self._clock()
        stream = self._find(connection, run_id, now)
        if stream is None or (stream.cleaned and not stream.ended):
            stream = self._create(connection, run_id, now, stream)
        if stream.ended:
            raise StreamEnded(f"run {run_id!r} has ended; nothing was stored")
        epoch = stream.epoch
        if stream.incarnation != self._incarnation:
            epoch = max(now // 1_000, epoch + 1)
        entries = tuple(
            Entry(EventId(epoch, seq), event, data) for seq, (event, data) in enumerate(new, stream.seq + 1)
        )
        _insert(connection, stream.stream, entries)
        stream = stream._replace(
            epoch=epoch,
            seq=entries[-1].id.seq,
            bytes=stream.bytes + sum(len(entry.data) for entry in entries),
            expires_at=now + self._ttl,
            incarnation=self._incarnation,
        )
        stream = self._trim(connection, stream)
        return self._store(connection, stream, now, entries)

    def end(self, connection: sqlite3.Connection, run_id: str) -> Stored | None:
        """End the run; None if it had ended."""
        now = self._clock()
        stream = self._find(connection, run_id, now) or self._create(connection, run_id, now, None)
        if stream.ended:
            return None
        return self._store(connection, stream._replace(ended=1, expires_at=now + self._ttl), now, ())

    def clean_up(self, connection: sqlite3.Connection, run_id: str, delay_seconds: float) -> Stored | None:
        """Hide all events, now or later; None if there is nothing to hide."""
        now = self._clock()
        stream = self._find(connection, run_id, now)
        if stream is None or stream.cleaned:
            return None
        at = now + int(delay_seconds * MICROSECONDS)
        stream = stream._replace(cleanup_at=at if stream.cleanup_at is None else min(at, stream.cleanup_at))
        return self._store(connection, self._cleaned(connection, stream, now) or stream, now, ())

    def read(self, connection: sqlite3.Connection, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        """Look at a run: its head and events after a seq, at least one if there is any."""
        now = self._clock()
        stream = self._look(connection, run_id, now)
        if stream is None:
            return Read(None)
        head = stream.head(now, _earliest(connection, stream))
        if stream.cleaned or after >= stream.seq:
            return Read(head)
        return Read(head, _entries(connection, stream.stream, max(after + 1, stream.earliest), limit, max_bytes))

    def status(self, connection: sqlite3.Connection, run_id: str) -> StreamStatus | None:
        """Tell about a run's stream; None if there is none, or a trace."""
        stream = self._look(connection, run_id, self._clock())
        if stream is None or stream.cleaned:
            return None
        earliest = _earliest(connection, stream)
        return StreamStatus(
            earliest_id=None if earliest is None else str(earliest),
            latest_id=str(stream.latest),
            length=stream.seq - stream.earliest + 1,
            ended=bool(stream.ended),
            expires_at=to_datetime(stream.vanishes_at),
        )

    def sweep(self, connection: sqlite3.Connection) -> bool:
        """Free some of what is due; True if there is more."""
        now = self._clock()
        due = connection.execute(DUE, {"now": now, "limit": SWEEP_ROWS}).fetchall()
        for (run_id,) in due:
            self._find(connection, run_id, now)
        events = connection.execute(DELETE_DISCARDED_EVENTS, {"limit": SWEEP_ROWS}).rowcount
        connection.execute(FORGET_DISCARDED)
        return SWEEP_ROWS in {len(due), events}

    def _look(self, connection: sqlite3.Connection, run_id: str, now: int) -> _Stream | None:
        """The stream or trace as of *now*, writing nothing."""
        row = connection.execute(FIND, {"run_id": run_id}).fetchone()
        if row is None:
            return None
        stream = _Stream(*row)
        stream = self._if_cleaned(stream, now) or stream
        return stream if stream.expires_at > now else None

    def _find(self, connection: sqlite3.Connection, run_id: str, now: int) -> _Stream | None:
        """The stream or trace as of *now*; what is due is done first."""
        row = connection.execute(FIND, {"run_id": run_id}).fetchone()
        if row is None:
            return None
        stream = _Stream(*row)
        stream = self._cleaned(connection, stream, now) or stream
        if stream.expires_at > now:
            return stream
        _delete(connection, stream)
        return None

    def _if_cleaned(self, stream: _Stream, now: int) -> _Stream | None:
        """The trace that is left if the scheduled cleanup was due before the stream expired."""
        at = stream.cleanup_at
        if at is None or at > min(now, stream.expires_at):
            return None
        return stream._replace(
            bytes=0,
            earliest=stream.seq + 1,
            cleaned=1,
            expires_at=at + self._ttl,
            cleanup_at=None,
        )

    def _cleaned(self, connection: sqlite3.Connection, stream: _Stream, now: int) -> _Stream | None:
        trace = self._if_cleaned(stream, now)
        if trace is not None:
            _discard(connection, stream)
            (change,) = connection.execute(NEXT_CHANGE).fetchone()
            _update(connection, trace, change)
        return trace

    def _create(self, connection: sqlite3.Connection, run_id: str, now: int, trace: _Stream | None) -> _Stream:
        """Make a stream, above every epoch that the run may have had before (S2)."""
        if trace is not None:
            _delete(connection, trace)
        (floor,) = connection.execute(FLOOR_EPOCH).fetchone()
        epoch = max(now // 1_000, floor + 1)
        values: dict[str, Any] = {
            "run_id": run_id,
            "created": epoch,
            "prior_epoch": trace.epoch if trace else None,
            "prior_seq": trace.seq if trace else None,
            "expires_at": now + self._ttl,
            "incarnation": self._incarnation,
        }
        return _Stream(*connection.execute(CREATE, values).fetchone())

    def _trim(self, connection: sqlite3.Connection, stream: _Stream) -> _Stream:
        """Drop the oldest events until exactly what is to be retained is left (S10)."""
        options, earliest, size = self._options, stream.earliest, stream.bytes
        few = stream.seq - earliest < options.max_events
        if few and (size <= options.max_bytes or earliest == stream.seq):
            return stream
        oldest = connection.execute(SIZES, {"stream": stream.stream})
        for (removed,) in oldest:
            size -= removed
            earliest += 1
            few = stream.seq - earliest < options.max_events
            if few and (size <= options.max_bytes or earliest == stream.seq):
                break
        oldest.close()
        connection.execute(TRIM, {"stream": stream.stream, "earliest": earliest})
        return stream._replace(earliest=earliest, bytes=size)

    def _store(self, connection: sqlite3.Connection, stream: _Stream, now: int, entries: tuple[Entry, ...]) -> Stored:
        (change,) = connection.execute(NEXT_CHANGE).fetchone()
        _update(connection, stream, change)
        return Stored(change, stream.head(now, _earliest(connection, stream)), entries)


#: A number of its own for each stream, so that its events are nobody else's.
CREATE = """
INSERT INTO heads (run_id, created, epoch, seq, earliest, bytes, ended, cleaned, prior_epoch, prior_seq, expires_at,
                   cleanup_at, incarnation, change)
VALUES (:run_id, :created, :created, 0, 1, 0, 0, 0, :prior_epoch, :prior_seq, :expires_at, NULL, :incarnation, 0)
RETURNING stream, created, epoch, seq, earliest, bytes, ended, cleaned, prior_epoch, prior_seq, expires_at, cleanup_at,
          incarnation
"""

#: No stream that is gone without a trace had a higher epoch.
FLOOR_EPOCH = "SELECT epoch FROM marks"

UPDATE = """
UPDATE heads SET epoch = :epoch, seq = :seq, earliest = :earliest, bytes = :bytes, ended = :ended, cleaned = :cleaned,
                 expires_at = :expires_at, cleanup_at = :cleanup_at, incarnation = :incarnation, change = :change
 WHERE stream = :stream
"""


def _update(connection: sqlite3.Connection, stream: _Stream, change: int) -> None:
    values = {
        "stream": stream.stream,
        "epoch": stream.epoch,
        "seq": stream.seq,
        "earliest": stream.earliest,
        "bytes": stream.bytes,
        "ended": stream.ended,
        "cleaned": stream.cleaned,
        "expires_at": stream.expires_at,
        "cleanup_at": stream.cleanup_at,
        "incarnation": stream.incarnation,
        "change": change,
    }
    connection.execute(UPDATE, values)


#: The primary key makes sure that no id ever names two events.
INSERT = "INSERT INTO events (stream, seq, epoch, event, data) VALUES (:stream, :seq, :epoch, :event, :data)"


def _insert(connection: sqlite3.Connection, stream: int, entries: Sequence[Entry]) -> None:
    rows = [
        {"stream": stream, "seq": entry.id.seq, "epoch": entry.id.epoch, "event": entry.event, "data": entry.data}
        for entry in entries
    ]
    if len(rows) == 1:
        connection.execute(INSERT, rows[0])
    else:
        connection.executemany(INSERT, rows)


#: The sizes of a stream's events, the oldest first; read as far as is needed.
SIZES = "SELECT length(data) FROM events WHERE stream = :stream ORDER BY seq"

TRIM = "DELETE FROM events WHERE stream = :stream AND seq < :earliest"

#: A stream's events from a seq on; read as far as is needed.
ENTRIES = """
SELECT seq, epoch, event, data FROM events WHERE stream = :stream AND seq >= :first ORDER BY seq LIMIT :limit
"""


def _entries(connection: sqlite3.Connection, stream: int, first: int, limit: int, max_bytes: int) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    size = 0
    rows = connection.execute(ENTRIES, {"stream": stream, "first": first, "limit": limit})
    for seq, epoch, event, data in rows:
        size += len(data)
        if entries and size > max_bytes:
            break
        entries.append(Entry(EventId(epoch, seq), event, data))
    rows.close()
    return tuple(entries)


def _earliest(connection: sqlite3.Connection, stream: _Stream) -> EventId | None:
    if stream.earliest > stream.seq:
        return None
    if stream.epoch == stream.created:
        return EventId(stream.epoch, stream.earliest)
    (epoch,) = connection.execute(EPOCH, {"stream": stream.stream, "seq": stream.earliest}).fetchone()
    return EventId(epoch, stream.earliest)


#: Hides a stream's events, however many, at one stroke; the sweep removes them.
DISCARD = "INSERT INTO discarded (stream) VALUES (:stream)"

DELETE = "DELETE FROM heads WHERE stream = :stream"

#: Remembers the highest epoch of what is removed.
RAISE_FLOOR = "UPDATE marks SET epoch = max(epoch, :epoch)"


def _discard(connection: sqlite3.Connection, stream: _Stream) -> None:
    if stream.earliest <= stream.seq:
        connection.execute(DISCARD, {"stream": stream.stream})


def _delete(connection: sqlite3.Connection, stream: _Stream) -> None:
    _discard(connection, stream)
    connection.execute(DELETE, {"stream": stream.stream})
    connection.execute(RAISE_FLOOR, {"epoch": stream.epoch})


#: Runs whose cleanup or expiry is due, by its index.
DUE = """
SELECT run_id FROM heads WHERE min(expires_at, ifnull(cleanup_at, expires_at)) <= :now LIMIT :limit
"""

#: Some of the events of discarded streams.
DELETE_DISCARDED_EVENTS = """
DELETE FROM events WHERE (stream, seq) IN (
    SELECT e.stream, e.seq FROM discarded d CROSS JOIN events e ON e.stream = d.stream LIMIT :limit
)
"""

#: Discarded streams of which nothing is left.
FORGET_DISCARDED = """
DELETE FROM discarded WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.stream = discarded.stream)
"""
