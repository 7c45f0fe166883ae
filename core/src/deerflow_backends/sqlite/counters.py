"""The model counters in a SQLite file, for all processes of one host."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from deerflow_backends.arguments import check_identifier, check_token
from deerflow_backends.binding import Binding
from deerflow_backends.buckets import (
    bucket_of,
    by_bucket,
    by_model,
    check_recordings,
    check_window,
    first_of_window,
    oldest_kept,
    to_counts,
)
from deerflow_backends.clocks import MICROSECONDS
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.sqlite import counter_tables as tables
from deerflow_backends.sqlite.connection import Connection, ping
from deerflow_backends.sqlite.database import Database
from deerflow_backends.streams import Reach

T = TypeVar("T")


class SqliteModelCounters:
    """A `ModelCounters` for the processes of this host."""

    reach: Reach = "host"

    def __init__(self, connection: Connection, database: Database, binding: Binding, options: CounterOptions) -> None:
        self._database, self._binding, self._options = database, binding, options
        self._clock = connection.clock
        self._timeout_seconds = connection.timeout_seconds

    async def record(
        self,
        model_name: str,
        *,
        calls: int = 0,
        successes: int = 0,
        failures: int = 0,
        positive: int = 0,
        negative: int = 0,
        token: str | None = None,
    ) -> None:
        """Count."""
        recorded = Recorded(model_name, calls, successes, failures, positive, negative)
        await self.record_many((recorded,), token=token)

    async def record_many(self, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        """Count for many models."""
        self._binding.check()
        checked = check_recordings(counts)
        if token is not None:
            check_token("token", token)
        sums = by_model(checked)

        def job(connection: sqlite3.Connection) -> None:
            now = self._clock()
            expires_at = now + int(self._options.token_seconds * MICROSECONDS)
            if token is None or tables.take_token(connection, token, now=now, expires_at=expires_at):
                tables.add(connection, sums, by_bucket(checked, now, self._options))

        await self._database.write(job, timeout_seconds=self._timeout_seconds)

    async def totals(self, model_name: str) -> Counts:
        """Sum everything recorded for a model."""
        self._binding.check()
        check_identifier("model_name", model_name)
        return to_counts(await self._read(lambda connection: tables.totals(connection, model_name)))

    async def all_totals(self) -> dict[str, Counts]:
        """Sum everything recorded for each model."""
        self._binding.check()
        sums = await self._read(tables.all_totals)
        return {model_name: to_counts(values) for model_name, values in sums.items()}

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Sum a model's buckets of the last *seconds*."""
        self._binding.check()
        check_identifier("model_name", model_name)
        check_window(seconds, self._options)
        return to_counts(
            await self._read(lambda connection: tables.window(connection, model_name, *self._buckets_of(seconds)))
        )

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """Sum each model's buckets of the last *seconds*."""
        self._binding.check()
        check_window(seconds, self._options)
        sums = await self._read(lambda connection: tables.all_windows(connection, *self._buckets_of(seconds)))
        return {model_name: to_counts(values) for model_name, values in sums.items()}

    async def reset(self, model_name: str) -> None:
        """Remove a model."""
        self._binding.check()
        check_identifier("model_name", model_name)
        await self._database.write(
            lambda connection: tables.reset(connection, model_name), timeout_seconds=self._timeout_seconds
        )

    async def ping(self) -> None:
        """Return if the file can be read."""
        self._binding.check()
        await ping(self._database, self._timeout_seconds)

    def sweep(self, connection: sqlite3.Connection) -> bool:
        """Free some of what no reader can see any more; True if there is more."""
        now = self._clock()
        return tables.sweep(connection, now=now, oldest=oldest_kept(now, self._options))

    def _buckets_of(self, seconds: int) -> tuple[int, int]:
        """Name the first and the last bucket of a window."""
        now = self._clock()
        return first_of_window(now, seconds, self._options), bucket_of(now, self._options)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(function, timeout_seconds=self._timeout_seconds)


@asynccontextmanager
async def open_counters(
    connection: Connection, options: CounterOptions | None = None
) -> AsyncIterator[SqliteModelCounters]:
    """Open the model counters of a connection."""
    binding = Binding("these model counters")
    async with connection.database("counters") as database:
        counters = SqliteModelCounters(connection, database, binding, options or CounterOptions())
        async with connection.sweeping(database, counters.sweep):
            try:
                yield counters
            finally:
                binding.close()
