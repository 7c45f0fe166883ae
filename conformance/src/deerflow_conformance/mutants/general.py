"""Faults against what holds for all four capabilities."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import unicodedata
from contextlib import AbstractContextManager
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

from deerflow_backends import codec, subscription
from deerflow_backends.binding import Binding
from deerflow_backends.clocks import to_datetime
from deerflow_backends.counters import Counts
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess import streams
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_conformance.mutants import mutant

Patched = AbstractContextManager[Any]

_find = InProcessStreamBridge._find
_create = InProcessStreamBridge._create
_publish = InProcessStreamBridge.publish
_user = InProcessMemoryStore._user
_store = InProcessMemoryStore._store
_erase = InProcessMemoryStore.erase
_reset = InProcessModelCounters.reset
_totals = InProcessModelCounters.totals
_hub_close = Hub.close
_decode = codec.decode


@mutant("G1", "stream_bridge", by="no_two_identifiers_collide")
def run_ids_are_case_folded() -> Patched:
    """Runs whose ids differ only by case are one."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> Any:
        return _find(self, run_id.casefold(), now)

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: Any) -> Any:
        return _create(self, run_id.casefold(), now, trace)

    return mock.patch.multiple(InProcessStreamBridge, _find=find, _create=create)


@mutant("G1", "memory", by="no_two_identifiers_collide")
def user_ids_are_normalised() -> Patched:
    """Users whose ids differ only by normal form are one."""

    def normal(user_id: str | None) -> str | None:
        return user_id and unicodedata.normalize("NFC", user_id)

    def user(self: InProcessMemoryStore, user_id: str | None) -> Any:
        return _user(self, normal(user_id))

    def store(self: InProcessMemoryStore, user_id: str | None, *rest: Any) -> None:
        _store(self, normal(user_id), *rest)

    return mock.patch.multiple(InProcessMemoryStore, _user=user, _store=store)


@mutant("G2", "stream_bridge", by="what_is_no_json_is_refused_by_place")
def nan_becomes_null() -> Patched:
    """NaN and the infinities are taken, and come back as null."""
    return mock.patch.object(codec, "math", SimpleNamespace(isfinite=lambda value: True))


@mutant("G2", "stream_bridge", by="values_are_the_callers_own")
def subscribers_share_one_value() -> Patched:
    """All subscribers get one and the same object."""
    return mock.patch.object(subscription, "decode", functools.lru_cache(_decode))


@mutant("G2", "memory", by=("odd_values_come_back_as_they_were", "any_value_comes_back_as_it_was"))
def whole_floats_become_integers() -> Patched:
    """1.0 comes back as 1."""

    def whole(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return int(value)
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else value

    return mock.patch.object(codec, "decode", lambda data: whole(_decode(data)))


@mutant("G3", "stream_bridge", by="a_value_may_have_8_mib")
def text_is_cut_at_64_kib() -> Patched:
    """Text is cut after 65,536 characters."""

    def cut(data: bytes) -> Any:
        value = _decode(data)
        return {key: item[:65_536] for key, item in value.items()} if isinstance(value, dict) else value

    return mock.patch.object(subscription, "decode", cut)


@mutant("G4", "counters", by="removing_one_leaves_the_others")
def reset_goes_by_prefix() -> Patched:
    """Resetting a model resets every model whose name begins with its name."""

    async def reset(self: InProcessModelCounters, model_name: str) -> None:
        for name in await self.all_totals():
            if name.startswith(model_name):
                await _reset(self, name)

    return mock.patch.object(InProcessModelCounters, "reset", reset)


@mutant("G6", "counters", by="a_write_is_seen_by_the_next_read_anywhere")
def totals_are_remembered() -> Patched:
    """An instance shows the totals that it saw first."""
    seen: dict[tuple[int, str], Counts] = {}

    async def totals(self: InProcessModelCounters, model_name: str) -> Counts:
        key = (id(self), model_name)
        if key not in seen:
            seen[key] = await _totals(self, model_name)
        return seen[key]

    return mock.patch.object(InProcessModelCounters, "totals", totals)


@mutant(
    "G8", "stream_bridge", by=("a_cancelled_call_leaves_the_object_usable", "a_crowd_of_cancelled_calls_starves_nobody")
)
def a_lock_is_kept_after_cancelling() -> Patched:
    """A publish that is cancelled while it holds the lock never gives it back."""
    locks: dict[InProcessStreamBridge, asyncio.Lock] = {}

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        lock = locks.setdefault(self, asyncio.Lock())
        await lock.acquire()
        await asyncio.sleep(0)
        try:
            return await _publish(self, run_id, event, data)
        finally:
            lock.release()

    return mock.patch.object(InProcessStreamBridge, "publish", publish)


@mutant("G8", "stream_bridge", by="cancelling_ends_a_call")
def a_cancellation_is_swallowed() -> Patched:
    """A publish that is cancelled while it waits goes on as if nothing had been."""

    async def publish(self: InProcessStreamBridge, run_id: str, event: str, data: Any) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)
        return await _publish(self, run_id, event, data)

    return mock.patch.object(InProcessStreamBridge, "publish", publish)


@mutant("G9", "stream_bridge", by="nothing_outlives_the_context")
def a_task_is_left_after_closing() -> Patched:
    """Closing starts a task that goes on."""
    left: list[Any] = []

    async def close(self: Hub) -> None:
        await _hub_close(self)
        left.append(asyncio.create_task(asyncio.sleep(3_600)))

    return mock.patch.object(Hub, "close", close)


@mutant("G9", "memory", by=("calls_after_closing_raise_closed", "open_iterators_raise_closed"))
def closed_stores_still_answer() -> Patched:
    """After its context manager was left, a store goes on as before."""
    return mock.patch.object(Binding, "close")


@mutant("G10", "stream_bridge", by="times_are_the_servers")
def times_are_naive() -> Patched:
    """Times have no time zone."""

    def naive(microseconds: int) -> datetime:
        return to_datetime(microseconds).replace(tzinfo=None)

    return mock.patch.object(streams, "to_datetime", naive)


@mutant("G11", "stream_bridge", by="what_expired_is_freed")
def what_expired_is_kept() -> Patched:
    """Streams that have expired are hidden, and stay in memory for ever."""
    return mock.patch.object(InProcessStreamBridge, "sweep")


@mutant("G11", "memory", by="what_expired_is_freed")
def what_was_deleted_is_kept() -> Patched:
    """An erased user's memory is moved aside instead of being freed."""

    async def erase(self: InProcessMemoryStore, user_id: str | None) -> None:
        user = self._users.get(user_id)
        await _erase(self, user_id)
        if user is not None:
            self._users[f"erased {user_id}"] = user

    return mock.patch.object(InProcessMemoryStore, "erase", erase)


@mutant("G13", "thread_index", by="ping_answers")
def ping_answers_when_closed() -> Patched:
    """Ping looks at nothing."""

    async def ping(self: InProcessThreadIndex) -> None:
        return None

    return mock.patch.object(InProcessThreadIndex, "ping", ping)
