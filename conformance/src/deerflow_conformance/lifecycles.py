"""Checks of closing, time and ping, for all four capabilities: G9, G10 and G13."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from deerflow_backends.clocks import to_datetime
from deerflow_backends.counters import Counts
from deerflow_backends.errors import Closed, StreamEnded
from deerflow_backends.memories import PutFact
from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.expectations import SETTLE_SECONDS, accepted, outcome_of, settled, until
from deerflow_conformance.faces import RUN, USER, face_of
from deerflow_conformance.isolation import open_handles
from deerflow_conformance.protocols import coroutines_of, iterators_of
from deerflow_conformance.stream_steps import has_no_status
from deerflow_conformance.subscribers import publish_numbers

# ------------------------------------------------------------------------------------------------------- G9 close


@check("G9")
def calls_after_closing_raise_closed(bench: Bench) -> None:
    """Once its context manager is left, every call of the Protocol raises Closed, and so do its iterators."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open() as opened:
            await face.slots[0].put(opened, "stored", 1)
            unstarted = face.iterators(opened)
        calls = face.calls(opened, "late")
        missing = set(coroutines_of(bench.capability)) - set(calls)
        expect(not missing, "a call of every coroutine in the kit's own list", missing)
        for name, call in calls.items():
            await _raises_closed(bench, call, name)
        expect(set(unstarted) == set(iterators_of(bench.capability)), "every iterator in the kit's own list", unstarted)
        for name, iterator in (*unstarted.items(), *face.iterators(opened).items()):
            await _raises_closed(bench, iterator.__anext__, f"the first item of {name}")

    bench.run(body)


async def _raises_closed(bench: Bench, call: Callable[[], Awaitable[Any]], name: str) -> None:
    async def calling() -> Any:
        return await call()

    try:
        got = await bench.soon(calling())
    except Closed:
        return
    except StopAsyncIteration:
        got = "StopAsyncIteration"
    unkept(f"Closed from {name}", got)


@check("G9")
def open_iterators_raise_closed(bench: Bench) -> None:
    """Closing ends what is being read: a waiting __anext__ and the next one of an open iterator raise Closed."""
    face = face_of(bench.capability)
    if not iterators_of(bench.capability):
        bench.not_applicable("there are no iterators")

    async def body() -> None:
        space = bench.space()
        async with AsyncExitStack() as stack:
            opened = await stack.enter_async_context(bench.open(space))
            for number in (1, 2, 3):
                await face.slots[0].put(opened, f"{RUN}{number}", number)
            begun = [await _begun(opened, bench) for _ in range(2)]
            waiting: list[asyncio.Task[Any]] = []
            if bench.capability == "stream_bridge":
                await publish_numbers(opened, RUN, (1, 2))
                begun.append(await _begun(opened, bench))
                for run in ("nothing here", "neither here"):
                    iterator = opened.subscribe(run, heartbeat_interval=60.0)
                    waiting.append(asyncio.create_task(_first(iterator)))
                await bench.sleep(0.05)
        for iterator in begun:
            await _raises_closed(bench, iterator.__anext__, "an iterator that was open")
        for task in waiting:
            await _raises_closed(bench, partial(outcome_of, task), "a waiting __anext__")

    bench.run(body)


async def _first(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)


async def _begun(opened: Any, bench: Bench) -> AsyncIterator[Any]:
    """An iterator of which one item was read and more are to come."""
    iterator: AsyncIterator[Any] = (
        opened.subscribe(f"{RUN}1", heartbeat_interval=0.05) if bench.capability == "stream_bridge" else opened.export()
    )
    await bench.soon(_first(iterator))
    return iterator


@check("G9")
def nothing_outlives_the_context(bench: Bench) -> None:
    """After closing, with calls made, iterators open and subscribers waiting, no task, thread or handle is left."""
    face = face_of(bench.capability)

    async def body() -> None:
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
        space = bench.space()
        async with bench.open(space) as opened:  # makes files and what the process keeps for good
            await face.slots[0].put(opened, "first", 1)
        handles = open_handles()
        for turn in range(3):
            async with bench.open(space) as opened:
                for call in face.calls(opened, f"id {turn}").values():
                    with suppress(StreamEnded):
                        await call()
                for iterator in face.iterators(opened).values():
                    with suppress(StopAsyncIteration):
                        await bench.soon(_first(iterator))
            await settled(tasks, "after closing")
            await _until_no_thread_is_left(threads)
            gc.collect(0)
            left = {handle: target for handle, target in open_handles().items() if handles.get(handle) != target}
            expect(not left, "no file handle left after closing", left)

    bench.run(body)


#: How asyncio names the threads of a loop's default executor.
_OF_THE_LOOP: Final = re.compile(r"asyncio_\d+")


async def _until_no_thread_is_left(before: set[threading.Thread]) -> None:
    # The event loop keeps threads of its own for looking up host names; they end with it.
    left = {thread for thread in set(threading.enumerate()) - before if not _OF_THE_LOOP.fullmatch(thread.name)}
    for thread in left:
        thread.join(SETTLE_SECONDS)
    alive = [thread.name for thread in left if thread.is_alive()]
    expect(not alive, "no thread left after closing", alive)


