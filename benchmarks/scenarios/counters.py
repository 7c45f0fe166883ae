"""How many model calls can be counted without waiting."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

from benchmarks.measures import spread
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench
from deerflow_backends import BufferedCounters

#: After so many records a task lets the others have their turn, as a gateway's tasks do by themselves.
_TURN = 100
_MODELS = 10


async def record(bench: Bench) -> Outcome:
    """Many tasks record, while the buffer is flushed in the background; nothing may be lost."""
    sizes = bench.sizes
    models = [f"model-{uuid.uuid4().hex}-{number}" for number in range(_MODELS)]
    rates: list[float] = []
    async with bench.subject.open() as backends:
        counters = backends.counters
        for _ in range(sizes.rounds):
            begun = time.perf_counter()
            tasks = (_record(counters, models[task % _MODELS], sizes.records_each) for task in range(sizes.tasks))
            await asyncio.gather(*tasks)
            rates.append(sizes.tasks * sizes.records_each / (time.perf_counter() - begun))
        waited, transferred = _calls_that_wait(counters, models[0], sizes.records_each)
        totals = [await counters.totals(model) for model in models]
        wanted = (sizes.rounds * sizes.tasks + 1) * sizes.records_each
        counted = sum(total.calls for total in totals)
        if counted != wanted or counters.refused:
            raise RuntimeError(f"{counted:,} calls were counted, not {wanted:,}; {counters.refused:,} were refused")
    figures = [Figure.of("records/s", spread(rates), "records/s"), Figure("calls that waited", waited, "calls")]
    if transferred is not None:
        figures.append(Figure("reads and writes by the caller", transferred, "system calls"))
    return Outcome(bench.scenario, bench.subject.name, tuple(figures), {"records/s": rates})


async def _record(counters: BufferedCounters, model: str, count: int) -> None:
    for number in range(count):
        await counters.record(model, calls=1, successes=1)
        if number % _TURN == 0:
            await asyncio.sleep(0)


def _calls_that_wait(counters: BufferedCounters, model: str, count: int) -> tuple[int, int | None]:
    """Count recordings that gave up control, and what this thread read or wrote meanwhile (None: not known here).

    Each is run by hand, to where it waits for the first time; the event loop has no turn in between.
    """
    waited = 0
    empty, before = _transfers(), _transfers()
    for _ in range(count):
        recording = counters.record(model, calls=1, successes=1)
        try:
            recording.send(None)
        except StopIteration:
            continue
        waited += 1
        recording.close()
    after = _transfers()
    if after is None or before is None or empty is None:
        return waited, None
    return waited, (after - before) - (before - empty)  # asking is itself a read


def _transfers() -> int | None:
    """Count the calls of this thread that read or wrote anything, whatever it was; Linux alone tells."""
    try:
        lines = Path("/proc/thread-self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return sum(int(line.partition(":")[2]) for line in lines if line.startswith("sysc"))
