"""How heads and events of streams travel: what the scripts write, read. The counterpart of ``lua/stream.lua``."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from deerflow_backends.cursors import Entry, EventId, Head

_HEAD_NUMBERS: Final = 11


class Seen(NamedTuple):
    """A look at a stream: its head, some events, and when it vanishes, in ms since 1970 by the server's clock."""

    head: Head
    entries: tuple[Entry, ...]
    vanishes_at: int


def seen_in(blob: bytes) -> Seen:
    """Read what ``describe`` wrote."""
    start = 4 + int.from_bytes(blob[:4])
    numbers = msgspec.msgpack.decode(blob[4:start])
    created, epoch, seq, earliest_epoch, earliest, ended, cleaned, prior_epoch, prior_seq, vanishes, now = numbers[
        :_HEAD_NUMBERS
    ]
    head = Head(
        created=created,
        latest=EventId(epoch, seq),
        earliest=EventId(earliest_epoch, earliest) if earliest_epoch >= 0 else None,
        ended=ended,
        cleaned=cleaned,
        prior=EventId(prior_epoch, prior_seq) if prior_epoch >= 0 else None,
        vanishes_in=(vanishes - now) / 1_000,
    )
    entries = []
    at = _HEAD_NUMBERS
    while at < len(numbers):
        epoch, seq, count = numbers[at : at + 3]
        at += 3
        for seq_of_one in range(seq, seq + count):
            middle = start + numbers[at]
            end = middle + numbers[at + 1]
            entries.append(Entry(EventId(epoch, seq_of_one), blob[start:middle].decode(), blob[middle:end]))
            start = end
            at += 2
    return Seen(head, tuple(entries), vanishes)


class StoredHead(msgspec.Struct):
    """What a stored head tells, as far as it is needed without the server's clock."""

    created: int
    epoch: int
    seq: int
    ended: bool
    cleanup: int | None = None

    @property
    def latest(self) -> EventId:
        """The last id given."""
        return EventId(self.epoch, self.seq)


_decoder: Final = msgspec.msgpack.Decoder(StoredHead)


def head_in(packed: bytes) -> StoredHead | None:
    """Read a head as it is stored; None if it cannot be read, which a read of the run will say."""
    try:
        return _decoder.decode(packed)
    except msgspec.DecodeError:
        return None
