"""Checks of cancelling calls, for all four capabilities: G8."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from hypothesis import strategies as st

from deerflow_backends.errors import BackendsError
from deerflow_backends.streams import END_SENTINEL, StreamEvent
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import accepted, outcome_of, settled
from deerflow_conformance.faces import RUN, face_of
from deerflow_conformance.subscribers import data_of, reading

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
        await bench.soon(outcome_of(task))
    except asyncio.CancelledError:
        return False
    except (BackendsError, StopAsyncIteration):
        return False
    return True


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
            before = asyncio.all_tasks()
            for i, (turns, seconds) in enumerate(moments):
                for name, call in face.calls(opened, f"cancelled {i}").items():
                    await _cancelled(bench, call, turns, seconds)
                    after = f"a read after {name} was cancelled"
                    found = await accepted(bench.soon(slot.read(opened, ["before"])), after)
                    expect(found == {"before": 1}, f"'before' as it was, after {name} was cancelled", found)
                await accepted(bench.soon(slot.put(opened, f"after {i}", i + 1)), "a write after calls were cancelled")
                found = await bench.soon(slot.read(opened, [f"after {i}"]))
                expect(found == {f"after {i}": i + 1}, "what was written after the cancellations", found)
            await settled(before, "by cancelled calls")

    bench.run(partial(body, [(turns, 0.0) for turns in range(4)] * 2))
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
def cancelling_ends_a_call(bench: Bench) -> None:
    """A call that is cancelled while it waits ends as cancelled: whoever swallows that breaks timeouts around it."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open() as opened:
            waiting = {name: list[bool]() for name in face.calls(opened, "names")}
            for turns in range(12):
                for name, call in face.calls(opened, f"after {turns} turns").items():
                    begun = asyncio.Event()
                    task = asyncio.create_task(_outcome_of(call, begun))
                    await begun.wait()  # or it would be cancelled before the call is made
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if task.cancel():
                        await bench.soon(asyncio.wait([task]))
                        waiting[name].append(task.cancelled())
            for name, cancelled in waiting.items():
                # One or another may have been done at that very moment; not all of them.
                expect(len(cancelled) < 3 or any(cancelled), f"CancelledError out of {name}", "none, ever")

    bench.run(body)


async def _outcome_of(call: Callable[[], Awaitable[Any]], begun: asyncio.Event) -> None:
    begun.set()
    with suppress(BackendsError):
        await call()


@check("G8")
def a_crowd_of_cancelled_calls_starves_nobody(bench: Bench) -> None:
    """After hundreds of calls were cancelled in flight, others succeed at the same time."""
    face = face_of(bench.capability)

    async def body() -> None:
        async with bench.open() as opened:
            slot = face.slots[0]
            before = asyncio.all_tasks()
            for turns in range(1, 5):
                names = [f"cancelled {turns} {i}" for i in range(200)]
                tasks = [asyncio.create_task(_put(slot.put, opened, name, 1)) for name in names]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await bench.soon(asyncio.wait(tasks), 30)
            names = [f"id {i}" for i in range(50)]
            await bench.soon(asyncio.gather(*(slot.put(opened, name, 2) for name in names)), 30)
            found = await slot.read(opened, names)
            expect(found == dict.fromkeys(names, 2), "all 50 writes after the cancelled ones", found)
            await settled(before, "by cancelled calls")

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

    bench.run(partial(body, [(turns, 0.0) for turns in range(1, 9)]))
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
