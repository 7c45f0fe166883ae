"""What is recorded in counters, drawn as data before a backend is touched; names collide as in `memory_programs`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from hypothesis.strategies import SearchStrategy

from deerflow_backends.counters import MAX_COUNT
from deerflow_conformance import programs
from deerflow_conformance.digits import Digits, from_steps

MODELS = ("gpt", "GPT", "gpt:", "é", "e\u0301")


@dataclass(frozen=True, slots=True)
class Recording:
    """Counts for one model: calls, successes, failures, positive, negative."""

    model_name: str
    figures: tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class RecordStep:
    """One `record` (a single recording) or `record_many`, with the token of this number or none."""

    recordings: tuple[Recording, ...]
    many: bool
    token: int | None
    via: int


@dataclass(frozen=True, slots=True)
class ResetStep:
    """Reset a model."""

    model_name: str
    via: int


CounterStep: TypeAlias = RecordStep | ResetStep


_NAMES = (*MODELS[:2] * 8, *MODELS * 2, *programs.IDENTIFIERS[::5])
_COUNTS = (0, 1, 2, 3)
_FAILURES = (0, 1, 2, 10, 10**6, MAX_COUNT - 1, MAX_COUNT)
_SIGNED = (0, 1, 2, 3, -1, -2)
_VIA = (0, 1)


def _recording(digits: Digits) -> Recording:
    figures = (digits.pick(_COUNTS), digits.pick(_COUNTS), digits.pick(_FAILURES))
    return Recording(digits.pick(_NAMES), (*figures, digits.pick(_SIGNED), digits.pick(_SIGNED)))


def _step(digits: Digits, *, tokens: bool, resets: bool) -> CounterStep:
    kind, via = digits.pick(("one", "many", "reset") if resets else ("one", "many")), digits.pick(_VIA)
    if kind == "reset":
        return ResetStep(digits.pick(MODELS), via)
    token = digits.pick((None, 0, 1, None, 0, 2)) if tokens else None
    recordings = [_recording(digits) for _ in range(1 if kind == "one" else 1 + digits.upto(3))]
    return RecordStep(tuple(recordings), kind == "many", token, via)


def counter_programs(*, tokens: bool = False, resets: bool = False) -> SearchStrategy[list[CounterStep]]:
    """Draw recordings for few models, optionally with repeated tokens and with resets."""
    decode = partial(_step, tokens=tokens, resets=resets)
    return from_steps(lambda _, steps: [decode(step) for step in steps], most=8)


@dataclass(frozen=True, slots=True)
class WindowProgram:
    """Recordings of one model, each after a pause and with an age, and the windows read after each, in seconds.

    Attributes:
        bucket_seconds: The width of a bucket.
        keep_buckets: How many are kept besides the current one.
        moments: Pause before the recording and its age, in tenths of a bucket.
        shares: The windows read, as shares of the longest one.
    """

    bucket_seconds: int
    keep_buckets: int
    moments: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]


_PAUSES = (0, 0, 1, 5, 9, 10, 11, 30)
_SHARES = (0.0, 0.2, 0.4, 0.5, 0.9, 1.0)


def _windows(digits: Digits, steps: list[Digits], *, pauses: bool) -> WindowProgram:
    moments = ((step.pick(_PAUSES) if pauses else 0, step.upto(70)) for step in steps)
    shares = (digits.pick(_SHARES) for _ in range(1 + digits.upto(2)))
    return WindowProgram(digits.pick((1, 7, 20)), digits.pick((1, 2, 5)), tuple(moments), tuple(shares))


def window_programs(*, pauses: bool) -> SearchStrategy[WindowProgram]:
    """Draw recordings around the edges of windows; *pauses* only where time costs nothing."""
    return from_steps(partial(_windows, pauses=pauses), most=8)


class Reply(enum.Enum):
    """What becomes of a call to counters that are out now and then."""

    GIVEN = "counted, and the caller knows"
    NOT_COUNTED = "lost before it was counted"
    LOST = "counted, but the reply is lost"


@dataclass(frozen=True, slots=True)
class OutageProgram:
    """Recordings through a buffer, with pauses after them in hundredths of a second, and what becomes of flushes."""

    recordings: tuple[tuple[Recording, int], ...]
    replies: tuple[Reply, ...]


def _outage_recording(digits: Digits) -> tuple[Recording, int]:
    figures = (digits.pick(_COUNTS), digits.pick(_COUNTS), digits.pick(_COUNTS))
    thumbs = (digits.pick((0, 1, 2, -1)), digits.pick((0, 1, 2, -1)))
    return Recording(digits.pick(MODELS[:3]), (*figures, *thumbs)), digits.pick((0, 0, 1, 3))


def _outages(digits: Digits, steps: list[Digits]) -> OutageProgram:
    replies = [digits.pick(tuple(Reply)) for _ in range(digits.upto(8))]
    return OutageProgram(tuple(map(_outage_recording, steps)), tuple(replies))


def outage_programs() -> SearchStrategy[OutageProgram]:
    """Draw recordings while flushes fail, before or after they were counted."""
    return from_steps(_outages, most=8)
