"""What many subscribers cost, and how long they wait."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from benchmarks.crowds import crowd
from benchmarks.loads import Load, payload
from benchmarks.measures import percentile, spread
from benchmarks.publishers import publisher
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench

#: A run that nobody cleans up is gone this long after the last event.
_OPTIONS = {"ttl_seconds": 600}

#: Longer than a measurement: heartbeats are no cost of events, and `idle` measures them.
_NO_HEARTBEAT = 600.0


async def deliver(bench: Bench) -> Outcome:
    """Events come at random times, and each is given to every subscriber of its run."""
    sizes, runs = bench.sizes, bench.runs(bench.sizes.runs)
    async with (
        bench.subject.open(_OPTIONS) as backends,
        publisher(bench.subject, backends.stream_bridge, _OPTIONS) as publish,
        crowd(backends.stream_bridge) as subscribers,
    ):
        await subscribers.attach(runs, sizes.subscribers_each)
        await subscribers.settle()
        before, cpu = subscribers.delivered, time.process_time()
        cpu += await publish(Load(runs, sizes.deliver_events, sizes.per_second))
        deliveries = sizes.deliver_events * sizes.subscribers_each
        await subscribers.wait_for(before + deliveries)
        cpu = time.process_time() - cpu
    ordered = sorted(subscribers.latencies)
    figures = (
        Figure("CPU per delivered event", cpu / deliveries * 1e6, "µs"),
        *(Figure(f"delivery, p{percent}", percentile(ordered, percent), "ms") for percent in (50, 99)),
    )
    return Outcome(bench.scenario, bench.subject.name, figures, {"delivery, ms": ordered}, ("delivery, ms",))


async def crowded(bench: Bench) -> Outcome:
    """A process has as many subscribers as one event loop may have; each run has ten of them."""
    runs = bench.runs(bench.sizes.crowd // 10)
    sockets = _handles("socket:")
    async with (
        bench.subject.open(_OPTIONS) as backends,
        crowd(backends.stream_bridge) as one,
        crowd(backends.stream_bridge) as subscribers,
    ):
        await one.attach(bench.runs(1), 1)
        before = _handles(), threading.active_count()
        await subscribers.attach(runs, 10)
        for run_id in runs:
            await backends.stream_bridge.publish_many(run_id, [("messages", payload(0.0))] * 5)
        wanted = len(runs) * 10 * 6
        await subscribers.wait_for(wanted)
        handles, threads = _handles() - before[0], threading.active_count() - before[1]
        sockets = _handles("socket:") - sockets
    figures = (
        Figure("delivered", 100 * subscribers.delivered / wanted, "%"),
        Figure("connections", sockets, "sockets"),
        Figure("handles and threads for the crowd", handles + threads, "more than for one"),
    )
    return Outcome(bench.scenario, bench.subject.name, figures)


async def growth(bench: Bench) -> Outcome:
    """The same load, on few runs with a subscriber each and on many: what does an event cost their process?"""
    sizes = bench.sizes
    costs: dict[int, list[float]] = {count: [] for count in sizes.growth}
    for number in range(sizes.growth_rounds):
        for count in sizes.growth if number % 2 == 0 else reversed(sizes.growth):
            costs[count].append(await _cost(bench, count, seed=number))
    fewest, most = costs[sizes.growth[0]], costs[sizes.growth[-1]]
    medians = {count: spread(found).median for count, found in costs.items()}
    grown = spread([after / before for before, after in zip(fewest, most, strict=True)])
    figures = (
        Figure.of("cost at most / at fewest subscribers", grown, "x"),
        *(Figure.of(f"CPU per event, {count:,} subscribers", spread(found), "µs") for count, found in costs.items()),
    )
    samples = {f"{count} subscribers, µs an event": found for count, found in costs.items()}
    return Outcome(bench.scenario, bench.subject.name, figures, samples, growth=medians)


async def _cost(bench: Bench, count: int, seed: int) -> float:
    """Return the CPU microseconds that an event costs a process with *count* subscribers."""
    sizes, runs = bench.sizes, bench.runs(count)
    async with (
        bench.subject.open(_OPTIONS) as backends,
        publisher(bench.subject, backends.stream_bridge, _OPTIONS) as publish,
        crowd(backends.stream_bridge, heartbeat_seconds=_NO_HEARTBEAT) as subscribers,
    ):
        await subscribers.attach(runs, 1)
        await subscribers.settle()
        before, cpu = subscribers.delivered, time.process_time()
        cpu += await publish(Load(runs, sizes.growth_events, sizes.per_second, seed))
        await subscribers.wait_for(before + sizes.growth_events)
        return (time.process_time() - cpu) / sizes.growth_events * 1e6


async def idle(bench: Bench) -> Outcome:
    """Nothing happens but heartbeats: what does waiting cost? Each subscriber has a run of its own."""
    sizes = bench.sizes
    parts: list[float] = []
    async with (
        bench.subject.open(_OPTIONS) as backends,
        crowd(backends.stream_bridge, heartbeat_seconds=sizes.idle_seconds) as subscribers,
    ):
        await subscribers.attach(bench.runs(sizes.crowd), 1)
        await subscribers.settle()
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(15):
            part, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(sizes.idle_seconds / 15)
            parts.append((time.process_time() - used) / (time.perf_counter() - part) * 100)
        share = (time.process_time() - cpu) / (time.perf_counter() - begun) * 100
    figures = (Figure("CPU", share, "% of a core", min(parts), max(parts)),)
    return Outcome(bench.scenario, bench.subject.name, figures, {"idle, % of a core": parts})


def _handles(kind: str = "") -> int:
    """Count this process's open file handles whose target begins with *kind*."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        folder = Path("/dev/fd")  # where targets cannot be told, sockets are not counted
        return 0 if kind else len(list(folder.iterdir()))
    targets = []
    for handle in folder.iterdir():
        try:
            targets.append(os.readlink(handle))
        except FileNotFoundError:  # the one that listed them
            continue
    return sum(target.startswith(kind) for target in targets)
