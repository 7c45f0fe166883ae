"""What a program pays for speaking the contracts, whether or not it opens a backend."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measures import in_turns, spread
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench

#: What must not be loaded: configuration, the command line, any driver.
HEAVY = ("pydantic", "pydantic_settings", "yaml", "typer", "click", "rich", "sqlite3", "redis", "psycopg", "pymongo")

_CONTRACTS = """
import deerflow_backends
from deerflow_backends import (
    ConfigError, Counts, Fact, MemoryStore, ModelCounters, StreamBridge, StreamEvent, Thread, ThreadIndex
)
"""
_REPORT = f"""
import sys, time
print(time.process_time() * 1_000, *(name for name in {HEAVY!r} if name in sys.modules))
"""


async def import_contracts(bench: Bench) -> Outcome:
    """New interpreters, in turns with the import and without."""
    heavy: set[str] = set()

    async def with_contracts() -> float:
        milliseconds, *found = _run(_CONTRACTS + _REPORT)
        heavy.update(found)
        return float(milliseconds)

    async def bare() -> float:
        return float(_run(_REPORT)[0])

    pairs = await in_turns(with_contracts, bare, rounds=bench.sizes.imports)
    over = [imported - alone for imported, alone in pairs]
    figures = (
        Figure.of("CPU over bare Python", spread(over), "ms"),
        Figure("heavy modules", len(heavy), f"of {len(HEAVY)} that would be"),
    )
    return Outcome(bench.scenario, "core", figures, {"CPU over bare Python, ms": over})


def _run(program: str) -> list[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
