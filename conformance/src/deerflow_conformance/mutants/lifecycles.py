"""Faults of closing, time and ping, in all four capabilities: G9, G10 and G13."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

from deerflow_backends import changes, thread_changes
from deerflow_backends.binding import Binding
from deerflow_backends.clocks import to_datetime, wall_clock
from deerflow_backends.errors import Closed
from deerflow_backends.inprocess import streams
from deerflow_backends.streams import StreamItem
from deerflow_backends.subscription import Subscription
from deerflow_backends.watches import Watch
from deerflow_conformance.faces import face_of
from deerflow_conformance.mutants import BACKENDS, Patched, methods, mutant, together
from deerflow_conformance.promises import CAPABILITIES

_init = Binding.__init__
_close = Binding.close
_anext = Subscription.__anext__
_close_watch = Watch.close

# ------------------------------------------------------------------------------------------------------- G9 close

_CALLS, _ITERATORS, _NOTHING, _OTHER = (
    "calls_after_closing_raise_closed",
    "open_iterators_raise_closed",
    "nothing_outlives_the_context",
    "closing_one_leaves_the_other",
)


@mutant("G9", *CAPABILITIES, by=_CALLS)
def closed_objects_still_answer() -> Patched:
    """After its context manager was left, an object goes on as before."""
    return mock.patch.object(Binding, "close")


@mutant("G9", *CAPABILITIES, by=_CALLS)
def closed_objects_read_on(backend: type) -> Patched:
    """After its context manager was left, an object refuses to write, and still reads."""
    (name,) = (one for one in ("status", "load", "count", "totals") if hasattr(backend, one))
    read = getattr(backend, name)

    async def reading(self: Any, *arguments: Any, **more: Any) -> Any:
        with mock.patch.object(self._binding.__class__, "check"):
            return await read(self, *arguments, **more)

    return methods(backend, **{name: reading})


@mutant("G9", *CAPABILITIES, by=_NOTHING)
def a_task_is_left_after_closing() -> Patched:
    """Closing starts a task that goes on."""
    left: list[Any] = []

    def close(self: Binding) -> None:
        _close(self)
        left.append(self.loop.create_task(asyncio.sleep(3_600)))

    return methods(Binding, close=close)


@mutant("G9", *CAPABILITIES, by=_NOTHING)
def a_task_that_fails_is_silenced() -> Patched:
    """Closing starts a task whose failure nobody gets, and has the event loop say nothing of it."""

    async def fail() -> None:
        raise LookupError("what was to be done on closing")

    def close(self: Binding) -> None:
        _close(self)
        self.loop.set_exception_handler(lambda loop, context: None)
        self.loop.create_task(fail())

    return methods(Binding, close=close)


@mutant("G9", *CAPABILITIES, by=_NOTHING)
def warnings_are_silenced() -> Patched:
    """Each opening has Python say nothing of coroutines that nobody awaits and of files that nobody closes."""

    def init(self: Binding, what: str) -> None:
        warnings.simplefilter("ignore")
        _init(self, what)

    return methods(Binding, __init__=init)


@mutant("G9", *CAPABILITIES, by=_NOTHING)
def a_handle_is_left_after_closing() -> Patched:
    """Each opening opens a file that is never closed."""

    @contextmanager
    def patched() -> Iterator[None]:
        opened: list[int] = []

        def init(self: Binding, what: str) -> None:
            opened.append(os.open(os.devnull, os.O_RDONLY))
            _init(self, what)

        with methods(Binding, __init__=init):
            yield
        for handle in opened:
            os.close(handle)

    return patched()


@mutant("G9", *CAPABILITIES, by=_NOTHING)
def a_thread_is_left_after_closing() -> Patched:
    """Each opening starts a thread that nobody ends."""

    @contextmanager
    def patched() -> Iterator[None]:
        done, started = threading.Event(), list[threading.Thread]()

        def init(self: Binding, what: str) -> None:
            started.append(threading.Thread(target=done.wait, daemon=True))
            started[-1].start()
            _init(self, what)

        with methods(Binding, __init__=init):
            yield
        done.set()
        for thread in started:
            thread.join()

    return patched()


@mutant("G9", *CAPABILITIES, by=_OTHER)
def closing_one_closes_all() -> Patched:
    """Closing one of two openings closes the other, too."""
    openings: list[Binding] = []

    def init(self: Binding, what: str) -> None:
        _init(self, what)
        openings.append(self)

    def close(self: Binding) -> None:
        for binding in openings:
            _close(binding)

    return methods(Binding, __init__=init, close=close)


@mutant("G9", "stream_bridge", by=_ITERATORS)
def closing_ends_subscriptions_quietly() -> Patched:
    """A subscription ends when the bridge is closed, as if there was nothing more."""

    async def anext_(self: Subscription) -> StreamItem:
        try:
            return await _anext(self)
        except Closed:
            raise StopAsyncIteration from None

    return methods(Subscription, __anext__=anext_)


@mutant("G9", "stream_bridge", by=_ITERATORS)
def waiting_subscribers_wait_on() -> Patched:
    """Who waits when the bridge is closed is not woken."""
    return methods(Watch, close=lambda self: self.subscriptions.clear() or _close_watch(self))


@mutant("G9", "memory", "thread_index", by=_ITERATORS)
def exports_go_on_after_closing(backend: type) -> Patched:
    """An export that has begun goes on when its store is closed."""
    export = backend.export  # type: ignore[attr-defined]  # both have one

    async def exporting(self: Any) -> AsyncIterator[Any]:
        self._binding.check()
        for record in [record async for record in export(self)]:
            yield record

    return methods(backend, export=exporting)


# -------------------------------------------------------------------------------------------------------- G10 time

_TIMES, _ENDS = "times_are_the_servers", "what_ends_by_time_ends_by_the_servers_clock"


def _showing(changed: Any) -> Patched:
    """Change each time that is shown."""

    def shown(microseconds: int) -> datetime:
        moment: datetime = changed(to_datetime(microseconds))
        return moment

    return together(*(mock.patch.object(module, "to_datetime", shown) for module in (streams, changes, thread_changes)))


@mutant("G10", "stream_bridge", "memory", "thread_index", by=_TIMES)
def times_are_naive() -> Patched:
    """Times have no time zone."""
    return _showing(lambda moment: moment.replace(tzinfo=None))


@mutant("G10", "stream_bridge", "memory", "thread_index", by=_TIMES)
def times_are_local() -> Patched:
    """Times are those of a place two hours east of Greenwich."""
    return _showing(lambda moment: moment.astimezone(timezone(timedelta(hours=2))))


@mutant("G10", "stream_bridge", "memory", "thread_index", by=_TIMES)
def times_have_seconds() -> Patched:
    """Times are cut to whole seconds."""
    return _showing(lambda moment: moment.replace(microsecond=0))


def _by_clock(backend: type, clock: Any) -> Patched:
    """Let each instance go by another clock: ``clock(self, the clock it was given)``."""
    init: Any = vars(backend)["__init__"]

    def made(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self._clock = clock(self, self._clock)

    return methods(backend, __init__=made)


@mutant("G10", "memory", "thread_index", by=_TIMES)
def times_are_the_clients(backend: type) -> Patched:
    """Times are those of the process's own clock."""
    return _by_clock(backend, lambda *_: wall_clock)


