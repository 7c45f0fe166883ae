"""How fast events are taken, beside the driver alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.loads import payload
from benchmarks.measures import Side, in_turns, percentile, ratios, spread
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench

#: Stores one event of a run.
Append = Callable[[str, str, Any], Awaitable[object]]


class Opponent(NamedTuple):
    """A rival's name, the name of the ratio to it, and what it does in a round."""

    name: str
    ratio: str
    publish: Side


async def publish_one(bench: Bench) -> Outcome:
    """One publisher awaits each event before it sends the next."""
    ours: list[float] = []
    theirs: list[float] = []

    def side(append: Append, samples: list[float]) -> Side:
        (run_id,) = bench.runs(1)

        async def publish() -> float:
            begun = time.perf_counter()
            for _ in range(bench.sizes.publishes):
                sent = time.perf_counter()
                await append(run_id, "messages", payload(sent))
                samples.append((time.perf_counter() - sent) * 1_000)
            return bench.sizes.publishes / (time.perf_counter() - begun)

        return publish

    async with bench.subject.open() as backends, bench.raw() as raw:
        first = side(backends.stream_bridge.publish, ours)
        opponents = [Opponent("raw", "throughput / raw", side(raw.append, theirs))] if raw else []
        figures = await _compared(bench, first, opponents)
    ours.sort()
    theirs.sort()
    figures += [Figure(f"p{percent}", percentile(ours, percent), "ms") for percent in (50, 99)]
    samples = {"publish, ms": ours, **({"raw publish, ms": theirs} if theirs else {})}
    return Outcome(bench.scenario, bench.subject.name, tuple(figures), samples, tuple(samples))


async def publish_64(bench: Bench) -> Outcome:
    """Many tasks publish, each to a run of its own; rivals get the same tasks, and do one event at a time."""

    def side(append: Append) -> Side:
        runs = bench.runs(bench.sizes.publishers)

        async def publish(run_id: str) -> None:
            for _ in range(bench.sizes.publishes_each):
                await append(run_id, "messages", payload(0.0))

        async def publish_all() -> float:
            begun = time.perf_counter()
            await asyncio.gather(*map(publish, runs))
            return len(runs) * bench.sizes.publishes_each / (time.perf_counter() - begun)

        return publish_all

    async with bench.subject.open() as backends, bench.raw() as raw, bench.naive() as naive:
        opponents: list[Opponent] = []
        if raw is not None:
            opponents.append(Opponent("raw", "throughput / raw one by one", side(raw.append)))
        if naive is not None:
            opponents.append(Opponent("naive", "throughput / naive", side(naive.publish)))
        figures = await _compared(bench, side(backends.stream_bridge.publish), opponents)
    return Outcome(bench.scenario, bench.subject.name, tuple(figures))


async def _compared(bench: Bench, ours: Side, opponents: Sequence[Opponent]) -> list[Figure]:
    """Measure events a second, beside each rival in turn if there is any."""
    rates: list[float] = []
    compared: list[Figure] = []
    for opponent in opponents:
        pairs = await in_turns(ours, opponent.publish, rounds=bench.sizes.rounds)
        rates += [first for first, _ in pairs]
        compared.append(Figure.of(opponent.ratio, ratios(pairs), "x"))
        theirs = spread([second for _, second in pairs])
        compared.append(Figure.of(f"{opponent.name} throughput", theirs, "events/s"))
    if not opponents:
        rates = [await ours() for _ in range(bench.sizes.rounds)]
    return [*compared, Figure.of("throughput", spread(rates), "events/s")]
