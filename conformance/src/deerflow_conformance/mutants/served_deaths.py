"""Faults that show when processes of the served backend are killed or stopped (G12, G7): its server, or its clients."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from deerflow_backends.buffering import BufferedCounters
from deerflow_backends.cursors import Read
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.hub import Hub
from deerflow_backends.sqlite.worker import Call, Worker
from deerflow_conformance.mutants import Patched, methods, together
from deerflow_conformance.mutants.served import server
from deerflow_conformance.mutants.served.answers import Outcome
from deerflow_conformance.mutants.served.capabilities import ServedStreamBridge
from deerflow_conformance.mutants.served.client import Link
from deerflow_conformance.mutants.served.faults import fault
from deerflow_conformance.mutants.served.messages import Request
from deerflow_conformance.promises import CAPABILITIES
from deerflow_conformance.wire import frame

_ask = Link._ask
_write = Link.write
_read = ServedStreamBridge._read
_send = BufferedCounters._send
_perform = Worker._perform
_do = server.Client._do
_serve = server.Client.serve
_begin = server.Server.__init__

#: Longer than anybody waits.
_LONG_SECONDS: Final = 3_600.0

# -------------------------------------------------------------------------------------------------- G12 durability

#: Writes of which a client knows beforehand what they return, if all goes well.
_FORESEEN: Final = {"publish_end": None, "end": None, "clean_up": None, "erase": None, "delete": True, "record": None}


@fault("G12", *CAPABILITIES, by="what_was_acknowledged_outlives_its_writer", elsewhere=True)
def a_client_acknowledges_what_it_will_send() -> Patched:
    """A write whose answer is known beforehand returns at once, and is sent a moment later."""

    async def later(self: Link, *write: Any, **named: Any) -> None:
        await asyncio.sleep(0.5)
        with suppress(Exception):
            await _write(self, *write, **named)

    async def write(self: Link, operation: str, *arguments: Any, **named: Any) -> Any:
        if operation not in _FORESEEN:
            return await _write(self, operation, *arguments, **named)
        task = asyncio.create_task(later(self, operation, *arguments, **named))
        self.__dict__.setdefault("later", []).append(task)
        return _FORESEEN[operation]

    return methods(Link, write=write)


@fault("G12", *CAPABILITIES, by="what_was_acknowledged_outlives_the_server", elsewhere=True)
@fault("S3", "stream_bridge", by="nobody_misses_anything_when_the_server_restarts", elsewhere=True)
@fault("G5", "memory", by="writes_under_way_when_the_server_dies_are_done_once_or_say_so", elsewhere=True)
def a_server_answers_before_it_commits() -> Patched:
    """The server answers what it has done in a transaction, and commits a moment later."""

    def perform(self: Worker, connection: Any, call: Call) -> None:
        _perform(self, connection, call)
        if self.writes:
            self._answer([call])
            time.sleep(0.05)

    return methods(Worker, _perform=perform)


@fault("M5", "memory", by="rivals_through_a_restart_have_an_order", elsewhere=True)
def a_restart_begins_with_nothing() -> Patched:
    """The server removes what it finds when it starts."""

    def begin(self: server.Server, folder: Path) -> None:
        for path in folder.iterdir():
            if path.is_dir():  # whoever was killed while it made a file leaves one
                shutil.rmtree(path)
            else:
                path.unlink()
        _begin(self, folder)

    return methods(server.Server, __init__=begin)


# ---------------------------------------------------------------------------------------- a lock at the server


def _locking(*, gives_back: bool = True) -> Patched:
    """Have a lock at the server, which clients ask for and give back, and which one that is gone gives back if so."""
    lock = asyncio.Lock()
    holders: set[server.Client] = set()

    def release(client: server.Client) -> None:
        if client in holders:
            holders.discard(client)
            lock.release()

    async def do(self: server.Client, request: Request) -> Outcome:
        if request.operation == "lock":
            try:
                await asyncio.wait_for(lock.acquire(), *request.arguments)
            except TimeoutError:
                return True, False
            holders.add(self)
        elif request.operation == "unlock":
            release(self)
        else:
            return await _do(self, request)
        return True, None

    async def serve(self: server.Client, reader: asyncio.StreamReader) -> None:
        try:
            await _serve(self, reader)
        finally:
            if gives_back:
                release(self)

    return methods(server.Client, _do=do, serve=serve)


@asynccontextmanager
async def _locked(link: Link, seconds: float) -> AsyncIterator[None]:
    """Have the lock, or raise `BackendUnavailable` after so many seconds."""
    if not await _ask(link, "lock", (seconds,), None, _LONG_SECONDS):
        raise link._unavailable("somebody else has the lock", maybe_written=False)
    try:
        yield
    finally:
        await _ask(link, "unlock", (), None, _LONG_SECONDS)


def _writing_alone(seconds: float | None = None, *, least_bytes: int = 0) -> Patched:
    """Have each write, or each large one, wait for the lock: for so long, or as long as other calls."""

    async def write(self: Link, operation: str, *arguments: Any, **named: Any) -> Any:
        if len(frame(arguments)) < least_bytes:
            return await _write(self, operation, *arguments, **named)
        async with _locked(self, self.timeout_seconds if seconds is None else seconds):
            return await _write(self, operation, *arguments, **named)

    return methods(Link, write=write)


@fault("G7", "stream_bridge", "memory", by="who_stops_in_the_middle_of_a_write_blocks_nobody_for_long", for_ever=True)
def a_stopped_writer_holds_the_lock() -> Patched:
    """Who writes holds a lock of the server's, for which the others wait as long as it takes."""
    return together(_locking(), _writing_alone(_LONG_SECONDS))


