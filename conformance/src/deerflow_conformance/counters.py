"""Checks of the model counters: C1, C2, C3 and C7; the others are in modules of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from deerflow_backends.counters import Counts, ModelCounters, Recorded
from deerflow_backends.errors import InvalidArgument
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.counter_programs import MODELS, counter_programs
from deerflow_conformance.counter_steps import DAY, FIGURES, FIRST, SECOND, expect_counts, play
from deerflow_conformance.expectations import expect_same, refused, repeated_while
from deerflow_conformance.programs import IDENTIFIERS
from deerflow_conformance.spaces import Space

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


@check("C2")
def a_token_outlasts_sweeps(bench: Bench) -> None:
    """Tokens of any moment are remembered to the last second of token_seconds, by default and for a day.

    In real time nobody waits for that: there they are repeated at once.
    """

    async def body(space: Space, seconds: float) -> None:
        clock, passed_microseconds = space.clock, 0
        ahead = replace(space, clock=lambda: clock() + passed_microseconds)
        tokens = [f"token {number}" for number in range(6)]
        async with bench.open(ahead) as counters:
            for token in tokens:
                await counters.record("gpt", calls=1, token=token)
                await bench.sleep(10 if bench.virtual else 0)
            if bench.virtual:
                passed_microseconds = round((seconds - 150) * 1_000_000)
                await bench.sleep(150 - 10 * len(tokens) - 0.1)
            for token in tokens:
                await counters.record("gpt", calls=1, token=token)
                await bench.sleep(10 if bench.virtual else 0)
            expect_same(f"calls within {seconds:g} s", len(tokens), (await counters.totals("gpt")).calls)

    bench.run(lambda: body(bench.space(), 600))
    bench.run(lambda: body(bench.space(token_seconds=float(DAY)), DAY))


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


# ---------------------------------------------------------------------- C7


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
