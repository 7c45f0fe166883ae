"""Checks of the model counters: C1 to C4, C6 and C7; those of the buffer are in a module of their own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any

from deerflow_backends.counters import Counts, ModelCounters, Recorded
from deerflow_backends.errors import InvalidArgument
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.counter_programs import MODELS, WindowProgram, counter_programs, window_programs
from deerflow_conformance.counter_steps import DAY, FIGURES, FIRST, SECOND, expect_counts, play
from deerflow_conformance.expectations import expect_same, refused, repeated_while, until
from deerflow_conformance.programs import IDENTIFIERS

# ---------------------------------------------------------------------- C1


@check("C1")
def totals_are_sums(bench: Bench) -> None:
    """Totals and windows are what was recorded, summed, thumbs signed and never shown below 0, on every instance."""
    bench.explore(counter_programs(), lambda program: play(bench, program))


@check("C1")
def concurrent_recordings_all_count(bench: Bench) -> None:
    """Two hundred recordings at once, over replicas, one by one and many together, are all counted."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            instances = [first, second, third]
            calls: list[Awaitable[None]] = []
            for number in range(100):
                counters = instances[number % 3]
                calls.append(
                    counters.record("gpt", calls=1, successes=number % 2, failures=1 - number % 2, positive=-1)
                )
                calls.append(
                    counters.record_many([Recorded("gpt", 2, 2), Recorded("GPT", 0, 0, 3), Recorded("gpt", 1, 1)])
                )
            await asyncio.gather(*calls)
            for counters in instances:
                await expect_counts(counters, {"gpt": Counts(400, 350, 50), "GPT": Counts(0, 0, 300)})

    bench.run(body)


@check("C1")
def thumbs_are_signed_and_shown_from_zero(bench: Bench) -> None:
    """A thumb taken back is -1; a sum below 0 shows as 0 in totals and windows and still counts as what it is."""

    async def body() -> None:
        async with bench.open() as counters:
            steps = [(-2, 1, 0, 1), (1, -1, 0, 0), (3, -5, 2, 0), (0, 7, 2, 2), (-1, 0, 1, 2)]
            for positive, negative, shown_positive, shown_negative in steps:
                await counters.record("gpt", positive=positive, negative=negative)
                wanted = Counts(0, 0, 0, shown_positive, shown_negative)
                await expect_counts(counters, {"gpt": wanted})

    bench.run(body)


@check("C1")
def thumbs_are_summed_before_they_are_shown(bench: Bench) -> None:
    """A thumb taken back in a later bucket takes one off the window's sum: buckets are not shown from 0 each."""

    async def body() -> None:
        async with bench.open() as counters:
            await counters.record_many([Recorded("gpt", positive=3, age_seconds=600), Recorded("gpt", positive=-2)])
            await counters.record_many([Recorded("GPT", negative=-2, age_seconds=600), Recorded("GPT", negative=1)])
            await expect_counts(counters, {"gpt": Counts(positive=1), "GPT": Counts()})

    bench.run(body)


@check("C1")
def bad_counts_are_refused(bench: Bench) -> None:
    """Counts that are no integers, or negative where they must not be, are InvalidArgument and nothing is counted."""

    async def body() -> None:
        async with bench.open() as counters:
            for name in FIGURES:
                bad_figures: list[Any] = [1.0, True, "1", None, float("nan"), 10**30]
                for figure in bad_figures if name in {"positive", "negative"} else [-1, *bad_figures]:
                    figures: dict[str, Any] = {"calls": 1, name: figure}
                    await refused(counters.record("gpt", **figures), InvalidArgument, f"{name}={figure!r}")
            no_recordings: list[Any] = [None, "gpt", {}, [("gpt", 1)], [Recorded("gpt", 1), {}], Recorded("gpt", 1)]
            for bad in no_recordings:
                await refused(counters.record_many(bad), InvalidArgument, f"record_many of {bad!r}")
            await expect_counts(counters, {}, ["gpt"])

    bench.run(body)


# ---------------------------------------------------------------------- C2


@check("C2")
def a_token_counts_once(bench: Bench) -> None:
    """Among any recordings, one whose token was seen is not counted, whichever call and instance brought it first."""
    bench.explore(counter_programs(tokens=True), lambda program: play(bench, program))


