"""Checks of cleanups that are due much later, and of how long what they leave lasts: S13."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from deerflow_backends.errors import StreamEnded
from deerflow_backends.streams import StreamBridge, StreamGap, StreamOptions
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import accepted, until
from deerflow_conformance.spaces import Space
from deerflow_conformance.stream_steps import RUN, has_no_status, status_of
from deerflow_conformance.subscribers import publish_numbers, reading, replays, two_instances

#: When cleanups are due, in seconds: the last one later than the stream would expire.
_DELAYS: Final = (90.0, 700.0, 7_200.0, 80_000.0, 150_000.0)
#: More milliseconds than 31 bits hold.
_WEEKS_SECONDS: Final = 3_000_000.0
_TTL_SECONDS: Final = StreamOptions().ttl_seconds
#: A busy machine may take as long as that between two calls.
_ABOUT: Final = timedelta(seconds=30)


@check("S13")
def a_cleanup_may_be_due_in_hours(bench: Bench) -> None:
    """However late it is due, expires_at tells of it, events and END leave it as it is, and it is done then."""

    async def body() -> None:
        space = bench.space()
        await asyncio.gather(*(_is_cleaned_after(bench, space, delay) for delay in _DELAYS))
        async with bench.open(space) as bridge:
            await publish_numbers(bridge, RUN, (1,))
            expires_at = (await status_of(bridge, RUN)).expires_at
            await bridge.cleanup(RUN, delay=_WEEKS_SECONDS)
            await _vanishes_at(bridge, RUN, expires_at)
            await replays(bench, bridge, RUN, None, [1])

    bench.run(body, virtual_seconds=2 * max(_DELAYS))


async def _is_cleaned_after(bench: Bench, space: Space, delay: float) -> None:
    """Schedule a cleanup of one run; in virtual time, see it done too. While time passes nothing is open."""
    run = f"in {delay:g} s"
    async with bench.open(space) as bridge:
        ids = await publish_numbers(bridge, run, (1,))
        begun = (await status_of(bridge, run)).expires_at - timedelta(seconds=_TTL_SECONDS)  # by the server's clock
        await bridge.cleanup(run, delay=delay)
        await _vanishes_at(bridge, run, begun + timedelta(seconds=min(delay, _TTL_SECONDS)))
    passed = delay / 2 if bench.virtual else 0.0
    await bench.sleep(passed)
    async with bench.open(space) as bridge:
        ids += await publish_numbers(bridge, run, (2,))
        vanishes_at = begun + timedelta(seconds=min(delay, passed + _TTL_SECONDS))
        await _vanishes_at(bridge, run, vanishes_at)
        await bridge.publish_end(run)
        await _vanishes_at(bridge, run, vanishes_at)
    if bench.virtual:
        await bench.sleep(delay - passed - 1)
        async with bench.open(space) as bridge:
            status = await status_of(bridge, run)
            expect(status.length == 2, "both events until the cleanup is due", status)
        await bench.sleep(1)
        async with bench.open(space) as bridge:
            await until(bench, lambda: has_no_status(bridge, run), 3)
            await _is_a_trace(bench, bridge, run, ids)
        await bench.sleep(_TTL_SECONDS - 10)
        async with bench.open(space) as bridge:
            await _is_a_trace(bench, bridge, run, ids)


async def _vanishes_at(bridge: StreamBridge, run: str, moment: datetime) -> None:
    status = await status_of(bridge, run)
    expect(abs(status.expires_at - moment) < _ABOUT, f"expires_at about {moment} of the run {run!r}", status)


async def _is_a_trace(bench: Bench, bridge: StreamBridge, run: str, ids: list[str]) -> None:
    """Expect the trace of a run that has ended, with these ids."""
    async with reading(bench, bridge, run) as reader:
        await reader.ends()
    async with reading(bench, bridge, run, ids[0]) as reader:
        await reader.is_gap(StreamGap(ids[0], None, ids[-1]))
    expect(await _is_over(bridge, run), "StreamEnded, for the trace is still there", "an event stored")


async def _is_over(bridge: StreamBridge, run: str) -> bool:
    """Whether publishing is refused; otherwise it has begun a new stream."""
    try:
        await bridge.publish(run, "n", "again")
    except StreamEnded:
        return True
    return False


@check("S13", waits=True)
def what_expires_before_its_cleanup_leaves_no_trace(bench: Bench) -> None:
    """A stream that expired before its cleanup was due is gone without trace, and the next one is not cleaned."""

    async def body() -> None:
        ttl = bench.short_ttl
        async with two_instances(bench, ttl_seconds=ttl) as (a, b):
            ids = await publish_numbers(a, RUN, (1, 2))
            await a.publish_end(RUN)
            await b.cleanup(RUN, delay=2 * ttl)
            await bench.sleep(2.3 * ttl)  # nobody looks before the cleanup would have been due
            await until(bench, lambda: has_no_status(a, RUN))
            async with reading(bench, a, RUN, ids[0]) as reader:
                await reader.is_gap(StreamGap(ids[0], None, None))
            await accepted(publish_numbers(b, RUN, (3,)), "an event, for nothing is left of a run that expired")
            await replays(bench, a, RUN, None, [3])

    bench.run(body)


@check("S13", waits=True)
def a_trace_lasts_from_its_cleanup_on(bench: Bench) -> None:
    """Its time begins when the cleanup is due, though nobody looks then, and nothing that is done to it prolongs it."""

    async def body() -> None:
        ttl = bench.short_ttl
        async with two_instances(bench, ttl_seconds=ttl) as (a, b):
            for run in ("due later", "cleaned again", "ended again", "read", "last"):
                await publish_numbers(a, run, (1,))
                await a.publish_end(run)
            await a.cleanup("due later", delay=0.2 * ttl)
            for run in ("cleaned again", "ended again", "read"):
                await a.cleanup(run)
            await bench.sleep(0.3 * ttl)
            await a.cleanup("last")
            await bench.sleep(0.4 * ttl)
            await b.cleanup("cleaned again")
            await b.publish_end("ended again")
            async with reading(bench, b, "read") as reader:
                await reader.ends()

            async def the_last_is_gone() -> bool:
                return not await _is_over(b, "last")

            # Not by our clock: what was cleaned before the last one is gone when that one is.
            await until(bench, the_last_is_gone, ttl + 15)
            for run in ("due later", "cleaned again", "ended again", "read"):
                over = await _is_over(b, run)
                expect(not over, f"no trace of the run {run!r}, since that of one cleaned later is gone", "StreamEnded")

    bench.run(body)
