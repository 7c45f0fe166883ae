"""What is particular to counters in SQLite: tokens in a table, buckets by the clock, bounded sweeping."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import sqlite
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.sqlite import counter_tables
from deerflow_backends.sqlite.checking import owned
from deerflow_backends.sqlite.counters import SqliteModelCounters

SECOND = 1_000_000


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = (1_700_000_000 // 60 * 60 + 30) * SECOND

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def opened(
    folder: Path, options: CounterOptions | None = None, **connection: Any
) -> AsyncIterator[SqliteModelCounters]:
    async with (
        sqlite.connect(path=folder, **connection) as connected,
        sqlite.open_counters(connected, options) as counters,
    ):
        yield counters


def test_a_token_counts_once(tmp_path: Path) -> None:
    """A token is counted once by all instances, until it is forgotten (C2)."""

    async def main() -> None:
        clock = Clock()
        options = CounterOptions(token_seconds=10)
        async with opened(tmp_path, options, clock=clock) as one, opened(tmp_path, options, clock=clock) as other:
            for _ in range(2):
                await asyncio.gather(*(counters.record("m", calls=1, token="t\0") for counters in (one, other) * 10))
                await one.record("m", calls=100, token="t")
                clock.now += 10 * SECOND
            assert await other.totals("m") == Counts(calls=202)

    asyncio.run(main())


def test_windows_and_totals(tmp_path: Path) -> None:
    """Buckets fall out of windows by the clock, late counts into the bucket of their moment; totals keep all (C4)."""

    async def main() -> None:
        clock = Clock()
        async with opened(tmp_path, CounterOptions(bucket_seconds=60, keep_buckets=10), clock=clock) as counters:
            await counters.record("m", calls=1, positive=-1)
            clock.now += 60 * SECOND
            await counters.record_many([Recorded("m", calls=10), Recorded("m", calls=100, age_seconds=60)])
            await counters.record_many([Recorded("m", calls=1_000, age_seconds=3_600)])
            assert (await counters.window("m", seconds=1)).calls == 10
            assert (await counters.window("m", seconds=60)).calls == 111
            assert await counters.all_windows(seconds=600) == {"m": Counts(calls=111)}
            assert await counters.totals("m") == Counts(calls=1_111)
            clock.now += 599 * SECOND
            assert (await counters.window("m", seconds=600)).calls == 10
            clock.now += 61 * SECOND
            assert await counters.window("m", seconds=600) == Counts()
            assert await counters.all_windows(seconds=600) == {}
            with pytest.raises(InvalidArgument):
                await counters.window("m", seconds=601)

    asyncio.run(main())


def test_windows_end_now_also_after_the_clock_went_back(tmp_path: Path) -> None:
    """A bucket that lies in the future is in no window before its time comes (C4)."""

    async def main() -> None:
        clock = Clock()
        async with opened(tmp_path, clock=clock) as counters:
            await counters.record("m", calls=1)
            clock.now -= 60 * SECOND
            await counters.record("m", calls=10)
            assert await counters.window("m", seconds=600) == Counts(calls=10)
            assert await counters.all_windows(seconds=600) == {"m": Counts(calls=10)}
            clock.now += 60 * SECOND
            assert await counters.window("m", seconds=600) == Counts(calls=11)

    asyncio.run(main())


def test_the_sweep_works_in_portions(tmp_path: Path) -> None:
    """Tokens that are forgotten and buckets that no window reaches are removed, some at a time; totals stay (G11)."""

    async def main() -> None:
        clock = Clock()
        rows = counter_tables.SWEEP_ROWS
        options = CounterOptions(bucket_seconds=1, keep_buckets=1, token_seconds=1)
        async with opened(tmp_path, options, clock=clock) as counters:
            names = [f"m{number}" for number in range(rows + 10)]
            await counters.record_many([Recorded(name, calls=1) for name in names], token="t")
            await asyncio.gather(*(counters.record("m", calls=1, token=f"t{number}") for number in range(20)))
            clock.now += 10 * SECOND
            assert await counters._database.write(counters.sweep, timeout_seconds=5)
            assert not await counters._database.write(counters.sweep, timeout_seconds=5)
            async with sqlite.connect(path=tmp_path) as connection:
                assert await owned(connection, "counters") == len(names) + 1
            assert len(await counters.all_totals()) == len(names) + 1

    asyncio.run(main())


def test_odd_names(tmp_path: Path) -> None:
    """Models with odd names are told apart, and resetting one leaves the others (C6, C7)."""
    odd = ["a", "A", "a\0", "a\0b", "\0", "ä", "a\u0308", "%", "' OR 1=1 --", "\U0010ffff"]

    async def main() -> None:
        async with opened(tmp_path) as counters:
            for number, name in enumerate(odd):
                await counters.record(name, calls=number + 1)
            wanted = {name: Counts(calls=number + 1) for number, name in enumerate(odd)}
            assert await counters.all_totals() == await counters.all_windows(seconds=60) == wanted
            await counters.reset("a\0")
            del wanted["a\0"]
            assert await counters.all_totals() == await counters.all_windows(seconds=60) == wanted
            assert await counters.totals("a\0") == await counters.window("a\0", seconds=60) == Counts()

    asyncio.run(main())


def test_every_statement_walks_an_index(tmp_path: Path) -> None:
    """A window, a reset and the sweep read what they need, never all buckets."""

    async def main() -> None:
        async with opened(tmp_path):
            pass

    asyncio.run(main())
    names = ("model_name", "first", "last", "now", "oldest", "limit")
    statements = [
        *(counter_tables.TOTALS, counter_tables.WINDOW, counter_tables.ALL_WINDOWS, *counter_tables.RESET),
        *(counter_tables.FORGET_TOKENS, counter_tables.REMOVE_BUCKETS),
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        for statement in statements:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", dict.fromkeys(names, 1)).fetchall()
            plan = " ".join(row[-1] for row in rows)
            assert "SEARCH" in plan
            assert "SCAN" not in plan
