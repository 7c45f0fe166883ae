"""Checks of all four capabilities under load, in counts alone: G8, G9 and G11."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from deerflow_backends.errors import BackendsError, Conflict, StreamEnded
from deerflow_backends.memories import DeleteFact, PutBody, PutFact
from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.crowds import CROWD_SECONDS
from deerflow_conformance.faces import USER, face_of
from deerflow_conformance.leftovers import stored, until_freed
from deerflow_conformance.meters import held, memory_blocks

#: How many calls are in flight at once.
_AT_ONCE: Final = 50
#: How many there are before anything is counted: what a backend keeps ready is ready then.
_FIRST: Final = 500
#: After so long no further call is made: a slow backend is held to as many as it did.
_LONG_ENOUGH_SECONDS: Final = 5.0
#: So many more tasks are no growth: some come and go.
_A_FEW: Final = 4


async def together(bench: Bench, calls: Iterable[Callable[[], Awaitable[Any]]]) -> int:
    """Make these calls, many at once, but no further ones after 5 s; return how many were made."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _LONG_ENOUGH_SECONDS
    waiting, made = iter(calls), 0

    async def make_some() -> None:
        nonlocal made
        for call in waiting:
            await call()
            made += 1
            if loop.time() >= end and not bench.virtual:
                return

    async def make_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(make_some())

    await bench.soon(make_all(), CROWD_SECONDS)
    return made


# ------------------------------------------------------------------------------------------------ G8 cancellation


@check("G8", level="load")
def ten_thousand_calls_leave_nothing(bench: Bench) -> None:
    """After ten thousand calls of every kind, a fifth of them cancelled, no task, thread or handle is left."""
    face = face_of(bench.capability)
    count = bench.volume(10_000)

    async def body() -> None:
        async with bench.open() as opened:
            slot = face.slots[0]
            await slot.put(opened, "before", 1)
            await together(bench, _calls(bench, opened, _FIRST))
            tasks, few = len(asyncio.all_tasks()), held()
            made = await together(bench, _calls(bench, opened, count))
            await _until_no_more_tasks(bench, tasks, f"after {made:,} calls")
            few.expect_no_more(held(), f"{made:,} calls")
            found = await slot.read(opened, ["before"])
            expect(found == {"before": 1}, "what was written before the calls", found)

    bench.run(body)


def _calls(bench: Bench, opened: Any, count: int) -> Iterable[Callable[[], Awaitable[Any]]]:
    """Make *count* calls of every kind in turn, on few identifiers, every fifth of them to be cancelled."""
    face = face_of(bench.capability)
    for number in range(count):
        calls = list(face.calls(opened, f"id {number % 20}").values())
        call = calls[number % len(calls)]
        yield partial(_cancelled, call, bench.random.randrange(6)) if number % 5 == 0 else partial(_made, call)


async def _made(call: Callable[[], Awaitable[Any]]) -> None:
    with suppress(StreamEnded, Conflict):  # others have ended that run, or created that thread
        await call()


async def _cancelled(call: Callable[[], Awaitable[Any]], turns: int) -> None:
    task = asyncio.create_task(_made(call))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _until_no_more_tasks(bench: Bench, few: int, when: str) -> None:
    """Expect about as few tasks as there were, allowing those that are about to end a moment."""
    for _ in range(100):
        if len(asyncio.all_tasks()) <= few + _A_FEW:
            return
        await bench.sleep(0.05)
    names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    expect(names.total() <= few + _A_FEW, f"about {few} tasks {when}", f"{names.total()}: {names.most_common(3)}")


# ------------------------------------------------------------------------------------------------------- G9 close


@check("G9", level="load")
def closing_under_load_leaves_nothing(bench: Bench) -> None:
    """Closed with 200 calls in flight, twenty times, all of them end, and no task, thread or handle is left."""
    turns = bench.volume(20)

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as opened:  # makes files and what the process keeps for good
            await face_of(bench.capability).slots[0].put(opened, "first", 1)
        tasks, few = len(asyncio.all_tasks()), held()
        for _ in range(turns):
            async with bench.open(space) as opened:
                calling = asyncio.gather(*(_ended(call) for call in _calls(bench, opened, 200)))
                await asyncio.sleep(0)
            await bench.soon(calling, CROWD_SECONDS)
        await _until_no_more_tasks(bench, tasks, f"after {turns} closings")
        few.expect_no_more(held(), f"{turns} closings with 200 calls in flight")

    bench.run(body)


