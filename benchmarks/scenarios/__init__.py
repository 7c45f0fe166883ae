"""The scenarios: each written once, against the contract, for every backend that offers its capability."""

from __future__ import annotations

from benchmarks.scenarios import counters, crowds, imports, memories, publishing, replays, threads
from benchmarks.scenarios.bench import Bench, Scenario
from benchmarks.scenarios.sizes import FULL, QUICK, Sizes

#: In the order they are run: those that leave much in memory come last.
SCENARIOS = (
    Scenario("publish_one", "1 publisher awaiting each event", "stream_bridge", publishing.publish_one),
    Scenario("publish_64", "64 runs publishing at once", "stream_bridge", publishing.publish_64),
    Scenario("deliver", "500 runs with 2 subscribers each", "stream_bridge", crowds.deliver),
    Scenario("crowd", "10,000 subscribers in one process", "stream_bridge", crowds.crowded),
    Scenario("growth", "Cost per event, 10 to 10,000 subscribers over as many runs", "stream_bridge", crowds.growth),
    Scenario("idle", "Idle process with 10,000 subscribers", "stream_bridge", crowds.idle),
    Scenario("replay", "Replay of 10,000 events", "stream_bridge", replays.replay),
    Scenario("counters", "Buffered counters, 64 tasks", "counters", counters.record),
    Scenario("memory_apply", "apply of one fact, memory of 10 and of 10,000 facts", "memory", memories.apply_one),
    Scenario("thread_pages", "Thread page 1 and 1,000; 100 and 100,000 threads", "thread_index", threads.pages),
    Scenario("import", "Import of deerflow_backends and its contracts", None, imports.import_contracts),
)

__all__ = ["FULL", "QUICK", "SCENARIOS", "Bench", "Scenario", "Sizes"]
