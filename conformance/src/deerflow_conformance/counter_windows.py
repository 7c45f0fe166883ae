"""Checks of windows and resets of model counters: C4 and C6."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.errors import InvalidArgument
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.counter_programs import WindowProgram, counter_programs, window_programs
from deerflow_conformance.counter_steps import DAY, FIRST, SECOND, expect_counts, play
from deerflow_conformance.expectations import expect_same, refused, repeated_while, until
from deerflow_conformance.leftovers import stored

# ---------------------------------------------------------------------- C4


@check("C4")
def windows_hold_their_buckets(bench: Bench) -> None:
    """A recording is in a window if it happened within it, and is not if its whole bucket lies before it."""

    async def body(program: WindowProgram) -> None:
        width, longest = program.bucket_seconds, program.bucket_seconds * program.keep_buckets
        time = asyncio.get_running_loop().time
        recorded: list[tuple[float, float]] = []  # earliest and latest moment of each
        async with bench.open(bucket_seconds=width, keep_buckets=program.keep_buckets) as counters:
            for pause, age in program.moments:
                await bench.sleep(pause / 10 * width + (0.01 if bench.virtual else 0))
                before, age_seconds = time(), age / 10 * width
                # Every recording has a bit of its own, so that the sum tells which are in it.
                await counters.record_many([Recorded("gpt", calls=1 << len(recorded), age_seconds=age_seconds)])
                recorded.append((before - age_seconds, time() - age_seconds))
                for share in program.shares:
                    seconds = max(1, round(share * longest))
                    before = time()
                    one = await counters.window("gpt", seconds=seconds)
                    every = await counters.all_windows(seconds=seconds)
                    after = time()
                    for got in (one.calls, every.get("gpt", Counts()).calls):
                        _expect_window(recorded, got, (before - seconds, after - seconds), width)
            expect_same("totals", (1 << len(recorded)) - 1, (await counters.totals("gpt")).calls)

    bench.explore(window_programs(pauses=bench.virtual), body)


def _expect_window(recorded: list[tuple[float, float]], got: int, starts: tuple[float, float], width: int) -> None:
    """Hold which recordings are in a window, by their bits, against its earliest and latest possible start."""
    slack = 0.002  # clocks may count in milliseconds
    for bit, (earliest, latest) in enumerate(recorded):
        inside = bool(got >> bit & 1)
        window = f"the recording {starts[1] - earliest:.3f} s after the start of a window with buckets of {width} s"
        if earliest > starts[1] + slack:
            expect(inside, f"in it: {window}", f"it is missing: {got:b}")
        elif latest + width < starts[0] - slack:
            expect(
                not inside, f"not in it: one {starts[0] - latest:.3f} s before its start, buckets {width} s", f"{got:b}"
            )
    expect(got < 1 << len(recorded), "nothing counted twice", f"{got:b}")


@check("C4")
def windows_reach_as_far_as_what_is_kept(bench: Bench) -> None:
    """Of hours, days and up to a year, each window holds what happened within it, also after a sweep."""
    parts = 24

    async def body(width: int, kept: int) -> None:
        time = asyncio.get_running_loop().time
        step = width * kept // parts
        async with bench.open(bucket_seconds=width, keep_buckets=kept) as counters:
            ages = [step * (number + 0.5) for number in range(parts)]
            before = time()
            await counters.record_many([Recorded("gpt", 1 << n, age_seconds=age) for n, age in enumerate(ages)])
            recorded = [(before - age, time() - age) for age in ages]
            for _ in range(2 if bench.virtual else 1):
                for seconds in range(step, step * parts + 1, step):
                    before = time()
                    one = await counters.window("gpt", seconds=seconds)
                    every = await counters.all_windows(seconds=seconds)
                    for got in (one.calls, every.get("gpt", Counts()).calls):
                        _expect_window(recorded, got, (before - seconds, time() - seconds), width)
                await bench.sleep(100 if bench.virtual else 0)

    async def bodies() -> None:
        await asyncio.gather(*(body(width, kept) for width, kept in ((60, 1_440), (3_600, 720), (86_400, 366))))

    bench.run(bodies)


@check("C4", waits=True)
def time_moves_windows_on(bench: Bench) -> None:
    """What was recorded leaves the short window, then the longest one, while totals keep it, on every instance."""

    async def body() -> None:
        space = bench.space(bucket_seconds=1, keep_buckets=4)
        old, new = Counts(1, 1), Counts(2, 0, 2)
        async with bench.open(space) as counters, bench.open(space) as other:
            await counters.record_many([Recorded("old", 1, 1, age_seconds=2.5)])
            await other.record("new", calls=2, failures=2)
            for instance in (counters, other):
                expect_same("the last second", {"new": new}, await instance.all_windows(seconds=1))
                expect_same("the last 4 s", {"old": old, "new": new}, await instance.all_windows(seconds=4))
            await bench.sleep(2.6)
            for instance in (counters, other):
                expect_same("the last second, later", {}, await instance.all_windows(seconds=1))
                expect_same("the last 4 s, later", {"new": new}, await instance.all_windows(seconds=4))
                expect_same("old's window", Counts(), await instance.window("old", seconds=4))
                expect_same("totals", {"old": old, "new": new}, await instance.all_totals())

    bench.run(body)


@check("C4")
def windows_have_bounds(bench: Bench) -> None:
    """Windows below 1 s or longer than what is kept are InvalidArgument; ages count where they belong, or nowhere."""

    async def body() -> None:
        async with bench.open(bucket_seconds=60, keep_buckets=5) as counters:
            for seconds in (0, -1, 301, 10**30, True, 1.0, "60", None):
                await refused(counters.window("gpt", seconds=seconds), InvalidArgument, f"{seconds=}")
                await refused(counters.all_windows(seconds=seconds), InvalidArgument, f"{seconds=}")
            no_ages: list[Any] = [-1, float("nan"), float("inf"), "1", None, True]
            for age in no_ages:
                try:
                    got = Recorded("gpt", 1, age_seconds=age)
                except InvalidArgument:
                    continue
                unkept(f"InvalidArgument for an age of {age!r}", got)
            ages = [0, 59.9, 290, 365, 10_000, 31_557_600_000]
            await counters.record_many([Recorded("gpt", 1 << n, age_seconds=age) for n, age in enumerate(ages)])
            expect_same("calls of the longest window", 0b000111, (await counters.window("gpt", seconds=300)).calls)
            expect_same("calls ever", 0b111111, (await counters.totals("gpt")).calls)
            expect(
                1 & (await counters.window("gpt", seconds=1)).calls, "the current bucket in the shortest window", "not"
            )

    bench.run(body)


@check("C4", waits=True)
def old_buckets_are_removed(bench: Bench) -> None:
    """Buckets that no window reaches any more are removed from what is stored, while totals keep what was in them."""

    async def body() -> None:
        space = bench.space(bucket_seconds=1, keep_buckets=2)
        async with bench.open(space) as counters:
            await counters.record("gpt", calls=1)
            once = await stored(bench, space)
            for _ in range(8):
                await bench.sleep(1.1)
                await counters.record("gpt", calls=1)

            async def removed() -> bool:
                # Beside the current bucket those that are kept, and one that is about to go.
                return await stored(bench, space) <= once + 3

            await until(bench, removed, 125 if bench.virtual else 50)
            expect_same("the total", 9, (await counters.totals("gpt")).calls)

    bench.run(body)


# ---------------------------------------------------------------------- C6


@check("C6")
def reset_forgets_one_model(bench: Bench) -> None:
    """Among any recordings, reset takes exactly its model from totals and windows; later ones count from zero."""
    bench.explore(counter_programs(resets=True), lambda program: play(bench, program))


@check("C6")
def reset_forgets_sums_below_zero(bench: Bench) -> None:
    """After reset none of a day's buckets and no hidden negative sum is left, and the model is not named any more."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as counters, bench.replica(space) as other:
            owned = await bench.owned(space)
            old = [Recorded("gpt", 5, 3, 2, -7, -7, age_seconds=age) for age in range(0, DAY, 60)]
            await counters.record_many([*old, Recorded("GPT", 1, 1, 0, 1, 1)])
            await other.reset("gpt")
            for instance in (counters, other):
                every = [await instance.all_totals(), await instance.all_windows(seconds=DAY)]
                expect_same("what is left", [{"GPT": Counts(1, 1, 0, 1, 1)}] * 2, every)
            await counters.record("gpt", calls=1, positive=1, negative=1)
            await expect_counts(other, {"gpt": Counts(1, 0, 0, 1, 1), "GPT": Counts(1, 1, 0, 1, 1)})
            await counters.reset("absent")
            await counters.reset("gpt")
            await counters.reset("GPT")
            await expect_counts(other, {}, ["gpt", "GPT", "absent"])
            expect(owned is None or await bench.owned(space) <= owned, f"{owned} owned", await bench.owned(space))

    bench.run(body)


