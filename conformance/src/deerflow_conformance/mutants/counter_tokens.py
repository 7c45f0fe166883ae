"""Faults of model counters that concern tokens: C2."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from unittest import mock

from deerflow_backends import buckets
from deerflow_backends.arguments import check_token
from deerflow_backends.counters import CounterOptions, Recorded
from deerflow_backends.inprocess import counters
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_conformance.mutants import Patched, mutant
from deerflow_conformance.mutants.counters import with_methods

_record = InProcessModelCounters.record
_record_many = InProcessModelCounters.record_many
_window = InProcessModelCounters._window


def _recording(record_many: Any) -> Patched:
    return with_methods(record_many=record_many)


@mutant("C2", "counters", by=("a_token_counts_once", "rivals_with_one_token_count_once"))
def a_token_is_ignored() -> Patched:
    """A batch with a token is counted each time it comes."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        if token is not None:
            check_token("token", token)
        await _record_many(self, counts)

    return _recording(record_many)


@mutant("C2", "counters", by="a_token_counts_once")
def a_token_is_one_instances() -> Patched:
    """Each instance remembers its own tokens only."""
    known: dict[InProcessModelCounters, int] = {}

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        if token is not None:
            known.setdefault(self, len(known))
            token = f"{known[self]} {check_token('token', token)}"[:64]
        await _record_many(self, counts, token=token)

    return _recording(record_many)


@mutant("C2", "counters", by="a_forgotten_token_counts_again")
def a_token_is_never_forgotten() -> Patched:
    """A token is refused long after token_seconds."""
    return mock.patch.object(
        CounterOptions,
        "__getattribute__",
        lambda self, name: 10**9 if name == "token_seconds" else object.__getattribute__(self, name),
    )


@mutant("C2", "counters", by="tokens_are_remembered_as_long_as_said")
def a_token_is_forgotten_too_early() -> Patched:
    """A token is remembered for half of token_seconds."""
    return mock.patch.object(
        CounterOptions,
        "__getattribute__",
        lambda self, name: (
            object.__getattribute__(self, name) / 2 if name == "token_seconds" else object.__getattribute__(self, name)
        ),
    )


@mutant("C2", "counters", by="tokens_are_remembered_as_long_as_said")
def a_refused_recording_uses_its_token_up() -> Patched:
    """The token of a recording that is refused counts as seen."""

    async def record(self: InProcessModelCounters, model_name: str, *, token: Any = None, **figures: Any) -> None:
        try:
            Recorded(model_name, **figures)
        except ValueError:
            if token is not None:
                await _record_many(self, (), token=token)
            raise
        await _record(self, model_name, token=token, **figures)

    return with_methods(record=record)


@mutant("C2", "counters", by="rivals_with_one_token_count_once")
def tokens_are_cut() -> Patched:
    """Of a token the first three characters are looked at."""
    return _tokens(lambda token: token[:3])


@mutant("C2", "counters", by="rivals_with_one_token_count_once")
def tokens_fold() -> Patched:
    """Tokens that differ by case are one."""
    return _tokens(str.casefold)


def _tokens(changed: Any) -> Patched:
    return mock.patch.object(counters, "check_token", lambda place, token: changed(check_token(place, token)))


@mutant("C2", "counters", by="a_token_counts_once")
def a_token_is_one_models() -> Patched:
    """A token that was seen with one model counts with another."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        if token is not None:
            token = f"{hash(tuple(one.model_name for one in buckets.check_recordings(counts)))}{token}"[:64]
        await _record_many(self, counts, token=token)

    return _recording(record_many)


@mutant("C2", "counters", by="rivals_with_one_token_count_once")
def rivals_of_one_token_all_count() -> Patched:
    """Whether a token was seen is looked at before a wait."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        if token is not None and self._table.tokens.get(token, 0) > self._clock():
            return
        await asyncio.sleep(0)
        if token is not None:
            self._table.tokens.pop(token, None)
        await _record_many(self, counts, token=token)

    return _recording(record_many)


@mutant("C2", "counters", by="tokens_are_remembered_as_long_as_said")
def any_token_is_taken() -> Patched:
    """A token may be of any length, empty included."""
    return mock.patch.object(counters, "check_token", lambda _, token: str(token))
