"""Faults of a stream bridge that only publishers and subscribers at the same time meet: a call waits half-way."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from deerflow_backends.cursors import EventId, Read
from deerflow_backends.errors import BackendUnavailable, StreamEnded
from deerflow_backends.inprocess.streams import InProcessStreamBridge
from deerflow_conformance.mutants import Patched, methods, mutant

_bridge = partial(methods, InProcessStreamBridge)

_publish = InProcessStreamBridge.publish
_publish_many = InProcessStreamBridge.publish_many
_publish_end = InProcessStreamBridge.publish_end
_read = InProcessStreamBridge.read


async def _a_while() -> None:
    """Let others go on."""
    for _ in range(6):
        await asyncio.sleep(0)


@mutant("S1", "stream_bridge", by="all_rivals_see_one_order")
def a_batch_is_stored_in_two_parts() -> Patched:
    """The first event of a batch is stored at once, and the others a moment later."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Sequence[tuple[str, Any]]) -> list[str]:
        if len(events) < 2:
            return await _publish_many(self, run_id, events)
        first = await _publish_many(self, run_id, events[:1])
        await _a_while()
        return first + await _publish_many(self, run_id, events[1:])

    return _bridge(publish_many=publish_many)


@mutant("S1", "stream_bridge", by="all_rivals_see_one_order")
def a_batch_beside_others_has_one_id() -> Patched:
    """Whoever publishes a batch while another does is told the id of its first event alone."""
    batches = 0

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Sequence[tuple[str, Any]]) -> list[str]:
        nonlocal batches
        batches += 1
        try:
            ids = await _publish_many(self, run_id, events)
            await _a_while()
            return ids[:1] if batches > 1 else ids
        finally:
            batches -= 1

    return _bridge(publish_many=publish_many)


@mutant("S1", "stream_bridge", by="all_rivals_see_one_order")
def a_publisher_gives_up_beside_another() -> Patched:
    """Whoever publishes a batch while another does fails as if nobody had answered."""
    batches = 0

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Sequence[tuple[str, Any]]) -> list[str]:
        nonlocal batches
        if batches:
            raise BackendUnavailable("somebody else publishes", maybe_written=False)
        batches += 1
        try:
            await _a_while()
            return await _publish_many(self, run_id, events)
        finally:
            batches -= 1

    return _bridge(publish_many=publish_many)


@mutant("S1", "stream_bridge", by="all_rivals_see_one_order")
def the_epoch_rises_when_a_batch_was_overtaken() -> Patched:
    """A batch that another event overtakes raises the epoch, though nothing was started anew."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Sequence[tuple[str, Any]]) -> list[str]:
        before = self._table.streams.get(run_id)
        seen = before and before.latest
        await _a_while()
        if before is not None and seen is not None and before.latest != seen:
            before.latest = EventId(before.latest.epoch + 1, before.latest.seq)
        return await _publish_many(self, run_id, events)

    return _bridge(publish_many=publish_many)


@mutant("S3", "stream_bridge", by="who_comes_and_goes_misses_nothing")
def what_came_between_two_reads_is_skipped() -> Patched:
    """A read that others overtake gives what it found and the newest event, without what came in between."""

    async def read(self: InProcessStreamBridge, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        found = await _read(self, run_id, after, limit, max_bytes)
        await _a_while()
        newest = await _read(self, run_id, after, limit, max_bytes)
        if found.entries and newest.head is not None and len(newest.entries) > len(found.entries):
            # Of what was published in between it gives only the last one.
            entries = (*found.entries, *newest.entries[-1:])
            return dataclasses.replace(newest, entries=entries)
        return newest

    return _bridge(read=read)


@mutant("S8", "stream_bridge", by="the_end_among_rivals_is_the_end")
def ending_and_publishing_do_not_exclude_each_other() -> Patched:
    """A publisher looks whether the run has ended, and stores its event a moment later."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        stream = self._find(run_id, self._clock())
        if stream is not None and stream.ended:
            raise StreamEnded(f"run {run_id!r} has ended; nothing was stored")
        await _a_while()
        stream = self._find(run_id, self._clock())
        if stream is None or not stream.ended:
            return await _publish(self, run_id, event, data)
        stream.ended = False
        try:
            return await _publish(self, run_id, event, data)
        finally:
            stream.ended = True

    return _bridge(publish=publish)