@check("G9")
def closing_one_leaves_the_other(bench: Bench) -> None:
    """Closing one of two openings of a space closes that one only."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space()
        slot = face.slots[0]
        async with bench.open(space) as stays:
            async with bench.open(space) as leaves:
                await slot.put(leaves, "one", 1)
            await accepted(slot.put(stays, "two", 2), "a write through the one that is open")
            found = await accepted(slot.read(stays, ["one", "two"]), "a read through the one that is open")
            expect(found == {"one": 1, "two": 2}, {"one": 1, "two": 2}, found)
            await _raises_closed(bench, leaves.ping, "the closed one")

    bench.run(body)


# -------------------------------------------------------------------------------------------------------- G10 time


@check("G10")
def times_are_the_servers(bench: Bench) -> None:
    """Times are aware UTC datetimes by the server's clock: they follow it, and order writes of all replicas."""
    moments: dict[str, Callable[[Any, int], Awaitable[datetime]]] = {
        "stream_bridge": _expiry_of_a_stream,
        "memory": _time_of_a_fact,
        "thread_index": _time_of_a_thread,
    }
    if bench.capability not in moments:
        bench.not_applicable("counters show no times; windows are C4 and checked below")
    moment_of = moments[bench.capability]

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.replica(space) as there:
            seen: list[datetime] = []
            for number in range(6):
                seen.append(await moment_of((here, there)[number % 2], number))
                moment = seen[-1]
                aware = moment.tzinfo is not None and moment.utcoffset() == timedelta(0)
                expect(aware, "an aware UTC datetime", repr(moment))
                if bench.virtual:
                    offset = timedelta(seconds=86_400 if bench.capability == "stream_bridge" else 0)
                    wanted = to_datetime(space.clock()) + offset
                    expect(abs(moment - wanted) <= timedelta(microseconds=1), wanted, moment)
                await bench.sleep(10.5 if bench.virtual else 0.01)
            expect(seen == sorted(set(seen)), "later writes to have later times, by one clock", seen)

    bench.run(body)


async def _expiry_of_a_stream(bridge: Any, number: int) -> datetime:
    await bridge.publish(f"run {number}", "n", number)
    moment: datetime = (await bridge.status(f"run {number}")).expires_at
    return moment


async def _time_of_a_fact(store: Any, number: int) -> datetime:
    applied = await store.apply(USER, [PutFact(None, f"f{number}", {"n": number})])
    memory = await store.load(USER)
    (fact,) = applied.facts
    times = (fact.created_at, fact.updated_at, memory.updated_at)
    expect(len(set(times)) == 1, "one moment for one apply", times)
    moment: datetime = fact.updated_at
    return moment


async def _time_of_a_thread(index: Any, number: int) -> datetime:
    thread = await index.create(NewThread(f"t{number}", USER))
    expect(thread.created_at == thread.updated_at, "one moment for a new thread", thread)
    moment: datetime = thread.created_at
    return moment


#: Options to open with, what to write, and whether it has ended.
_Ending: TypeAlias = tuple[dict[str, Any], Callable[[Any], Awaitable[None]], Callable[[Any], Awaitable[bool]]]


@check("G10", waits=True)
def what_ends_by_time_ends_by_the_servers_clock(bench: Bench) -> None:
    """A stream expires, a bucket leaves its window, when the server's time has passed, whoever asks and wherever."""
    ending: dict[str, _Ending] = {
        "stream_bridge": ({"ttl_seconds": bench.short_ttl}, _write_a_run, partial(has_no_status, run_id=RUN)),
        "counters": ({"bucket_seconds": 1, "keep_buckets": 600}, _count_a_call, _window_is_past),
    }
    if bench.capability not in ending:
        bench.not_applicable("nothing of it ends by time")
    options, write, ended = ending[bench.capability]

    async def body() -> None:
        space = bench.space(**options)
        async with bench.open(space) as here, bench.replica(space) as there:
            await write(here)
            if bench.virtual:
                expect(not await ended(there), "it to be there at the moment it was written", "it has ended")
            await until(bench, lambda: ended(there), bench.short_ttl + 15)
            expect(await ended(here), "the same for every replica", "it is still there for the writer")

    bench.run(body)


async def _write_a_run(bridge: Any) -> None:
    await bridge.publish(RUN, "n", 1)


async def _count_a_call(counters: Any) -> None:
    await counters.record("m", calls=1)


async def _window_is_past(counters: Any) -> bool:
    kept = await counters.window("m", seconds=500)
    expect(kept == Counts(calls=1), "the call in a window of 500 s", kept)
    return bool(await counters.window("m", seconds=1) == Counts())


# --------------------------------------------------------------------------------------------------------- G13 ping


@check("G13")
def ping_answers(bench: Bench) -> None:
    """Ping returns None, changes nothing, opens no connection, and raises Closed once closed."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as opened, bench.replica(space) as replica:
            before = open_handles()
            for _ in range(20):
                got = await bench.soon(opened.ping(), space.timeout_seconds)
                expect(got is None, None, got)
            await bench.soon(asyncio.gather(*(opened.ping() for _ in range(20))), space.timeout_seconds)
            new = {handle: target for handle, target in open_handles().items() if handle not in before}
            expect(not new, "no connection opened by ping", new)
            await replica.ping()
            expect(await face.is_empty(opened), "nothing stored by ping", "something stored")
        await _raises_closed(bench, opened.ping, "ping")

    bench.run(body)
