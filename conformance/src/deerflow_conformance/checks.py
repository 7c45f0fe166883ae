"""Where checks register, and how they say that a promise was not kept."""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from deerflow_conformance.promises import LEVELS, PROMISES, Level

if TYPE_CHECKING:
    from deerflow_conformance.bench import Bench

CheckFunction: TypeAlias = "Callable[[Bench], None]"

#: The modules that hold the checks of each letter; loaded when first asked for.
_MODULES: Final = {
    "G": (
        "identifiers",
        "values",
        "general",
        "cancellations",
        "lifecycles",
        "leftovers",
        "once",
        "kills",
        "outages",
        "restarts",
        "stalls",
        "fault_cancellations",
        "load",
    ),
    "S": (
        "streams",
        "stream_cursors",
        "stream_subscribers",
        "stream_retention",
        "stream_cleanups",
        "stream_schedules",
        "stream_lengths",
        "stream_rivals",
        "stream_outages",
        "restarts",
        "stream_load",
    ),
    "M": ("memories", "memory_reads", "memory_keeping", "memory_copies", "memory_rivals", "memory_load"),
    "T": ("threads", "thread_updates", "thread_pages", "thread_copies", "thread_rivals", "thread_load"),
    "C": ("counters", "counter_windows", "counter_buffers", "counter_rivals", "counter_faults", "counter_load"),
}
_registry: dict[str, list[Check]] = {}


class Unkept(AssertionError):
    """A check found a promise unkept.

    Attributes:
        wanted: What the promise asks for, in words or as a value.
        got: What the backend did.
    """

    def __init__(self, wanted: Any, got: Any) -> None:
        super().__init__(f"wanted {_shown(wanted)}, got {_shown(got)}")
        self.wanted, self.got = _shown(wanted), _shown(got)


class NotApplicable(unittest.SkipTest):
    """The contract itself exempts this backend. (A `SkipTest`, which Hypothesis passes on instead of shrinking it.)"""


class CouldNotRun(unittest.SkipTest):
    """Something that the check needs is missing, so nobody knows whether the promise is kept."""


@dataclass(frozen=True, slots=True)
class Check:
    """One test of one promise.

    Attributes:
        number: The promise's.
        name: The function's.
        sentence: The first line of its docstring.
        function: What runs it.
        level: The level that it belongs to.
        waits: Whether it mostly waits for time to pass, so that it may run beside others that do.
    """

    number: str
    name: str
    sentence: str
    function: CheckFunction
    level: Level = "L1"
    waits: bool = False


def check(number: str, *, level: Level = "L1", waits: bool = False) -> Callable[[CheckFunction], CheckFunction]:
    """Register a test of the promise *number*; its docstring's first line says what is tested.

    Args:
        number: Such as ``S3``.
        level: At which level it runs, and above; ``load`` on its own. At least the promise's own.
        waits: Whether it mostly waits for time to pass. In real time all such checks of a capability run at once.

    Raises:
        ValueError: There is no such promise, the function has no docstring, or its name is taken.
    """
    if number not in PROMISES:
        raise ValueError(f"there is no promise {number!r}")
    if LEVELS.index(level) < LEVELS.index(PROMISES[number].level):
        raise ValueError(f"{number} is tested from {PROMISES[number].level} on, not at {level}")

    def register(function: CheckFunction) -> CheckFunction:
        if not function.__doc__:
            raise ValueError(f"{function.__name__} needs a docstring: it is shown when the check fails")
        checks = _registry.setdefault(number, [])
        if any(one.name == function.__name__ for one in checks):
            raise ValueError(f"{number} already has a check named {function.__name__}")
        sentence = function.__doc__.strip().splitlines()[0]
        checks.append(Check(number, function.__name__, sentence, function, level, waits))
        return function

    return register


def checks_of(number: str) -> list[Check]:
    """Return the checks of a promise, those of lower levels first, else as they were written; none if it has none."""
    for name in _MODULES[number[0]]:
        importlib.import_module(f"deerflow_conformance.{name}")
    return sorted(_registry.get(number, ()), key=lambda one: LEVELS.index(one.level))


def expect(condition: object, wanted: Any, got: Any) -> None:
    """Fail the check unless *condition* is true, saying what was *wanted* and what came (*got*)."""
    if not condition:
        raise Unkept(wanted, got)


def unkept(wanted: Any, got: Any) -> NoReturn:
    """Fail the check, saying what was *wanted* and what came (*got*)."""
    raise Unkept(wanted, got)


def _shown(value: Any, limit: int = 2_000) -> str:
    """Return words as they are and values as their repr, cut where it would flood a terminal."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