@fault("G7", "memory", by="who_dies_in_the_middle_of_a_write_blocks_nobody", for_ever=True)
def a_dead_writer_holds_the_lock() -> Patched:
    """Who writes holds a lock of the server's, also when it is gone."""
    return together(_locking(gives_back=False), _writing_alone())


@fault("G5", "thread_index", by="what_waited_for_a_stopped_process_is_done_once_or_says_so", for_ever=True)
def who_waited_in_vain_writes_later() -> Patched:
    """What could not have the lock in time fails as not written, and is written once it has it."""

    async def write_once_locked(self: Link, *write: Any, **named: Any) -> Any:
        async with _locked(self, _LONG_SECONDS):
            return await _write(self, *write, **named)

    async def write(self: Link, operation: str, *arguments: Any, **named: Any) -> Any:
        writing = asyncio.create_task(write_once_locked(self, operation, *arguments, **named))
        writing.add_done_callback(lambda late: late.cancelled() or late.exception())  # whether anybody waits or not
        done, _ = await asyncio.wait([writing], timeout=self.timeout_seconds)
        if done:
            return writing.result()
        self.__dict__.setdefault("later", []).append(writing)
        raise self._unavailable("somebody else writes", maybe_written=False)

    return together(_locking(), methods(Link, write=write))


@fault("S16", "stream_bridge", by="a_subscriber_stays_beside_a_stopped_writer", for_ever=True)
def who_reads_waits_for_the_lock() -> Patched:
    """A subscriber that does not get the lock in time, since somebody writes much, ends with an error."""

    async def read(self: ServedStreamBridge, *arguments: Any) -> Read:
        async with _locked(self._link, 0.3):
            return await _read(self, *arguments)

    async def read_until_answered(self: Hub, *arguments: Any) -> Read:
        return await self._read(*arguments)

    return together(
        _locking(),
        _writing_alone(least_bytes=100_000),
        methods(ServedStreamBridge, _read=read),
        methods(Hub, _read_until_answered=read_until_answered),
    )


@fault("C5", "counters", by="a_stopped_process_loses_and_doubles_nothing")
def what_waited_for_the_lock_is_not_counted() -> Patched:
    """The buffer drops a batch for which it did not get the lock in time."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        try:
            await _send(self, batch)
        except BackendUnavailable:
            self._done()
            raise

    return together(_locking(), _writing_alone(0.3), methods(BufferedCounters, _send=send))
