"""Checks of model counters under load, in counts alone: C1, C2, C5 and C7."""

from __future__ import annotations

import asyncio
from functools import partial

from deerflow_backends.buffering import buffered
from deerflow_backends.counters import Counts, Recorded
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.counter_buffers import Unreliable
from deerflow_conformance.counter_steps import DAY, FIRST
from deerflow_conformance.expectations import expect_same
from deerflow_conformance.load import together
from deerflow_conformance.meters import metered


@check("C1", level="load")
def ten_thousand_recordings_add_up(bench: Bench) -> None:
    """Ten thousand recordings of few models, from two instances and many at once, are all in the sums."""
    count = bench.volume(10_000)

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as first, bench.open(space) as second:
            instances = (first, second)
            made = await together(
                bench,
                (partial(instances[number % 2].record, f"model {number % 7}", calls=1) for number in range(count)),
            )
            totals = await second.all_totals()
            calls = sum(counts.calls for counts in totals.values())
            expect_same("the sum of all calls", made, calls)
            expect_same("the models", [f"model {number}" for number in range(7)], sorted(totals))

    bench.run(body)


@check("C2", level="load")
def thousands_of_tokens_are_remembered(bench: Bench) -> None:
    """Of thousands of recordings within token_seconds, each with its token, none counts when it comes again."""
    count = bench.volume(2_500)

    async def body() -> None:
        async with bench.open() as counters:
            calls = [partial(counters.record, "gpt", calls=1, token=f"token {number}") for number in range(count)]
            made = await together(bench, calls)
            await together(bench, calls[:made])
            expect_same("calls", made, (await counters.totals("gpt")).calls)

    bench.run(body)


@check("C5", level="load")
def ten_thousand_records_are_few_flushes(bench: Bench) -> None:
    """Ten thousand recordings on the buffer, over two seconds, go out in a few batches, and none of them is lost."""
    rounds = bench.volume(100)
    flush_seconds = 0.5

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with metered(bench, bench.space()) as meter, bench.open(meter.space) as counters:
            counted = Unreliable(counters)
            asked, began = meter.taken(), loop.time()
            async with buffered(counted, flush_seconds=flush_seconds) as buffer:
                for _ in range(rounds):
                    for number in range(100):
                        await buffer.record(f"model {number % 50}", calls=1)
                    await bench.sleep(2.0 / rounds)
            expect_same("refused recordings", 0, buffer.refused)
            # One each half second, and one on closing.
            batches, most = len(counted.batches), (loop.time() - began) / flush_seconds + 2
            expect(batches <= most, f"at most {most:.0f} batches", batches)
            asked = meter.taken() - asked
            if meter.unit == "round trips":
                expect(asked <= 5 * batches + 20, f"a few round trips for each of {batches} batches", asked)
            totals = await counters.all_totals()
            expect_same("totals", {f"model {number}": Counts(2 * rounds) for number in range(50)}, totals)

    bench.run(body)


@check("C7", level="load")
def ten_thousand_models_in_one_call(bench: Bench) -> None:
    """One record_many, one all_totals and one all_windows carry ten thousand models."""

    async def body() -> None:
        async with bench.open() as counters:
            counts = [Recorded(f"model {number}", calls=number + 1, successes=1) for number in range(10_000)]
            await counters.record_many(counts, token=FIRST)
            await counters.record_many(counts, token=FIRST)
            await counters.record_many(counts)
            wanted = {one.model_name: Counts(2 * one.calls, 2) for one in counts}
            for what, got in (
                ("all_totals", await counters.all_totals()),
                ("all_windows", await counters.all_windows(seconds=DAY)),
            ):
                wrong = {name: got.get(name) for name in wanted if got.get(name) != wanted[name]}
                expect(not wrong and len(got) == len(wanted), f"{what} of 10,000 models", (len(got), str(wrong)[:200]))

    bench.run(body)
