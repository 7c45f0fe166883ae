"""How much each scenario does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each scenario does. The defaults are a full run's, and those that the scenarios' titles name.

    Attributes:
        rounds: Alternating rounds of two sides.
        publishes: Of each side in a round, by one publisher.
        publishers: Publishing at once, each to a run of its own.
        publishes_each: Of each such publisher in a round.
        runs: With `subscribers_each` subscribers each.
        subscribers_each: See `runs`.
        per_second: Events a second, all runs together.
        deliver_events: Events at that rate.
        deliver_rounds: Of so many events, by each side; one side alone has one round.
        crowd: Subscribers in one process, the most of them.
        growth: Numbers of subscribers, each on a run of its own, the fewest first.
        growth_rounds: Rounds through all of those numbers.
        growth_events: Events for each number in a round.
        idle_seconds: As long as the heartbeat interval, so that every subscriber has one heartbeat.
        replayed: Events of one run.
        applies: For each memory in a round.
        facts: Of the small and of the large memory.
        threads: Of the user with few and of the one with many.
        page: Threads on a page.
        late_page: The number of the late page.
        listings: Of each page in a round.
        tasks: Recording at once.
        records_each: Of each task in a round.
        imports: Processes with the import, and as many without.
    """

    rounds: int = 15
    publishes: int = 200
    publishers: int = 64
    publishes_each: int = 10
    runs: int = 500
    subscribers_each: int = 2
    per_second: float = 1_000.0
    deliver_events: int = 5_000
    deliver_rounds: int = 3
    crowd: int = 10_000
    growth: tuple[int, ...] = (10, 100, 1_000, 10_000)
    growth_rounds: int = 3
    growth_events: int = 1_000
    idle_seconds: float = 15.0
    replayed: int = 10_000
    applies: int = 25
    facts: tuple[int, int] = (10, 10_000)
    threads: tuple[int, int] = (100, 100_000)
    page: int = 50
    late_page: int = 1_000
    listings: int = 20
    tasks: int = 64
    records_each: int = 4_000
    imports: int = 15


FULL = Sizes()

#: Tries every scenario in some seconds.
QUICK = Sizes(
    rounds=2,
    publishes=10,
    publishers=8,
    publishes_each=3,
    runs=10,
    deliver_events=100,
    deliver_rounds=1,
    crowd=50,
    growth=(5, 50),
    growth_rounds=1,
    growth_events=50,
    idle_seconds=0.5,
    replayed=300,
    applies=3,
    facts=(10, 200),
    threads=(20, 300),
    page=10,
    late_page=20,
    listings=3,
    tasks=8,
    records_each=200,
    imports=1,
)
