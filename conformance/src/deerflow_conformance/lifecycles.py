"""Checks of what holds for all four capabilities: cancelling, closing, time, leftovers, ping (G8 to G13)."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st

from deerflow_backends.clocks import to_datetime
from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.errors import BackendsError, Closed, StreamEnded
from deerflow_backends.memories import DeleteFact, PutFact
from deerflow_backends.streams import END_SENTINEL, StreamEvent
from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.faces import RUN, USER, face_of
from deerflow_conformance.isolation import open_handles
from deerflow_conformance.protocols import coroutines_of, iterators_of
from deerflow_conformance.spaces import Space
from deerflow_conformance.subscribers import data_of, publish_numbers, reading

#: How long what was told to end may take, in real seconds.
_SETTLE_SECONDS: Final = 2.0


def _tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks()


async def _settled(before: set[asyncio.Task[Any]], what: str) -> None:
    """Expect no task besides those of *before*, allowing those that are about to end a moment."""
    for _ in range(20):
        await asyncio.sleep(0)
    left = _tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=_SETTLE_SECONDS)
    expect(not left, f"no task left {what}", [task.get_coro() for task in left])


# ------------------------------------------------------------------------------------------------ G8 cancellation


async def _cancelled(bench: Bench, call: Callable[[], Awaitable[Any]], turns: int, seconds: float) -> bool:
    """Start *call* and cancel it a moment later; return whether it had finished without an error."""

    async def calling() -> Any:
        return await call()

    task = asyncio.create_task(calling())
    for _ in range(turns):
        await asyncio.sleep(0)
    if seconds and not bench.virtual:
        await asyncio.sleep(seconds)
    task.cancel()
    try:
        await bench.soon(_outcome(task))
    except asyncio.CancelledError:
        return False
    except (BackendsError, StopAsyncIteration):
        return False
    return True


async def _outcome(task: asyncio.Task[Any]) -> Any:
    await asyncio.wait([task])
    return task.result()


#: After how many turns of the loop, and then how many seconds, to cancel; drawn whole.
_moments = st.sampled_from([*itertools.product(range(9), (0.0, 0.0, 0.0002, 0.001, 0.003))])


@check("G8")
def a_cancelled_call_leaves_the_object_usable(bench: Bench) -> None:
    """Whichever call is cancelled, at whatever moment, the next ones work, and no task is left."""
    face = face_of(bench.capability)

    async def body(moments: list[tuple[int, float]]) -> None:
        async with bench.open() as opened:
            slot = face.slots[0]
            await slot.put(opened, "before", 1)
            before = _tasks()
            for i, (turns, seconds) in enumerate(moments):
                for name, call in face.calls(opened, f"cancelled {i}").items():
                    await _cancelled(bench, call, turns, seconds)
                    found = await bench.soon(slot.read(opened, ["before"]))
                    expect(found == {"before": 1}, f"'before' as it was, after {name} was cancelled", found)
                await bench.soon(slot.put(opened, f"after {i}", i + 1))
                found = await bench.soon(slot.read(opened, [f"after {i}"]))
                expect(found == {f"after {i}": i + 1}, "what was written after the cancellations", found)
            await _settled(before, "by cancelled calls")

    bench.explore(st.lists(_moments, min_size=1, max_size=2), body)


@check("G8")
def a_cancelled_write_happened_whole_or_not_at_all(bench: Bench) -> None:
    """A cancelled write took effect once or never, and one that returned before it was cancelled took effect."""
    face = face_of(bench.capability)

    async def body(moments: list[tuple[int, float]]) -> None:
        space = bench.space()
        async with bench.open(space) as opened, bench.replica(space) as replica:
            slot = face.slots[0]
            for i, (turns, seconds) in enumerate(moments):
                name = f"cancelled {i}"
                returned = await _cancelled(bench, partial(slot.put, opened, name, 3), turns, seconds)
                # A write that is still under way is a write all the same: what comes after it on one object follows it.
                await bench.soon(slot.put(opened, f"after {i}", 1))
                found = await slot.read(replica, [name])
                allowed = ({name: 3},) if returned else ({}, {name: 3})
                expect(found in allowed, " or ".join(map(repr, allowed)), found)

    bench.explore(st.lists(_moments, min_size=1, max_size=6), body)


@check("G8")
def a_crowd_of_cancelled_calls_starves_nobody(bench: Bench) -> None:
    """After two hundred calls were cancelled in flight, as many succeed at the same time."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open() as opened:
            slot = face.slots[0]
            before = _tasks()
            tasks = [asyncio.create_task(_put(slot.put, opened, f"cancelled {i}", 1)) for i in range(200)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await bench.soon(asyncio.wait(tasks), 30)
            names = [f"id {i}" for i in range(50)]
            await bench.soon(asyncio.gather(*(slot.put(opened, name, 2) for name in names)), 30)
            found = await slot.read(opened, names)
            expect(found == dict.fromkeys(names, 2), "all 50 writes after the cancelled ones", found)
            await _settled(before, "by cancelled calls")

    bench.run(body)


async def _put(put: Callable[[Any, str, int], Awaitable[Any]], opened: Any, name: str, number: int) -> None:
    await put(opened, name, number)


@check("G8")
def a_cancelled_next_item_loses_nothing(bench: Bench) -> None:
    """Though __anext__ is cancelled again and again, a subscriber gets every event exactly once, then END."""
    if bench.capability != "stream_bridge":
        bench.not_applicable("only streams are subscribed to")

    async def body(moments: list[tuple[int, float]]) -> None:
        space = bench.space(max_buffered_events=2)
        async with bench.open(space) as bridge, bench.replica(space) as replica, reading(bench, bridge, RUN) as reader:
            publishing = asyncio.create_task(_publish_slowly(replica, 20))
            seen: list[Any] = []
            turn = 0
            while not seen or seen[-1] is not END_SENTINEL:
                turns, seconds = moments[turn % len(moments)]
                turn += 1
                task = asyncio.create_task(reader.item())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if seconds:
                    await asyncio.sleep(seconds)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    seen.append(task.result())
                if turn % 3 == 0 and seen[-1:] != [END_SENTINEL]:
                    seen.append(await reader.item())
            await publishing
            expect(data_of(seen) == [*range(20), END_SENTINEL], "0 to 19 once each, then END", data_of(seen))

    bench.explore(st.lists(_moments, min_size=1, max_size=5), body)


async def _publish_slowly(bridge: Any, count: int) -> None:
    for number in range(count):
        await bridge.publish(RUN, "n", number)
        for _ in range(number % 3):
            await asyncio.sleep(0)
    await bridge.publish_end(RUN)


@check("G8")
def a_cancelled_batch_is_whole_or_absent(bench: Bench) -> None:
    """A cancelled publish_many stored all of its events, contiguous, or none; ids go on without a hole."""
    if bench.capability != "stream_bridge":
        bench.not_applicable("only streams are published to")

    async def body(moments: list[tuple[int, float]]) -> None:
        async with bench.open() as bridge:
            for i, (turns, seconds) in enumerate(moments):
                batch = [("n", (i, part)) for part in range(3)]
                await _cancelled(bench, partial(bridge.publish_many, RUN, batch), turns, seconds)
            await bridge.publish_end(RUN)
            async with reading(bench, bridge, RUN) as reader:
                events = [item for item in await reader.rest() if isinstance(item, StreamEvent)][:-1]
            seqs = [int(event.id.partition("-")[2]) for event in events]
            expect(seqs == list(range(1, len(seqs) + 1)), "seqs without a hole", seqs)
            stored = [[event.data for event in events[start : start + 3]] for start in range(0, len(events), 3)]
            for whole in stored:
                number = whole[0][0]
                expect(whole == [[number, part] for part in range(3)], "whole batches", whole)
            order = [whole[0][0] for whole in stored]
            expect(order == sorted(set(order)), "each batch at most once, in order", order)

    bench.explore(st.lists(_moments, min_size=1, max_size=6), body)


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
            await _raises_closed(bench, partial(_outcome, task), "a waiting __anext__")

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
        tasks, threads = _tasks(), set(threading.enumerate())
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
            await _settled(tasks, "after closing")
            await _until_no_thread_is_left(threads)
            gc.collect(0)
            left = {handle: target for handle, target in open_handles().items() if handles.get(handle) != target}
            expect(not left, "no file handle left after closing", left)

    bench.run(body)


async def _until_no_thread_is_left(before: set[threading.Thread]) -> None:
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(_SETTLE_SECONDS)
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
            await slot.put(stays, "two", 2)
            found = await slot.read(stays, ["one", "two"])
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
        "stream_bridge": ({"ttl_seconds": bench.short_ttl}, _write_a_run, _run_is_gone),
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
            await bench.soon(_until(bench, lambda: ended(there)), bench.short_ttl + 15)
            expect(await ended(here), "the same for every replica", "it is still there for the writer")

    bench.run(body)


async def _until(bench: Bench, condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await bench.sleep(0.05)


async def _write_a_run(bridge: Any) -> None:
    await bridge.publish(RUN, "n", 1)


async def _run_is_gone(bridge: Any) -> bool:
    return not await bridge.stream_exists(RUN)


async def _count_a_call(counters: Any) -> None:
    await counters.record("m", calls=1)


async def _window_is_past(counters: Any) -> bool:
    kept = await counters.window("m", seconds=500)
    expect(kept == Counts(calls=1), "the call in a window of 500 s", kept)
    return bool(await counters.window("m", seconds=1) == Counts())


# ---------------------------------------------------------------------------------------------------- G11 leftovers


@check("G11", waits=True)
def what_expires_is_hidden_at_once(bench: Bench) -> None:
    """Once its time is over nothing of it can be read, by any call, before any sweeper has run."""
    hidden = {"stream_bridge": _streams_are_hidden, "counters": _buckets_are_hidden}.get(bench.capability)
    if hidden is None:
        bench.not_applicable("nothing of it expires")
    bench.run(partial(hidden, bench))


async def _streams_are_hidden(bench: Bench) -> None:
    space = bench.space(ttl_seconds=bench.short_ttl)
    async with bench.open(space) as bridge:
        ids = await publish_numbers(bridge, RUN, (1, 2))
        if bench.virtual:
            await bench.sleep(bench.short_ttl - 0.001)
            expect(await bridge.stream_exists(RUN), "the stream until its ttl is over", "no stream")
            await bench.sleep(0.001)
        else:
            await bench.soon(_until(bench, lambda: _run_is_gone(bridge)), bench.short_ttl + 15)
        status = await bridge.status(RUN)
        expect(status is None, "status None once the ttl is over", status)
        async with reading(bench, bridge, RUN) as reader:
            await reader.waits()
        async with reading(bench, bridge, RUN, ids[0]) as reader:
            gap = await reader.item()
            expect(getattr(gap, "latest_available_event_id", "") is None, "a gap that knows nothing", gap)


async def _buckets_are_hidden(bench: Bench) -> None:
    async with bench.open(bucket_seconds=1, keep_buckets=2) as counters:
        await counters.record_many([Recorded("old", calls=1, age_seconds=30), Recorded("new", calls=1)])
        windows = await counters.all_windows(seconds=2)
        expect("old" not in windows, "no model whose buckets are over in a window", windows)
        totals = await counters.all_totals()
        expect(totals == {"old": Counts(calls=1), "new": Counts(calls=1)}, "both in the totals", totals)


@check("G11", waits=True)
def what_expired_is_freed(bench: Bench) -> None:
    """Storage of what has expired or was removed is freed while any opening is there."""
    rubbish: dict[str, Callable[[Any], Awaitable[None]]] = {
        "stream_bridge": _make_streams,
        "memory": _make_and_erase_memories,
        "thread_index": _make_and_delete_threads,
        "counters": _make_and_reset_counts,
    }
    options: dict[str, dict[str, Any]] = {"stream_bridge": {"ttl_seconds": 1.0}, "counters": {"token_seconds": 1.0}}

    async def body() -> None:
        space = bench.space(**options.get(bench.capability, {}))
        async with bench.open(space) as opened:
            before = await _owned(bench, space)
            await rubbish[bench.capability](opened)

            async def freed() -> bool:
                return int(await _owned(bench, space)) <= before

            # Within 2 minutes: in virtual time exactly; else those who give owned= open with a small sweep_seconds.
            await bench.soon(_until_slowly(bench, freed), 125 if bench.virtual else 50)

    bench.run(body)


async def _until_slowly(bench: Bench, condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await bench.sleep(1.0 if bench.virtual else 0.2)


async def _owned(bench: Bench, space: Space) -> int:
    owned = await bench.owned(space)
    if owned is None:
        bench.not_applicable("the author gave no owned=, so what is stored cannot be counted")
    return int(owned)


async def _make_streams(bridge: Any) -> None:
    for number in range(20):
        await publish_numbers(bridge, f"run {number}", (1, 2))
        if number % 3 == 0:
            await bridge.publish_end(f"run {number}")
        if number % 2:
            await bridge.cleanup(f"run {number}", delay=number % 4 / 10)


async def _make_and_erase_memories(store: Any) -> None:
    for number in range(20):
        await store.apply(f"user {number}", [PutFact("a", "f", {"n": 1}), PutFact(None, "f", {})])
        await store.erase(f"user {number}")


async def _make_and_delete_threads(index: Any) -> None:
    for number in range(20):
        await index.create(NewThread(f"t{number}", USER, metadata={"n": number}))
        await index.delete(f"t{number}", user_id=USER)


async def _make_and_reset_counts(counters: Any) -> None:
    for number in range(20):
        await counters.record(f"model {number}", calls=1, token=f"token {number}")
        await counters.reset(f"model {number}")


@check("G11")
def what_is_stored_is_bounded(bench: Bench) -> None:
    """Ten times the writes over the same things store no more: trimmed events and replaced values are gone."""
    options: dict[str, dict[str, Any]] = {"stream_bridge": {"max_events": 4}}

    async def body() -> None:
        space = bench.space(**options.get(bench.capability, {}))
        async with bench.open(space) as opened:
            await _write_over(bench, opened, 10)
            once = await _owned(bench, space)
            await _write_over(bench, opened, 100)

            async def bounded() -> bool:
                return int(await _owned(bench, space)) <= once

            await bench.soon(_until_slowly(bench, bounded), 125 if bench.virtual else 50)

    bench.run(body)


async def _write_over(bench: Bench, opened: Any, times: int) -> None:
    """Write the same few things again and again."""
    for number in range(times):
        match bench.capability:
            case "stream_bridge":
                await opened.publish(RUN, "n", number)
            case "memory":
                await opened.apply(USER, [PutFact(None, "f", {"n": number}), DeleteFact(None, f"f{number}")])
            case "thread_index":
                with suppress(BackendsError):  # it is there already
                    await opened.create(NewThread("t", USER))
                await opened.update("t", user_id=USER, metadata={"n": number})
            case "counters":
                await opened.record("m", calls=1)


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
