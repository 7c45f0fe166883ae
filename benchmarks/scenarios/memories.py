"""Does a change cost more in a large memory?"""

from __future__ import annotations

import time
import uuid
from typing import Any

from benchmarks.measures import Side, in_turns, percentile, ratios, spread
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench
from deerflow_backends import CONTRACT_VERSION, MemoryStore, PutFact

_TIME = "2026-01-31T12:00:00.000000+00:00"


async def apply_one(bench: Bench) -> Outcome:
    """One fact is changed again and again, in turns in a small memory and in a large one."""
    times: dict[int, list[float]] = {count: [] for count in bench.sizes.facts}

    def side(store: MemoryStore, user_id: str, count: int) -> Side:
        number = 0

        async def change() -> float:
            nonlocal number
            begun = time.perf_counter()
            for _ in range(bench.sizes.applies):
                number += 1
                fact_id = f"fact-{number % count}"
                sent = time.perf_counter()
                await store.apply(user_id, [PutFact(None, fact_id, _fact(f"changed {number}"))])
                times[count].append((time.perf_counter() - sent) * 1_000)
            return (time.perf_counter() - begun) / bench.sizes.applies * 1e6

        return change

    small, large = bench.sizes.facts
    async with bench.subject.open() as backends:
        users = {count: uuid.uuid4().hex for count in bench.sizes.facts}
        await backends.memory.restore([_memory(user_id, count) for count, user_id in users.items()])
        sides = [side(backends.memory, user_id, count) for count, user_id in users.items()]
        pairs = await in_turns(sides[1], sides[0], rounds=bench.sizes.rounds)
        loaded = await backends.memory.load(users[large])
        if len(loaded.facts) != large or loaded.revision != 1 + bench.sizes.applies * (bench.sizes.rounds + 1):
            raise RuntimeError(f"the large memory has {len(loaded.facts):,} facts at revision {loaded.revision:,}")
    figures = [
        Figure.of("large / small memory", ratios(pairs), "x"),
        Figure.of(f"apply, {small:,} facts", spread([second for _, second in pairs]), "µs"),
        Figure.of(f"apply, {large:,} facts", spread([first for first, _ in pairs]), "µs"),
    ]
    samples = {f"apply, {count:,} facts, ms": sorted(found) for count, found in times.items()}
    figures += [Figure(f"p99, {count:,} facts", percentile(sorted(times[count]), 99), "ms") for count in times]
    return Outcome(bench.scenario, bench.subject.name, tuple(figures), samples, tuple(samples))


def _fact(content: str) -> dict[str, Any]:
    return {"content": f"The user likes what was {content}", "category": "preference", "confidence": 0.9}


def _memory(user_id: str, count: int) -> dict[str, Any]:
    """A user's memory as `restore` takes it."""
    return {
        "kind": "memory",
        "contract": CONTRACT_VERSION,
        "user_id": user_id,
        "agent_name": None,
        "user_revision": 1,
        "user_updated_at": _TIME,
        "body": {},
        "body_revision": 0,
        "facts": [
            {
                "fact_id": f"fact-{number}",
                "value": _fact(f"first {number}"),
                "revision": 1,
                "created_at": _TIME,
                "updated_at": _TIME,
            }
            for number in range(count)
        ],
    }
