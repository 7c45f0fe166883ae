"""What many subscribers cost, and how long they wait."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.crowds import crowd
from benchmarks.loads import Load, payload
from benchmarks.measures import in_turns, percentile, ratios, spread
from benchmarks.publishers import Publish, naive_publisher, publisher
from benchmarks.results import Figure, Outcome
from benchmarks.rivals import Bridge
from benchmarks.scenarios.bench import Bench

#: A run that nobody cleans up is gone this long after the last event.
_OPTIONS = {"ttl_seconds": 600}

#: Whether the system tells which of a process's file handles are sockets.
_TELLS_SOCKETS = Path("/proc/self/fd").is_dir()

#: Longer than a measurement: heartbeats are no cost of events, and `idle` measures them.
_NO_HEARTBEAT = 600.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one round of `deliver` found.

    Attributes:
        microseconds: Of CPU, for each delivered event.
        latencies: Milliseconds, sorted.
    """

    microseconds: float
    latencies: Sequence[float]

    @property
    def p99(self) -> float:
        """The 99th percentile of the latencies."""
        return percentile(self.latencies, 99)


async def deliver(bench: Bench) -> Outcome:
    """Events come at random times, and each is given to every subscriber of its run; by the rival ``naive``, too."""

    async def ours() -> Delivered:
        async with (
            bench.subject.open(_OPTIONS) as backends,
            publisher(bench.subject, backends.stream_bridge, _OPTIONS) as publish,
        ):
            return await _delivered(bench, backends.stream_bridge, publish)

    async def theirs() -> Delivered:
        async with bench.naive() as naive, naive_publisher(bench.subject) as publish:
            if naive is None:
                raise RuntimeError(f"{bench.subject.name} has no naive rival")
            return await _delivered(bench, naive, publish)

    if not bench.has_naive:
        figures, samples = _described("", [await ours()])
        return Outcome(bench.scenario, bench.subject.name, tuple(figures), samples, tuple(samples))
    # Each round takes many seconds, and attaching warms up.
    pairs = await in_turns(ours, theirs, rounds=bench.sizes.deliver_rounds, warm_ups=0)
    figures, samples = _described("", [first for first, _ in pairs])
    naive_figures, naive_samples = _described("naive ", [second for _, second in pairs])
    cpu = ratios([(second.microseconds, first.microseconds) for first, second in pairs])
    p99 = ratios([(second.p99, first.p99) for first, second in pairs])
    figures = [
        Figure.of("reader CPU, naive / ours", cpu, "x"),
        Figure.of("p99, naive / ours", p99, "x"),
        *figures,
        *naive_figures,
    ]
    samples |= naive_samples
    return Outcome(bench.scenario, bench.subject.name, tuple(figures), samples, tuple(samples))


async def _delivered(bench: Bench, bridge: Bridge, publish: Publish) -> Delivered:
    sizes, runs = bench.sizes, bench.runs(bench.sizes.runs)
    async with crowd(bridge) as subscribers:
        await subscribers.attach(runs, sizes.subscribers_each)
        await subscribers.settle()
        before, cpu = subscribers.delivered, time.process_time()
        cpu += await publish(Load(runs, sizes.deliver_events, sizes.per_second))
        deliveries = sizes.deliver_events * sizes.subscribers_each
        await subscribers.wait_for(before + deliveries)
        cpu = time.process_time() - cpu
    return Delivered(cpu / deliveries * 1e6, sorted(subscribers.latencies))


def _described(who: str, rounds: Sequence[Delivered]) -> tuple[list[Figure], dict[str, Sequence[float]]]:
    """Return the figures of one side, and its samples of all rounds together."""
    name, found = f"{who}CPU per delivered event", [one.microseconds for one in rounds]
    cpu = Figure.of(name, spread(found), "µs") if len(rounds) > 1 else Figure(name, found[0], "µs")
    ordered = sorted(latency for one in rounds for latency in one.latencies)
    latencies = [Figure(f"{who}delivery, p{percent}", percentile(ordered, percent), "ms") for percent in (50, 99)]
    return [cpu, *latencies], {f"{who}delivery, ms": ordered}


async def crowded(bench: Bench) -> Outcome:
    """A process has as many subscribers as one event loop may have; each run has ten of them."""
    runs = bench.runs(bench.sizes.crowd // 10)
    sockets = _sockets()
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
        opened = _sockets() - sockets
    figures = [
        Figure("delivered", 100 * subscribers.delivered / wanted, "%"),
        Figure("handles and threads for the crowd", handles + threads, "more than for one"),
    ]
    if _TELLS_SOCKETS:
        figures.insert(1, Figure("connections", opened, "sockets"))
    return Outcome(bench.scenario, bench.subject.name, tuple(figures))


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


def _handles() -> int:
    """Count this process's open file handles."""
    return len(os.listdir("/proc/self/fd" if _TELLS_SOCKETS else "/dev/fd"))


def _sockets() -> int:
    """Count the sockets among this process's open file handles; 0 where nothing tells."""
    count = 0
    for handle in os.listdir("/proc/self/fd") if _TELLS_SOCKETS else ():
        try:
            count += os.readlink(f"/proc/self/fd/{handle}").startswith("socket:")
        except FileNotFoundError:  # the one that listed them
            continue
    return count
