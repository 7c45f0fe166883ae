"""The model counters in dicts: the readable specification of promises C1 to C7.

Every call does its work in one piece, under the lock that all openings of one name share.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from deerflow_backends.arguments import check_identifier, check_token
from deerflow_backends.binding import Binding
from deerflow_backends.buckets import (
    Sums,
    add,
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
from deerflow_backends.inprocess.connection import Connection
from deerflow_backends.inprocess.layout import counter_table
from deerflow_backends.streams import Reach


class InProcessModelCounters:
    """A `ModelCounters` within this process."""

    reach: Reach = "process"

    def __init__(self, connection: Connection, binding: Binding, options: CounterOptions) -> None:
        self._binding = binding
        self._clock = connection.clock
        self._lock = connection.tables.lock
        self._table = counter_table(connection.tables)
        self._options = options

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
            token = check_token("token", token)
        with self._lock:
            now = self._clock()
            if token is not None:
                if self._table.tokens.get(token, now) > now:
                    return
                self._table.tokens[token] = now + int(self._options.token_seconds * MICROSECONDS)
            totals = self._table.totals
            for model_name, sums in by_model(checked).items():
                totals[model_name] = add(totals.get(model_name), sums)
            for (bucket, model_name), sums in by_bucket(checked, now, self._options).items():
                models = self._table.buckets.setdefault(bucket, {})
                models[model_name] = add(models.get(model_name), sums)

    async def totals(self, model_name: str) -> Counts:
        """Sum everything recorded for a model."""
        self._binding.check()
        model_name = check_identifier("model_name", model_name)
        with self._lock:
            return to_counts(self._table.totals.get(model_name, ()))

    async def all_totals(self) -> dict[str, Counts]:
        """Sum everything recorded for each model."""
        self._binding.check()
        with self._lock:
            totals = dict(self._table.totals)
        return {model_name: to_counts(sums) for model_name, sums in totals.items()}

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Sum a model's buckets of the last *seconds*."""
        self._binding.check()
        model_name = check_identifier("model_name", model_name)
        return to_counts(self._window(seconds).get(model_name, ()))

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """Sum each model's buckets of the last *seconds*."""
        self._binding.check()
        return {model_name: to_counts(sums) for model_name, sums in self._window(seconds).items()}

    def _window(self, seconds: int) -> dict[str, Sums]:
        check_window(seconds, self._options)
        sums: dict[str, Sums] = {}
        with self._lock:
            now = self._clock()
            first, last = first_of_window(now, seconds, self._options), bucket_of(now, self._options)
            for bucket, models in self._table.buckets.items():
                if first <= bucket <= last:
                    for model_name, more in models.items():
                        sums[model_name] = add(sums.get(model_name), more)
        return sums

    async def reset(self, model_name: str) -> None:
        """Remove a model."""
        self._binding.check()
        model_name = check_identifier("model_name", model_name)
        with self._lock:
            self._table.totals.pop(model_name, None)
            for models in self._table.buckets.values():
                models.pop(model_name, None)

    async def ping(self) -> None:
        """Return if these counters are open."""
        self._binding.check()

    def sweep(self) -> None:
        """Free tokens that are forgotten and buckets that no window reaches (G11)."""
        with self._lock:
            now = self._clock()
            oldest = oldest_kept(now, self._options)
            for token in [token for token, until in self._table.tokens.items() if until <= now]:
                del self._table.tokens[token]
            for bucket in [bucket for bucket, models in self._table.buckets.items() if bucket < oldest or not models]:
                del self._table.buckets[bucket]


@asynccontextmanager
async def open_counters(
    connection: Connection, options: CounterOptions | None = None
) -> AsyncIterator[InProcessModelCounters]:
    """Open the model counters of *connection*, for this event loop."""
    binding = Binding("these model counters")
    counters = InProcessModelCounters(connection, binding, options or CounterOptions())
    connection.sweepers.append(counters.sweep)
    try:
        yield counters
    finally:
        connection.sweepers.remove(counters.sweep)
        binding.close()
