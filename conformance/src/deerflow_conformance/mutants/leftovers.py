"""Faults of what a backend goes on storing, in all four capabilities: G11."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest import mock

from deerflow_backends import buckets
from deerflow_backends.changes import Effects
from deerflow_backends.counters import CounterOptions
from deerflow_backends.cursors import Entry, EventId
from deerflow_backends.events import NewEvent
from deerflow_backends.inprocess import connection, counters
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge, _Stream
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_backends.thread_changes import StoredThread
from deerflow_conformance.mutants import Patched, methods, mutant, together

_append = InProcessStreamBridge._append
_find = InProcessStreamBridge._find
_store = InProcessMemoryStore._store
_erase = InProcessMemoryStore.erase
_put = InProcessThreadIndex._put
_delete = InProcessThreadIndex.delete
_record_many = InProcessModelCounters.record_many
_sweep_counters = InProcessModelCounters.sweep
_by_bucket = buckets.by_bucket

_HIDDEN, _FREED, _BOUNDED = "what_expires_is_hidden_at_once", "what_expired_is_freed", "what_is_stored_is_bounded"


@mutant("G11", "stream_bridge", "counters", by=_FREED)
def what_expired_is_kept(backend: type) -> Patched:
    """What has expired is hidden, and stays in memory for ever."""
    return mock.patch.object(backend, "sweep")


@mutant("G11", "stream_bridge", "counters", by=_FREED)
def sweeping_takes_its_time() -> Patched:
    """What has expired is freed after five minutes."""
    keywords = connection.connect.__wrapped__.__kwdefaults__  # type: ignore[attr-defined]  # contextlib's
    return mock.patch.dict(keywords, sweep_seconds=300.0)


@mutant("G11", "stream_bridge", by=_FREED)
def traces_are_kept() -> Patched:
    """What a cleanup leaves stays in memory for ever."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        stream = self._table.streams.get(run_id)
        if stream is not None and stream.cleaned and stream.expires_at <= now:
            return None
        return _find(self, run_id, now)

    return methods(InProcessStreamBridge, _find=find)


@mutant("G11", "stream_bridge", by=_HIDDEN)
def streams_expire_when_swept() -> Patched:
    """A stream whose time is over is there until somebody sweeps."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> _Stream | None:
        return _find(self, run_id, now - 60_000_000)

    return methods(InProcessStreamBridge, _find=find)


@mutant("G11", "stream_bridge", by=_BOUNDED)
def trimmed_events_are_kept() -> Patched:
    """Events that are trimmed stay in memory, under another name."""

    def append(self: InProcessStreamBridge, stream: _Stream, new: Sequence[NewEvent]) -> list[Entry]:
        entries = _append(self, stream, new)
        kept = self._table.streams.setdefault("kept", _Stream(1, EventId(1, 0), 2**62, cleaned=True))
        kept.entries.extend(entries)
        return entries

    return methods(InProcessStreamBridge, _append=append)


@mutant("G11", "memory", by=_FREED)
def what_was_erased_is_kept() -> Patched:
    """An erased user's memory is moved aside instead of being freed."""

    async def erase(self: InProcessMemoryStore, user_id: str | None) -> None:
        user = self._users.get(user_id)
        await _erase(self, user_id)
        if user is not None:
            self._users[f"erased {user_id}"] = user

    return methods(InProcessMemoryStore, erase=erase)


@mutant("G11", "memory", by=_BOUNDED)
def former_values_are_kept() -> Patched:
    """Each value that a fact had is kept beside it."""

    def store(self: InProcessMemoryStore, user_id: Any, effects: Effects, now: int) -> None:
        _store(self, user_id, effects, now)
        for (agent_name, fact_id), fact in effects.facts.items():
            if fact is not None:
                self._users[user_id].facts[agent_name][f"{fact_id} {fact.revision}"] = fact

    return methods(InProcessMemoryStore, _store=store)


@mutant("G11", "thread_index", by=_FREED)
def what_was_deleted_is_kept() -> Patched:
    """A deleted thread is moved aside instead of being freed."""

    async def delete(self: InProcessThreadIndex, thread_id: str, *, user_id: Any) -> bool:
        thread = self._table.threads.get(thread_id)
        gone = await _delete(self, thread_id, user_id=user_id)
        if gone and thread is not None:
            self._table.threads[f"deleted {thread_id}"] = thread
        return gone

    return methods(InProcessThreadIndex, delete=delete)


@mutant("G11", "thread_index", by=_BOUNDED)
def every_place_of_a_thread_is_kept() -> Patched:
    """An index keeps the places where a thread once stood."""

    def put(self: InProcessThreadIndex, thread: StoredThread) -> None:
        _put(self, thread)
        self._table.shelves.setdefault(("former places", None), []).append(thread.order)

    return methods(InProcessThreadIndex, _put=put)


@mutant("G11", "counters", by=_FREED)
def tokens_are_kept() -> Patched:
    """Tokens that are forgotten stay in memory for ever."""

    def sweep(self: InProcessModelCounters) -> None:
        tokens = dict(self._table.tokens)
        _sweep_counters(self)
        self._table.tokens.update(tokens)

    return methods(InProcessModelCounters, sweep=sweep)


@mutant("G11", "counters", by=_BOUNDED)
def every_recording_is_kept() -> Patched:
    """Each recording is kept by itself."""

    async def record_many(self: InProcessModelCounters, counts: Any, *, token: Any = None) -> None:
        await _record_many(self, counts, token=token)
        self._table.tokens[f"recording {len(self._table.tokens)}"] = self._clock() + 10**15

    return methods(InProcessModelCounters, record_many=record_many)


@mutant("G11", "counters", by=_HIDDEN)
def old_buckets_show() -> Patched:
    """A window has every bucket that was not swept yet."""

    def by_bucket(counts: Any, now: int, options: CounterOptions) -> Any:
        return _by_bucket(counts, now, dataclasses.replace(options, keep_buckets=1_000_000))

    return together(
        mock.patch.object(counters, "by_bucket", by_bucket),
        mock.patch.object(counters, "first_of_window", return_value=0),
    )
