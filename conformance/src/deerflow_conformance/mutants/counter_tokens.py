"""Faults of model counters that concern tokens: C2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
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
    return _remembered(lambda _: 1e9)


@mutant("C2", "counters", by="tokens_are_remembered_as_long_as_said")
def a_token_is_forgotten_too_early() -> Patched:
    """A token is remembered for half of token_seconds."""
    return _remembered(lambda seconds: seconds / 2)


def _remembered(changed: Callable[[float], float]) -> Patched:
    """Let backends take other token_seconds than those that they were given."""

    def get(self: CounterOptions, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return changed(value) if name == "token_seconds" else value

    return mock.patch.object(CounterOptions, "__getattribute__", get)


@mutant("C2", "counters", by="a_token_outlasts_sweeps")
def a_token_is_swept_too_early() -> Patched:
    """A sweep forgets the tokens that would be forgotten within the next quarter of a minute."""
    sweep = InProcessModelCounters.sweep

    def early(self: InProcessModelCounters) -> None:
        sweep(self)
        soon = self._clock() + 15_000_000
        for token in [token for token, until in self._table.tokens.items() if until <= soon]:
            del self._table.tokens[token]

    return with_methods(sweep=early)


@mutant("C2", "counters", by="a_token_outlasts_sweeps")
def a_token_is_remembered_for_an_hour_at_most() -> Patched:
    """A token is forgotten after an hour, however long it is to be remembered."""
    return _remembered(lambda seconds: min(seconds, 3_600.0))


@mutant("C2", "counters", by="a_token_outlasts_sweeps")
def a_token_is_remembered_for_nine_minutes_by_default() -> Patched:
    """A token that is to be remembered for ten minutes is forgotten after nine."""
    return _remembered(lambda seconds: 540.0 if seconds == 600 else seconds)


@mutant("C2", "counters", by="thousands_of_tokens_are_remembered")
def two_hundred_tokens_are_remembered() -> Patched:
    """The latest two hundred tokens are remembered, however short a time ago the others were seen."""

    async def record_many(self: InProcessModelCounters, counts: Sequence[Recorded], *, token: Any = None) -> None:
        await _record_many(self, counts, token=token)
        for oldest in list(self._table.tokens)[:-200]:
            del self._table.tokens[oldest]

    return _recording(record_many)


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
