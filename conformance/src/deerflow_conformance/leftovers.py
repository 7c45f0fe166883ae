"""Checks of what a backend goes on storing, for all four capabilities: G11."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.errors import BackendsError
from deerflow_backends.memories import DeleteFact, PutFact
from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import until
from deerflow_conformance.faces import RUN, USER
from deerflow_conformance.spaces import Space
from deerflow_conformance.stream_steps import has_no_status
from deerflow_conformance.subscribers import publish_numbers, reading

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
            await until(bench, lambda: has_no_status(bridge, RUN), bench.short_ttl + 15)
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
            before = await stored(bench, space)
            await rubbish[bench.capability](opened)
            await until_freed(bench, space, before)

    bench.run(body)


async def until_freed(bench: Bench, space: Space, before: int) -> None:
    """Expect no more to be stored than *before*, once there was time to sweep."""
    loop = asyncio.get_running_loop()
    # Within 2 minutes: in virtual time exactly; else those who give owned= open with a small sweep_seconds.
    end = loop.time() + (seconds := 125 if bench.virtual else 50)
    while (now := await stored(bench, space)) > before:
        expect(loop.time() < end, f"no more than {before:,} things stored after {seconds} s", f"{now:,}")
        await bench.sleep(1.0 if bench.virtual else 0.2)


async def stored(bench: Bench, space: Space) -> int:
    """Return what is stored of *space* by the author's own count: without one the check does not apply.

    With one that counts nothing it could not run.
    """
    owned = await bench.owned(space)
    if owned is None:
        bench.not_given("owned=", "what is stored cannot be counted")
    await bench.expect_owned_counts()
    return int(owned)


async def _make_streams(bridge: Any) -> None:
    for number in range(20):
        await publish_numbers(bridge, f"run {number}", (1, 2))
        if number % 3 == 0:
            await bridge.publish_end(f"run {number}")
        if number % 2:
            await bridge.cleanup(f"run {number}", delay=(number % 4 - 1) / 10)


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
    options: dict[str, dict[str, Any]] = {
        "stream_bridge": {"max_events": 4},
        "counters": {"bucket_seconds": 1, "keep_buckets": 2},  # with the default a minute may begin in between
    }

    async def body() -> None:
        space = bench.space(**options.get(bench.capability, {}))
        async with bench.open(space) as opened:
            await _write_over(bench, opened, 10)
            once = await stored(bench, space)
            await _write_over(bench, opened, 100)
            await until_freed(bench, space, once)

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
