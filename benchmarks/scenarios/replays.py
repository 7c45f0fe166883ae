"""How fast a long run is read back, beside one range read of the driver."""

from __future__ import annotations

import time

from benchmarks.loads import payload
from benchmarks.measures import in_turns, ratios, spread
from benchmarks.results import Figure, Outcome
from benchmarks.rivals import Raw
from benchmarks.scenarios.bench import Bench
from deerflow_backends import StreamBridge

#: Events that are stored together while filling.
_TOGETHER = 500


async def replay(bench: Bench) -> Outcome:
    """Somebody who comes late reads a whole run that has ended, event by event."""
    (run_id,) = bench.runs(1)
    count = bench.sizes.replayed
    async with bench.subject.open({"max_events": count}) as backends, bench.raw() as raw:
        await _fill(backends.stream_bridge, raw, run_id, count)

        async def ours() -> float:
            begun = time.perf_counter()
            found = 0
            async for _ in backends.stream_bridge.subscribe(run_id):
                found += 1
            return _rate(found - 1, count, begun)  # the end is no event

        if raw is None:
            rates = spread([await ours() for _ in range(bench.sizes.rounds)])
            return Outcome(bench.scenario, bench.subject.name, (Figure.of("replayed", rates, "events/s"),))
        rival = raw

        async def theirs() -> float:
            begun = time.perf_counter()
            found = 0
            async for _ in rival.read(run_id):
                found += 1
            return _rate(found, count, begun)

        pairs = await in_turns(ours, theirs, rounds=bench.sizes.rounds)
    figures = (
        Figure.of("events/s / raw range read", ratios(pairs), "x"),
        Figure.of("replayed", spread([first for first, _ in pairs]), "events/s"),
        Figure.of("raw range read", spread([second for _, second in pairs]), "events/s"),
    )
    return Outcome(bench.scenario, bench.subject.name, figures)


async def _fill(bridge: StreamBridge, raw: Raw | None, run_id: str, count: int) -> None:
    for start in range(0, count, _TOGETHER):
        together = min(_TOGETHER, count - start)
        await bridge.publish_many(run_id, [("messages", payload(0.0))] * together)
    await bridge.publish_end(run_id)
    if raw is not None:
        for _ in range(count):
            await raw.append(run_id, "messages", payload(0.0))


def _rate(found: int, wanted: int, begun: float) -> float:
    if found != wanted:
        raise RuntimeError(f"{found:,} events were read, not {wanted:,}")
    return found / (time.perf_counter() - begun)
