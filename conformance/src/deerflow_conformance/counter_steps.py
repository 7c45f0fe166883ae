"""Steps taken with model counters, and every read of them, held against the model."""

from __future__ import annotations

from collections.abc import Sequence

from deerflow_backends.buffering import BufferedCounters
from deerflow_backends.counters import Counts, ModelCounters, Recorded
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import CounterSums
from deerflow_conformance.counter_programs import MODELS, CounterStep, ResetStep
from deerflow_conformance.expectations import expect_same

FIGURES = ("calls", "successes", "failures", "positive", "negative")
#: Tokens as any.
FIRST, SECOND = "one", "two"
#: The longest window of the default options.
DAY = 86_400


async def take(counters: ModelCounters, step: CounterStep, model: CounterSums) -> None:
    """Take one step, as the model does."""
    if isinstance(step, ResetStep):
        await counters.reset(step.model_name)
        model.sums.pop(step.model_name, None)
        return
    token = None if step.token is None else f"token {step.token}"
    model.record(step)
    if step.many:
        recorded = [Recorded(one.model_name, *one.figures) for one in step.recordings]
        await counters.record_many(recorded, token=token)
    else:
        (only,) = step.recordings
        figures = dict(zip(FIGURES, only.figures, strict=True))
        await counters.record(only.model_name, **figures, token=token)


async def expect_counts(
    counters: ModelCounters | BufferedCounters, wanted: dict[str, Counts], others: Sequence[str] = ()
) -> None:
    """Hold every read against the sums; a model whose sums are all 0 may be named or not."""
    named = {name: counts for name, counts in wanted.items() if counts != Counts()}
    reads = {"all_totals": await counters.all_totals(), "all_windows": await counters.all_windows(seconds=DAY)}
    for read, got in reads.items():
        expect_same(read, named, {name: counts for name, counts in got.items() if counts != Counts()})
    for name in {*wanted, *others}:
        counts = wanted.get(name, Counts())
        expect_same(f"totals of {name!r}", counts, await counters.totals(name))
        expect_same(f"the window of {name!r}", counts, await counters.window(name, seconds=DAY))


async def play(bench: Bench, program: list[CounterStep]) -> None:
    """Take the steps through two instances; after each the other one must read the sums."""
    space = bench.space()
    model = CounterSums()
    async with bench.open(space) as first, bench.open(space) as second:
        for step in program:
            await take((first, second)[step.via], step, model)
            names = {step.model_name} if isinstance(step, ResetStep) else {one.model_name for one in step.recordings}
            for name in names:
                wanted = model.totals().get(name, Counts())
                expect_same(f"totals of {name!r}", wanted, await (second, first)[step.via].totals(name))
        await expect_counts(second, model.totals(), MODELS)
