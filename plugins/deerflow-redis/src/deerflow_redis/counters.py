"""The model counters on Redis or Valkey, for all processes that reach the server."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from deerflow_backends.arguments import check_identifier, check_token
from deerflow_backends.binding import Binding
from deerflow_backends.buckets import check_recordings, check_window, to_counts
from deerflow_backends.clocks import MICROSECONDS
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.errors import ConfigError
from deerflow_backends.streams import Reach
from deerflow_redis.connection import Connection
from deerflow_redis.layout import CounterKeys

#: The letters that the fields of `Counts` have in hashes, in that order; a model's name follows.
_LETTERS: Final = b"csfpn"
_PLACES: Final[Mapping[int, int]] = {letter: place for place, letter in enumerate(_LETTERS)}

#: How many sums of a window the server adds up before it sees to others: about 30 ms of work.
PART_SUMS: Final = 100_000

#: How many buckets it looks at meanwhile.
PART_BUCKETS: Final = 5_000

#: How many buckets a reset, which looks at each in one step, takes about a second for.
MOST_BUCKETS: Final = 100_000

#: How often a window is read in parts; if each time its past was changed in between, it is read in one piece.
PART_TRIES: Final = 3
_EVERYTHING: Final = 2**53

#: For how long a reader in parts can tell that the past of a window was changed: longer than any call waits.
_CHANGED_MS: Final = 3_600_000


class RedisModelCounters:
    """A `ModelCounters` for all processes that reach the server."""

    reach: Reach = "network"

    def __init__(self, connection: Connection, binding: Binding, options: CounterOptions) -> None:
        self._connection, self._binding, self._options = connection, binding, options
        self._keys = CounterKeys(connection.namespace)

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
        keys: tuple[bytes, ...] = (self._keys.totals, self._keys.buckets, self._keys.changed)
        if token is not None:
            keys = (*keys, self._keys.token(check_token("token", token)))
        await self._connection.write(
            "counter_record",
            keys,
            self._keys.bucket_prefix,
            self._options.bucket_seconds,
            self._options.keep_buckets,
            math.ceil(self._options.token_seconds * 1000),
            _CHANGED_MS,
            *_words(checked),
        )

    async def totals(self, model_name: str) -> Counts:
        """Sum everything recorded for a model."""
        self._binding.check()
        fields = _fields(check_identifier("model_name", model_name))
        values = await self._connection.command(b"HMGET", self._keys.totals, *fields, key=self._keys.totals)
        return to_counts([int(value or 0) for value in values])

    async def all_totals(self) -> dict[str, Counts]:
        """Sum everything recorded for each model."""
        self._binding.check()
        sums: dict[bytes, list[int]] = {}
        _add(sums, await self._connection.command(b"HGETALL", self._keys.totals, key=self._keys.totals))
        return _counts(sums)

    async def window(self, model_name: str, *, seconds: int) -> Counts:
        """Sum a model's buckets of the last *seconds*."""
        self._binding.check()
        model_name = check_identifier("model_name", model_name)
        return _counts(await self._window(seconds, *_fields(model_name))).get(model_name, Counts())

    async def all_windows(self, *, seconds: int) -> dict[str, Counts]:
        """Sum each model's buckets of the last *seconds*."""
        self._binding.check()
        return _counts(await self._window(seconds))

    async def _window(self, seconds: int, *fields: bytes) -> dict[bytes, list[int]]:
        """Sum the buckets of a window as they are at one moment; all fields if none are given."""
        check_window(seconds, self._options)
        until = self._connection.deadline()
        for _ in range(PART_TRIES):
            sums = await self._window_in_parts(until, (PART_SUMS, PART_BUCKETS), seconds, fields)
            if sums is not None:
                return sums
        return await self._window_in_parts(until, (_EVERYTHING, _EVERYTHING), seconds, fields) or {}

    async def _window_in_parts(
        self, until: float, most: tuple[int, int], seconds: int, fields: tuple[bytes, ...]
    ) -> dict[bytes, list[int]] | None:
        """Sum the buckets of a window, the oldest first, at once *most* fields and buckets.

        Every recording of this time into another bucket than the current one, which is read last, and every reset show
        in what the server says of changes: unless it says so, the parts are what one read of all would have found.

        Returns:
            None if there were changes between the parts.
        """
        keys = (self._keys.buckets, self._keys.changed)
        sums: dict[bytes, list[int]] = {}
        seen = None
        following, last = b"", b""
        while True:
            arguments = (
                self._keys.bucket_prefix, self._options.bucket_seconds, seconds, *most, following, last, *fields
            )  # fmt: skip
            changed, following, last, *part = await self._connection.read(
                "counter_window", keys, *arguments, until=until
            )
            if seen is not None and changed != seen:
                return None
            seen = changed
            _add(sums, part)
            if not following:
                return sums

    async def reset(self, model_name: str) -> None:
        """Remove a model."""
        self._binding.check()
        fields = _fields(check_identifier("model_name", model_name))
        keys = (self._keys.totals, self._keys.buckets, self._keys.changed)
        await self._connection.write("counter_reset", keys, self._keys.bucket_prefix, _CHANGED_MS, *fields)

    async def ping(self) -> None:
        """Return if every server with keys answers."""
        self._binding.check()
        await self._connection.ping()


def _words(counts: Iterable[Recorded]) -> Iterable[Any]:
    """Give what the script takes for each recording."""
    for one in counts:
        yield one.model_name.encode()
        yield round(one.age_seconds * MICROSECONDS)
        yield from (one.calls, one.successes, one.failures, one.positive, one.negative)


def _fields(model_name: str) -> tuple[bytes, ...]:
    """Name a model's five fields."""
    name = model_name.encode()
    return tuple(bytes((letter,)) + name for letter in _LETTERS)


def _add(sums: dict[bytes, list[int]], pairs: Sequence[bytes]) -> None:
    """Add fields and their values, in turn, to the sums of models."""
    for field, value in zip(pairs[::2], pairs[1::2], strict=True):
        of_model = sums.get(field[1:])
        if of_model is None:
            of_model = sums[field[1:]] = [0, 0, 0, 0, 0]
        of_model[_PLACES[field[0]]] += int(value)


def _counts(sums: Mapping[bytes, Sequence[int]]) -> dict[str, Counts]:
    return {name.decode(): to_counts(values) for name, values in sums.items()}


@asynccontextmanager
async def open_counters(
    connection: Connection, options: CounterOptions | None = None
) -> AsyncIterator[RedisModelCounters]:
    """Open the model counters of *connection*.

    Raises:
        ConfigError: The options ask for more buckets than a server can go through at once.
    """
    options = options or CounterOptions()
    if options.keep_buckets > MOST_BUCKETS:
        raise ConfigError(
            f"counters.keep_buckets must be at most {MOST_BUCKETS} on Redis, not {options.keep_buckets}; "
            "for as long a window set wider buckets (counters.bucket_seconds)"
        )
    binding = Binding("these model counters")
    try:
        yield RedisModelCounters(connection, binding, options)
    finally:
        binding.close()
