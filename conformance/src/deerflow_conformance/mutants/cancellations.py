"""Faults of cancelled calls, in all four capabilities: G5 and G8."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable
from typing import Any

from deerflow_backends.events import check_events
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge
from deerflow_backends.streams import StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_conformance.mutants import Patched, methods, mutant
from deerflow_conformance.promises import CAPABILITIES

_anext = Subscription.__anext__

_USABLE, _WHOLE, _ENDS, _CROWD = (
    "a_cancelled_call_leaves_the_object_usable",
    "a_cancelled_write_happened_whole_or_not_at_all",
    "cancelling_ends_a_call",
    "a_crowd_of_cancelled_calls_starves_nobody",
)


def _writing(backend: type, around: Callable[[Any, Callable[[], Any]], Any]) -> Patched:
    """Put something *around* the writes of a backend: ``await around(self, write)``."""

    def changed(write: Callable[..., Any]) -> Any:
        async def writing(self: Any, *arguments: Any, **more: Any) -> Any:
            return await around(self, lambda: write(self, *arguments, **more))

        return writing

    names = ("publish", "publish_many", "apply", "create", "update", "record_many")
    return methods(backend, **{name: changed(getattr(backend, name)) for name in names if hasattr(backend, name)})


# ------------------------------------------------------------------------------------------------------- G5 once


@mutant("G5", *CAPABILITIES, by="a_cancelled_write_takes_effect_once_or_never")
def a_rollback_comes_too_late(backend: type) -> Patched:
    """A write that is cancelled is undone after the next one, and takes that with it."""
    before: dict[Any, list[tuple[dict[Any, Any], dict[Any, Any]]]] = {}

    async def around(self: Any, write: Callable[[], Any]) -> Any:
        if self in before:
            made = await write()
            for table, then in before.pop(self):
                table.clear()
                table.update(then)
            return made
        now = [(table, copy.deepcopy(table)) for table in _tables_of(self)]
        try:
            for _ in range(5):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            before[self] = now
            raise
        return await write()

    return _writing(backend, around)


def _tables_of(opened: Any) -> list[dict[Any, Any]]:
    if isinstance(opened, InProcessMemoryStore):
        return [opened._users]
    return [
        table for name in ("streams", "threads", "shelves", "totals") if (table := getattr(opened._table, name, None))
    ]


@mutant("G5", "stream_bridge", "counters", by="a_cancelled_write_takes_effect_once_or_never")
def a_cancelled_write_comes_again(backend: type) -> Patched:
    """A write that is cancelled before it hears the answer is made once more."""

    async def around(_: Any, write: Callable[[], Any]) -> Any:
        made = await write()
        try:
            for _ in range(8):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            await write()
            raise
        return made

    return _writing(backend, around)


# ------------------------------------------------------------------------------------------------ G8 cancellation


@mutant("G8", *CAPABILITIES, by=(_USABLE, _CROWD))
def a_lock_is_kept_after_cancelling(backend: type) -> Patched:
    """A write that is cancelled while it holds the lock never gives it back."""
    locks: dict[Any, asyncio.Lock] = {}

    async def around(self: Any, write: Callable[[], Any]) -> Any:
        lock = locks.setdefault(self, asyncio.Lock())
        await lock.acquire()
        await asyncio.sleep(0)
        try:
            return await write()
        finally:
            lock.release()

    return _writing(backend, around)


@mutant("G8", *CAPABILITIES, by=_CROWD)
def a_permit_is_lost_when_cancelled(backend: type) -> Patched:
    """Of ten permits to write, one that is taken by a cancelled call is lost."""
    free: dict[Any, int] = {}

    async def around(self: Any, write: Callable[[], Any]) -> Any:
        while free.get(self, 10) <= 0:  # noqa: ASYNC110  # a fault need not be well made
            await asyncio.sleep(0.01)
        free[self] = free.get(self, 10) - 1
        await asyncio.sleep(0)
        made = await write()
        free[self] += 1
        return made

    return _writing(backend, around)


@mutant("G8", *CAPABILITIES, by=_ENDS)
def a_cancellation_is_swallowed(backend: type) -> Patched:
    """A write that is cancelled while it waits goes on as if nothing had been."""

    async def around(_: Any, write: Callable[[], Any]) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)
        return await write()

    return _writing(backend, around)


@mutant("G8", *CAPABILITIES, by=_USABLE)
def a_cancelled_write_leaves_a_task(backend: type) -> Patched:
    """A write goes on in a task of its own, which nobody ends when it is cancelled."""
    left: list[Any] = []

    async def around(_: Any, write: Callable[[], Any]) -> Any:
        async def on_its_own() -> Any:
            made = await write()
            done.set_result(None)
            await asyncio.sleep(3_600)
            return made

        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left.append(asyncio.create_task(on_its_own()))
        await asyncio.wait([left[-1], done], return_when=asyncio.FIRST_COMPLETED)
        return left[-1].result() if left[-1].done() else None

    return _writing(backend, around)


@mutant("G8", *CAPABILITIES, by=_USABLE)
def a_cancelled_call_closes_the_object(backend: type) -> Patched:
    """After a write was cancelled the object is closed."""

    async def around(self: Any, write: Callable[[], Any]) -> Any:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._binding.close()
            raise
        return await write()

    return _writing(backend, around)


@mutant("G8", *CAPABILITIES, by=_WHOLE)
def a_write_is_made_after_it_returned(backend: type) -> Patched:
    """A write returns at once and is made a moment later, or never if its caller is cancelled by then."""

    async def around(_: Any, write: Callable[[], Any]) -> Any:
        asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(write()))

    return _writing(backend, around)


@mutant("G8", "stream_bridge", by="a_cancelled_next_item_loses_nothing")
def an_item_is_lost_when_cancelled() -> Patched:
    """A cancelled __anext__ has taken its item already."""

    async def anext_(self: Subscription) -> StreamItem:
        item = await _anext(self)
        await asyncio.sleep(0)
        return item

    return methods(Subscription, __anext__=anext_)


@mutant("G8", "stream_bridge", by="a_cancelled_next_item_loses_nothing")
def a_cancelled_subscription_is_over() -> Patched:
    """A cancelled __anext__ ends the subscription."""

    async def anext_(self: Subscription) -> StreamItem:
        try:
            return await _anext(self)
        except asyncio.CancelledError:
            self._finish()
            raise

    return methods(Subscription, __anext__=anext_)


@mutant("G8", "stream_bridge", by="a_cancelled_batch_is_whole_or_absent")
def a_cancelled_batch_is_stored_in_part() -> Patched:
    """A batch is stored event by event, until it is cancelled."""

    async def publish_many(self: InProcessStreamBridge, run_id: str, events: Any) -> list[str]:
        ids: list[str] = []
        for event in check_events(run_id, events, self._options):
            ids += self._publish(run_id, [event])
            await asyncio.sleep(0)
        return ids

    return methods(InProcessStreamBridge, publish_many=publish_many)
