"""How fast events are taken, beside the driver alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.loads import payload
from benchmarks.measures import Side, in_turns, percentile, ratios, spread
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench

#: Stores one event of a run.
Append = Callable[[str, str, Any], Awaitable[object]]


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
        figures = await _compared(bench, first, side(raw.append, theirs) if raw else None, "throughput / raw")
    ours.sort()
    theirs.sort()
    figures += [Figure(f"p{percent}", percentile(ours, percent), "ms") for percent in (50, 99)]
    samples = {"publish, ms": ours, **({"raw publish, ms": theirs} if theirs else {})}
    return Outcome(bench.scenario, bench.subject.name, tuple(figures), samples, tuple(samples))


async def publish_64(bench: Bench) -> Outcome:
    """Many tasks publish, each to a run of its own; the driver gets the same tasks, and does one event at a time."""

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

    async with bench.subject.open() as backends, bench.raw() as raw:
        second = side(raw.append) if raw else None
        figures = await _compared(bench, side(backends.stream_bridge.publish), second, "throughput / raw one by one")
    return Outcome(bench.scenario, bench.subject.name, tuple(figures))


async def _compared(bench: Bench, ours: Side, theirs: Side | None, name: str) -> list[Figure]:
    """Measure events a second, beside the rival if there is one."""
    if theirs is None:
        return [Figure.of("throughput", spread([await ours() for _ in range(bench.sizes.rounds)]), "events/s")]
    pairs = await in_turns(ours, theirs, rounds=bench.sizes.rounds)
    return [
        Figure.of(name, ratios(pairs), "x"),
        Figure.of("throughput", spread([first for first, _ in pairs]), "events/s"),
        Figure.of("raw throughput", spread([second for _, second in pairs]), "events/s"),
    ]