@check("C6")
def resets_among_recordings_stay_whole(bench: Bench) -> None:
    """While replicas record and reset a model, no reader sees part of a recording, in totals or windows."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as reader, bench.open(space) as second, bench.replica(space) as third:

            async def write(pauses: int) -> None:
                for _ in range(20):
                    await second.record("gpt", calls=1, successes=1)
                    for _ in range(pauses):
                        await asyncio.sleep(0)

            async def reset(pauses: int) -> None:
                for _ in range(10):
                    await third.reset("gpt")
                    for _ in range(pauses):
                        await asyncio.sleep(0)

            async def read() -> None:
                for counts in (await reader.totals("gpt"), await reader.window("gpt", seconds=DAY)):
                    expect(counts.calls == counts.successes <= 20, "calls equal to successes", counts)

            for pauses in itertools.product((1, 2), (1, 2)):
                await repeated_while(asyncio.gather(write(pauses[0]), reset(pauses[1])), read)
                totals, window = await reader.totals("gpt"), await reader.window("gpt", seconds=DAY)
                expect_same("the window, all of it recent, as the totals", totals, window)
                await third.reset("gpt")
                await expect_counts(reader, {}, ["gpt"])

    bench.run(body)


@check("C6")
def a_reset_forgets_no_token(bench: Bench) -> None:
    """A recording that comes again after its model was reset is still not counted again."""

    async def body() -> None:
        async with bench.open() as counters:
            await counters.record("gpt", calls=1, token=FIRST)
            await counters.reset("gpt")
            await counters.record("gpt", calls=1, token=FIRST)
            await expect_counts(counters, {}, ["gpt"])
            await counters.record("gpt", calls=1, token=SECOND)
            await expect_counts(counters, {"gpt": Counts(1)})

    bench.run(body)