@check("C2")
def rivals_with_one_token_count_once(bench: Bench) -> None:
    """The same recording sent many times at once, over replicas, is counted once; other tokens count for themselves."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second, bench.replica(space) as third:
            instances = [first, second, third] * 4
            await asyncio.gather(*(counters.record("gpt", calls=1, token=FIRST) for counters in instances))
            many = [Recorded("gpt", 10), Recorded("GPT", 10)]
            await asyncio.gather(*(counters.record_many(many, token=SECOND) for counters in instances))
            for token in ("One", "one ", "one\x00", "ｏne", "x" * 64, "é" * 32, "'", "*"):
                for counters in instances[:2]:
                    await counters.record("gpt", calls=100, token=token)
            await expect_counts(third, {"gpt": Counts(811), "GPT": Counts(10)})

    bench.run(body)


@check("C2")
def tokens_are_remembered_as_long_as_said(bench: Bench) -> None:
    """A token is remembered through token_seconds, and a recording that was refused did not use it up."""

    async def body() -> None:
        for token in ("", "x" * 65, "é" * 33, 7, b"token", "\ud800"):
            async with bench.open() as counters:
                await refused(counters.record("gpt", calls=1, token=token), InvalidArgument, f"the token {token!r}")
                call = counters.record_many([Recorded("gpt", 1)], token=token)
                await refused(call, InvalidArgument, f"the token {token!r}")
                await expect_counts(counters, {}, ["gpt"])
        space = bench.space(token_seconds=bench.short_ttl)
        async with bench.open(space) as counters, bench.open(space) as other:
            await refused(counters.record("gpt", calls=-1, token=FIRST), InvalidArgument, "calls=-1")
            await counters.record("gpt", calls=1, token=FIRST)
            await other.record("gpt", calls=1, token=FIRST)
            if bench.virtual:
                await bench.sleep(bench.short_ttl - 0.1)
                await other.record("gpt", calls=1, token=FIRST)
            expect_same("calls within token_seconds", 1, (await counters.totals("gpt")).calls)

    bench.run(body)


@check("C2", waits=True)
def a_forgotten_token_counts_again(bench: Bench) -> None:
    """After token_seconds a token is as good as new: what is remembered is bounded in time."""

    async def body() -> None:
        async with bench.open(token_seconds=bench.short_ttl) as counters:
            await counters.record("gpt", calls=1, token=FIRST)
            await bench.sleep(bench.short_ttl + 0.3)
            await counters.record("gpt", calls=1, token=FIRST)
            await counters.record("gpt", calls=1, token=FIRST)
            expect_same("calls after token_seconds", 2, (await counters.totals("gpt")).calls)

    bench.run(body)


# ---------------------------------------------------------------------- C3


@check("C3")
def no_reader_sees_half_a_recording(bench: Bench) -> None:
    """While replicas record calls with outcomes, and two models together, every read has both halves or neither."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as reader, bench.open(space) as second, bench.replica(space) as third:

            async def write(counters: ModelCounters) -> None:
                for number in range(15):
                    failed = int(number % 3 == 0)
                    await counters.record("gpt", calls=1, successes=1 - failed, failures=failed, positive=1)
                    await asyncio.sleep(0)
                    await counters.record_many(
                        [Recorded("a", 1, 1, 0, 1), Recorded("gpt", 1, 1, 0, 1), Recorded("b", 1, 1, 0, 1)]
                    )
                    await asyncio.sleep(0)

            async def read() -> None:
                every = [await reader.all_totals(), await reader.all_windows(seconds=DAY)]
                every += [{"gpt": await reader.totals("gpt")}, {"gpt": await reader.window("gpt", seconds=DAY)}]
                for counts in every:
                    for one in counts.values():
                        whole = one.calls == one.successes + one.failures == one.positive
                        expect(whole, "calls equal to outcomes and thumbs", counts)
                both = [[counts.get(name, Counts()).calls for name in ("a", "b")] for counts in every[:2]]
                expect(all(a == b for a, b in both), "two models of one record_many alike", both)

            await repeated_while(asyncio.gather(write(second), write(third)), read)
            await expect_counts(
                reader, {"gpt": Counts(60, 50, 10, 60), "a": Counts(30, 30, 0, 30), "b": Counts(30, 30, 0, 30)}
            )

    bench.run(body)


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
            once = await bench.owned(space)
            if once is None:
                bench.not_applicable("the author gave no owned=, so what is stored cannot be counted")
            for _ in range(8):
                await bench.sleep(1.1)
                await counters.record("gpt", calls=1)

            async def removed() -> bool:
                # Beside the current bucket those that are kept, and one that is about to go.
                return bool(await bench.owned(space) <= once + 3)

            await until(bench, removed, 125 if bench.virtual else 50)
            expect_same("the total", 9, (await counters.totals("gpt")).calls)

    bench.run(body)


# ---------------------------------------------------------------------- C6, C7


@check("C6")
def reset_forgets_one_model(bench: Bench) -> None:
    """Among any recordings, reset takes exactly its model from totals and windows; later ones count from zero."""
    bench.explore(counter_programs(resets=True), lambda program: play(bench, program))


@check("C6")
def reset_forgets_sums_below_zero(bench: Bench) -> None:
    """After reset no earlier bucket and no hidden negative sum is left, and the model is not named any more."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as counters, bench.replica(space) as other:
            owned = await bench.owned(space)
            old = [Recorded("gpt", 5, 3, 2, -7, -7, age_seconds=age) for age in (0, 100, 3_000, 80_000)]
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


@check("C7")
def any_name_is_a_model(bench: Bench) -> None:
    """Names that differ by case, form, separators or length are different models, in every call."""

    async def body() -> None:
        names = [*IDENTIFIERS, *MODELS]
        names = list(dict.fromkeys(names))
        async with bench.open() as counters:
            for number, name in enumerate(names, 1):
                if number % 2:
                    await counters.record(name, calls=number)
            await counters.record_many([Recorded(name, n) for n, name in enumerate(names, 1) if not n % 2])
            wanted = {name: Counts(number) for number, name in enumerate(names, 1)}
            await expect_counts(counters, wanted)
            for name in names[::7]:
                await counters.reset(name)
                del wanted[name]
            await expect_counts(counters, wanted, names[::7])

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
