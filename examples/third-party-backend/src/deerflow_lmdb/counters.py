"""The model counters in LMDB."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice, takewhile
from typing import Final

from deerflow_backends import CounterOptions, Counts, Reach, Recorded
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
from deerflow_backends.clocks import MICROSECONDS, wall_clock
from deerflow_lmdb.connection import Connection
from deerflow_lmdb.layout import BUCKETS, TOKENS, TOTALS, SumsRow, TokenRow, digest, moment_key, split_moment
from deerflow_lmdb.transactions import Table, Transaction

#: How many rows of each kind one portion of a sweep removes at most, so that others can write in between.
_PORTION: Final = 1_000


class LmdbModelCounters:
    """A `ModelCounters` for the processes of this host."""

    reach: Reach = "host"

    def __init__(self, connection: Connection, binding: Binding, options: CounterOptions) -> None:
        self._connection, self._binding, self._options = connection, binding, options

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

        def job(tx: Transaction) -> None:
            now = wall_clock()
            if token is not None and not self._take_token(tx, token, now):
                return
            for model_name, sums in by_model(checked).items():
                _add(tx, TOTALS, digest(model_name), model_name, sums)
            for (bucket, model_name), sums in by_bucket(checked, now, self._options).items():
                _add(tx, BUCKETS, moment_key(bucket) + digest(model_name), model_name, sums)

        await self._connection.write(job)

    def _take_token(self, tx: Transaction, token: str, now: int) -> bool:
        """Remember a token; False if it is remembered already (C2)."""
        found = tx.get(TOKENS, token.encode())
        if found is not None and found.expires_at > now:
            return False
        tx.put(TOKENS, token.encode(), TokenRow(now + int(self._options.token_seconds * MICROSECONDS)))
        return True

    async def totals(self, model_name: str) -> Counts:
        """Sum everything recorded for a model."""
        self._binding.check()
        key = digest(check_identifier("model_name", model_name))
        found = await self._connection.read(lambda tx: tx.get(TOTALS, key))
        return to_counts(found.sums if found else ())

    async def all_totals(self) -> dict[str, Counts]:
        """Sum everything recorded for each model."""
        self._binding.check()
        rows = await self._connection.read(lambda tx: [row for _, row in tx.scan(TOTALS)])
        return {row.model_name: to_counts(row.sums) for row in rows}

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Sum a model's buckets of the last *seconds*."""
        self._binding.check()
        model_name = check_identifier("model_name", model_name)
        check_window(seconds, self._options)

        def job(tx: Transaction) -> Counts:
            total: Sums | None = None
            for _, sums in _buckets_of(tx, model_name, *self._buckets(seconds)):
                total = add(total, sums)
            return to_counts(total or ())

        return await self._connection.read(job)

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """Sum each model's buckets of the last *seconds*."""
        self._binding.check()
        check_window(seconds, self._options)

        def job(tx: Transaction) -> dict[str, Sums]:
            first, last = self._buckets(seconds)
            found: dict[str, Sums] = {}
            for key, row in tx.scan(BUCKETS, moment_key(first)):
                if split_moment(key)[0] > last:
                    break
                found[row.model_name] = add(found.get(row.model_name), row.sums)
            return found

        sums = await self._connection.read(job)
        return {model_name: to_counts(values) for model_name, values in sums.items()}

    def _buckets(self, seconds: int) -> tuple[int, int]:
        """Name the first and the last bucket of a window."""
        now = wall_clock()
        return first_of_window(now, seconds, self._options), bucket_of(now, self._options)

    async def reset(self, model_name: str) -> None:
        """Remove a model."""
        self._binding.check()
        model_name = check_identifier("model_name", model_name)

        def job(tx: Transaction) -> None:
            tx.delete(TOTALS, digest(model_name))
            for key in [key for key, _ in _buckets_of(tx, model_name)]:
                tx.delete(BUCKETS, key)

        await self._connection.write(job)

    async def ping(self) -> None:
        """Return if the namespace can be read."""
        self._binding.check()
        await self._connection.ping()

    def sweep(self, tx: Transaction) -> bool:
        """Free some of what no reader can see any more; True if there is more."""
        now = wall_clock()
        oldest = moment_key(oldest_kept(now, self._options))
        tokens = (key for key, row in tx.scan(TOKENS) if row.expires_at <= now)
        buckets = (key for key, _ in takewhile(lambda one: one[0] < oldest, tx.scan(BUCKETS)))
        more = False
        for table, keys in ((TOKENS, list(islice(tokens, _PORTION))), (BUCKETS, list(islice(buckets, _PORTION)))):
            for key in keys:
                tx.delete(table, key)
            more |= len(keys) == _PORTION
        return more


def _add(tx: Transaction, table: Table[SumsRow], key: bytes, model_name: str, sums: Sums) -> None:
    found = tx.get(table, key)
    tx.put(table, key, SumsRow(model_name, add(found.sums if found else None, sums)))


def _buckets_of(
    tx: Transaction, model_name: str, first: int | None = None, last: int | None = None
) -> Iterator[tuple[bytes, Sums]]:
    """Give key and sums of each bucket that a model has, stepping over those of all other models."""
    model = digest(model_name)
    start = b"" if first is None else moment_key(first) + model
    while found := next(tx.scan(BUCKETS, start), None):
        key, row = found
        bucket, other = split_moment(key)
        if last is not None and bucket > last:
            return
        if other == model:
            yield key, row.sums
        start = moment_key(bucket if other < model else bucket + 1) + model


@asynccontextmanager
async def open_counters(
    connection: Connection, options: CounterOptions | None = None
) -> AsyncIterator[LmdbModelCounters]:
    """Open the model counters of a connection."""
    binding = Binding("these model counters")
    counters = LmdbModelCounters(connection, binding, options or CounterOptions())
    connection.sweepers.append(counters.sweep)
    try:
        yield counters
    finally:
        connection.sweepers.remove(counters.sweep)
        binding.close()