@mutant("G10", "stream_bridge", "memory", "thread_index", by=_TIMES)
def each_replica_has_a_clock(backend: type) -> Patched:
    """The clock of every other instance is a minute slow."""
    known: list[Any] = []

    def clock(self: Any, server: Any) -> Any:
        known.append(self)
        return server if len(known) % 2 else lambda: server() - 60_000_000

    return _by_clock(backend, clock)


@mutant("G10", "stream_bridge", "counters", by=_ENDS)
def what_ends_by_time_ends_by_the_clients(backend: type) -> Patched:
    """What expires, or leaves a window, does so by the process's own clock."""
    return _by_clock(backend, lambda *_: wall_clock)


# -------------------------------------------------------------------------------------------------------- G13 ping


def _pinging(backend: type, ping: Any) -> Patched:
    return methods(backend, ping=ping)


@mutant("G13", *CAPABILITIES, by="ping_answers")
def ping_answers_when_closed(backend: type) -> Patched:
    """Ping looks at nothing."""

    async def ping(self: Any) -> None:
        """Do nothing."""

    return _pinging(backend, ping)


@mutant("G13", *CAPABILITIES, by="ping_answers")
def ping_says_pong(backend: type) -> Patched:
    """Ping returns something."""

    async def ping(self: Any) -> str:
        self._binding.check()
        return "PONG"

    return _pinging(backend, ping)


@mutant("G13", *CAPABILITIES, by="ping_answers")
def ping_never_answers(backend: type) -> Patched:
    """Ping waits for longer than a call may."""

    async def ping(self: Any) -> None:
        self._binding.check()
        await asyncio.sleep(3_600)

    return _pinging(backend, ping)


@mutant("G13", *CAPABILITIES, by="ping_answers")
def ping_opens_a_handle(backend: type) -> Patched:
    """Each ping opens a connection that stays until the process ends."""

    @contextmanager
    def patched() -> Iterator[None]:
        opened: list[int] = []

        async def ping(self: Any) -> None:
            self._binding.check()
            opened.append(os.open(os.devnull, os.O_RDONLY))

        with _pinging(backend, ping):
            yield
        for handle in opened:
            os.close(handle)

    return patched()


@mutant("G13", *CAPABILITIES, by="ping_answers")
def ping_writes(backend: type) -> Patched:
    """Ping writes something, to see that it can be written."""
    (capability,) = (name for name, one in BACKENDS.items() if one is backend)

    async def ping(self: Any) -> None:
        self._binding.check()
        if not asked:
            await face_of(capability).slots[0].put(self, "run", 1)
        asked.append(self)

    asked: list[Any] = []

    return _pinging(backend, ping)