async def _ended(call: Callable[[], Awaitable[Any]]) -> None:
    """Make a call that may be closed over: then it is refused, or nobody knows what it did."""
    with suppress(BackendsError, asyncio.CancelledError):
        await call()


# --------------------------------------------------------------------------------------------------- G11 leftovers


@check("G11", level="load")
def ten_thousand_names_leave_nothing(bench: Bench) -> None:
    """Ten thousand calls on ever new names, which are then removed or expire, leave nothing stored."""
    come_and_go = {
        "stream_bridge": _come_and_go_runs,
        "memory": _come_and_go_users,
        "thread_index": _come_and_go_threads,
        "counters": _come_and_go_models,
    }[bench.capability]
    count = bench.volume(10_000) // 2
    options: dict[str, dict[str, Any]] = {"stream_bridge": {"ttl_seconds": 1.0}, "counters": {"token_seconds": 1.0}}

    async def body() -> None:
        # Tokens of writes are kept about as long as those may be repeated.
        space = bench.space(publish_timeout_seconds=1.0, **options.get(bench.capability, {}))
        async with bench.open(space) as opened:
            before = await stored(bench, space)
            await together(bench, (partial(come_and_go, opened, f"name {number}") for number in range(count)))
            await until_freed(bench, space, before)

    bench.run(body)


async def _come_and_go_runs(bridge: Any, name: str) -> None:
    await bridge.publish(name, "n", 1)
    await bridge.cleanup(name)


async def _come_and_go_users(store: Any, name: str) -> None:
    await store.apply(name, [PutFact("a", "f", {"n": 1}), PutBody(None, {"n": 1})])
    await store.erase(name)


async def _come_and_go_threads(index: Any, name: str) -> None:
    await index.create(NewThread(name, name, status=name, metadata={"n": 1}))
    await index.delete(name, user_id=name)


async def _come_and_go_models(counters: Any, name: str) -> None:
    await counters.record(name, calls=1, token=name)
    await counters.reset(name)


@check("G11", level="load")
def ten_thousand_writes_over_the_same_keep_no_more(bench: Bench) -> None:
    """Ten thousand writes over the same few things store no more than the first ones, and keep no more in memory."""
    write = {
        "stream_bridge": _write_a_run,
        "memory": _write_a_fact,
        "thread_index": _write_a_thread,
        "counters": _write_a_model,
    }[bench.capability]
    count = bench.volume(10_000)
    options: dict[str, dict[str, Any]] = {
        "stream_bridge": {"max_events": 4},
        "counters": {"bucket_seconds": 1, "keep_buckets": 2},
    }

    async def body() -> None:
        space = bench.space(**options.get(bench.capability, {}))
        async with bench.open(space) as opened:

            def writes(count: int) -> Iterable[Callable[[], Awaitable[Any]]]:
                return (partial(write, opened, f"name {number % 10}", number) for number in range(count))

            await together(bench, writes(_FIRST))
            counts = await bench.owned(space) is not None
            once = await stored(bench, space) if counts else 0
            blocks = memory_blocks()
            made = await together(bench, writes(count))
            kept = memory_blocks() - blocks
            expect(kept < made // 2 + 1_000, f"no more memory with each of {made:,} writes", f"{kept:,} pieces more")
            if counts:
                await until_freed(bench, space, once)

    bench.run(body)


async def _write_a_run(bridge: Any, name: str, number: int) -> None:
    await bridge.publish(name, "n", number)


async def _write_a_fact(store: Any, name: str, number: int) -> None:
    await store.apply(name, [PutFact(None, "f", {"n": number}), DeleteFact("a", "f"), PutBody("a", {"n": number})])


async def _write_a_thread(index: Any, name: str, number: int) -> None:
    if await index.update(name, user_id=USER, metadata={"n": number}) is None:
        with suppress(Conflict):  # another one was faster
            await index.create(NewThread(name, USER))


async def _write_a_model(counters: Any, name: str, number: int) -> None:
    await counters.record(name, calls=number % 3)
