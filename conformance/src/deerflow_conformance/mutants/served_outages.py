"""Faults against working through an outage and a cancellation (G7, G8, G13, C5): in the served backend."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

from deerflow_backends.buffering import BufferedCounters
from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.streams import StreamItem
from deerflow_conformance.mutants import Patched, methods, together
from deerflow_conformance.mutants.served.capabilities import ServedStreamBridge
from deerflow_conformance.mutants.served.client import Link, Lost, Wire
from deerflow_conformance.mutants.served.faults import fault
from deerflow_conformance.mutants.served.messages import PING
from deerflow_conformance.promises import CAPABILITIES

_request = Wire.request
_ask = Link._ask
_be_connected = Link._be_connected
_connected = Link._connected
_publish = ServedStreamBridge._publish
_subscribe = ServedStreamBridge.subscribe
_send = BufferedCounters._send
_close = BufferedCounters._close

_wire = partial(methods, Wire)
_link = partial(methods, Link)
_bridge = partial(methods, ServedStreamBridge)
_buffer = partial(methods, BufferedCounters)


# -------------------------------------------------------------------------------------------------- G7 outage


@fault("G7", *CAPABILITIES, by="every_call_fails_in_time_and_works_again", for_ever=True)
def a_call_waits_for_ever() -> Patched:
    """A call waits for the server until it answers."""

    async def ask(self: Link, operation: str, arguments: Any, token: str | None, _seconds: float) -> Any:
        return await _ask(self, operation, arguments, token, 3_600.0)

    return _link(_ask=ask)


@fault("G7", "stream_bridge", by="every_call_fails_in_time_and_works_again", for_ever=True)
def who_finds_no_connection_waits_for_one() -> Patched:
    """The time that a publication waits for a connection does not count."""

    async def publish(self: ServedStreamBridge, run_id: str, new: Any) -> list[str]:
        await self._link._connected()
        return await _publish(self, run_id, new)

    return _bridge(_publish=publish)


@fault("G7", "thread_index", by="every_call_fails_in_time_and_works_again", for_ever=True)
@fault("G7", "counters", by="everything_works_again_after_a_restart", for_ever=True)
def connecting_is_given_up() -> Patched:
    """After a few tries to connect no more is made."""

    async def stay_connected(self: Link) -> None:
        for _ in range(4):
            try:
                await _be_connected(self)
            except (OSError, EOFError, TimeoutError) as error:
                self._trouble = error
            await asyncio.sleep(0.05)

    return _link(_stay_connected=stay_connected)


@fault("G7", "memory", by="every_call_fails_in_time_and_works_again", for_ever=True)
def an_outage_is_remembered() -> Patched:
    """Once a call has failed, all that follow fail at once."""

    async def ask(self: Link, operation: str, *rest: Any) -> Any:
        failed: set[str] = self.__dict__.setdefault("failed", set())
        if operation in failed:
            raise self._unavailable("it was not there before", maybe_written=False)
        try:
            return await _ask(self, operation, *rest)
        except BackendUnavailable:
            if operation != PING:
                failed.add(operation)
            raise

    return _link(_ask=ask)


@fault("G7", "counters", by="where_replies_trickle_calls_end_in_time", for_ever=True)
def a_timeout_begins_anew_with_every_connection() -> Patched:
    """The time that a call waits is counted from when its connection was begun."""

    async def be_connected(self: Link) -> None:
        self.__dict__["began_at"] = asyncio.get_running_loop().time()
        await _be_connected(self)

    async def ask(self: Link, operation: str, arguments: Any, token: str | None, seconds: float) -> Any:
        asking = asyncio.ensure_future(_ask(self, operation, arguments, token, 3_600.0))
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while not asking.done():
            await asyncio.wait([asking], timeout=began_at + seconds - loop.time())
            began_at = max(began_at, self.__dict__["began_at"])
            if loop.time() >= began_at + seconds:
                asking.cancel()
                raise self._unavailable("no answer", maybe_written=token is not None)
        return asking.result()

    return _link(_be_connected=be_connected, _ask=ask)


@fault("G7", "stream_bridge", by="publishing_outlasts_a_short_outage")
def publishing_waits_no_longer_than_reading() -> Patched:
    """What publishes fails after the timeout of all other calls."""

    async def publish(self: ServedStreamBridge, run_id: str, new: Any) -> list[str]:
        ids: list[str] = await self._link.write("publish", run_id, new)
        return ids

    return _bridge(_publish=publish)


# --------------------------------------------------------------------------------------------- G8 cancellation


@fault("G8", *CAPABILITIES, by="calls_cancelled_in_an_outage_leave_nothing_behind")
def an_answer_goes_to_the_next_call() -> Patched:
    """The answer to a call that was cancelled is given to the next call of its kind."""

    async def request(self: Wire, operation: str, *rest: Any) -> Any:
        late: dict[str, asyncio.Task[Any]] = self.__dict__.setdefault("late", {})
        if operation in late:
            return await late.pop(operation)
        task = asyncio.ensure_future(_request(self, operation, *rest))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                late[operation] = task
            raise

    return _wire(request=request)


@fault("G8", "memory", by="calls_cancelled_in_an_outage_leave_nothing_behind", for_ever=True)
def a_cancelled_call_keeps_the_lock() -> Patched:
    """One call is made at a time, and one that is cancelled while there is no connection stays the one."""

    async def ask(self: Link, operation: str, arguments: Any, token: str | None, seconds: float) -> Any:
        lock: asyncio.Lock = self.__dict__.setdefault("lock", asyncio.Lock())
        try:
            async with asyncio.timeout(seconds):
                await lock.acquire()
        except TimeoutError:
            raise self._unavailable("another call is made", maybe_written=False) from None
        try:
            return await _ask(self, operation, arguments, token, seconds)
        finally:
            if self._wire is not None:
                lock.release()

    return _link(_ask=ask)


@fault("G8", "thread_index", by="calls_cancelled_in_an_outage_leave_nothing_behind")
def a_cancelled_call_leaves_a_task() -> Patched:
    """Each call that waits for a connection has a task for it, which a cancelled one leaves behind."""

    async def connected(self: Link) -> Wire:
        if self._wire is None:
            waiting = asyncio.create_task(asyncio.Event().wait())
            self.__dict__.setdefault("waiting", []).append(waiting)
            wire = await _connected(self)
            waiting.cancel()
            return wire
        return self._wire

    return _link(_connected=connected)


# ---------------------------------------------------------------------------------------------------- G13 ping


@fault("G13", *CAPABILITIES, by="ping_tells_an_outage_in_time")
def ping_says_yes_in_an_outage() -> Patched:
    """Once there was a connection, ping does not ask the server."""

    async def ask(self: Link, operation: str, *rest: Any) -> Any:
        if operation == PING and self.__dict__.get("answered"):
            return None
        answer = await _ask(self, operation, *rest)
        self.__dict__["answered"] = True
        return answer

    return _link(_ask=ask)


@fault("G13", "memory", by="ping_tells_an_outage_in_time", for_ever=True)
def ping_waits_for_its_turn() -> Patched:
    """Ping is asked when all calls that came before it have ended."""

    async def ask(self: Link, operation: str, arguments: Any, token: str | None, seconds: float) -> Any:
        pending: set[asyncio.Future[None]] = self.__dict__.setdefault("pending", set())
        if operation == PING:
            if before := set(pending):
                await asyncio.wait(before)
                seconds += 15.0
            return await _ask(self, operation, arguments, token, seconds)
        ended = asyncio.get_running_loop().create_future()
        pending.add(ended)
        try:
            return await _ask(self, operation, arguments, token, seconds)
        finally:
            pending.discard(ended)
            ended.set_result(None)

    return _link(_ask=ask)


# ------------------------------------------------------------------------------------------------- C5 buffering


def _a_lost_reply_is_an_error() -> Patched:
    """Have the client not ask again: what the buffer does is seen then."""

    async def ask(self: Link, operation: str, arguments: Any, token: str | None, seconds: float) -> Any:
        if operation != "record" or self._wire is None:
            return await _ask(self, operation, arguments, token, seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._wire.request(operation, arguments, token, deadline)
        except (TimeoutError, Lost):
            raise self._unavailable("the reply was lost", maybe_written=True) from None

    return _link(_ask=ask)


@fault("C5", "counters", by=("a_lost_flush_counts_once", "an_outage_loses_doubles_and_displaces_nothing"))
def a_batch_that_failed_is_dropped() -> Patched:
    """The buffer drops a batch that could not be flushed."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        try:
            await _send(self, batch)
        except BackendUnavailable:
            self._done()
            raise

    return together(_a_lost_reply_is_an_error(), _buffer(_send=send))


@fault("C5", "counters", by="an_outage_loses_doubles_and_displaces_nothing")
def a_batch_is_sent_again_under_another_token() -> Patched:
    """Each time that a batch is flushed it bears another token, and what was held up is done all the same."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        batch.token = secrets.token_hex(16)
        await _send(self, batch)

    async def request(self: Wire, operation: str, arguments: Any, token: str | None, deadline: float) -> Any:
        return await _request(self, operation, arguments, token, deadline + 60.0)

    return together(_buffer(_send=send), _wire(request=request))


@fault("C5", "counters", by="an_outage_loses_doubles_and_displaces_nothing")
def counts_are_of_the_time_of_their_flush() -> Patched:
    """What an outage held back is recorded as if it had happened when it was flushed."""

    async def send(self: BufferedCounters, batch: Any) -> None:
        for entry in batch.entries:
            entry.at = self._time()
        await _send(self, batch)

    return _buffer(_send=send)


@fault("C5", "counters", by="closing_in_an_outage_says_what_is_lost")
def closing_forgets_what_it_holds() -> Patched:
    """Closing says nothing of counts that could not be flushed."""

    async def close(self: BufferedCounters, flushing: asyncio.Task[None]) -> None:
        with suppress(BackendUnavailable):
            await _close(self, flushing)

    return _buffer(_close=close)


# --------------------------------------------------------------------------------------------- S15 connections


@fault("S15", "stream_bridge", by="publishing_to_a_crowd_is_no_more_to_ask")
def each_subscriber_has_a_connection() -> Patched:
    """Each subscriber has a connection to the server of its own."""

    async def reading(self: ServedStreamBridge, iterator: AsyncIterator[StreamItem]) -> AsyncIterator[StreamItem]:
        link = Link(self._link._url, self._link._hello, self._link.timeout_seconds)
        try:
            await link.ask(PING)
            async for item in iterator:
                yield item
        finally:
            await link.close()

    def subscribe(self: ServedStreamBridge, run_id: str, **options: Any) -> AsyncIterator[StreamItem]:
        return reading(self, _subscribe(self, run_id, **options))

    return _bridge(subscribe=subscribe)
