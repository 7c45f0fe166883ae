"""Deliberate small faults, each of which the checks of one promise must notice: the kit's proof of itself.

A mutant is a context manager: while it is entered, core's in-process backend, or the pure code that it uses, is wrong.
One that needs another backend yields the `Conformance` to judge. ``python -m deerflow_conformance.mutants`` runs them.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Final, TypeAlias
from unittest import mock

from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_conformance.checks import checks_of
from deerflow_conformance.conformances import Conformance
from deerflow_conformance.promises import CAPABILITIES, HARNESS, PROMISES, Capability
from deerflow_conformance.results import Failure, Kind
from deerflow_conformance.runs import Run

#: What a mutant's function gives: a fault, there while entered; it yields what to judge where that is not in process.
Patched: TypeAlias = AbstractContextManager[Any]
Patch: TypeAlias = Callable[[], Patched]

#: The seeds with which every mutant must be caught.
SEEDS: Final = (0, 1, 2)

#: The classes that mutants of several capabilities are given.
BACKENDS: Final[dict[Capability, type]] = {
    "stream_bridge": InProcessStreamBridge,
    "memory": InProcessMemoryStore,
    "thread_index": InProcessThreadIndex,
    "counters": InProcessModelCounters,
}

#: How often one of the served backend is run with each of them, at most.
_CHANCES: Final = 3
#: A mutant must die of what a check looks for. One that makes the backend crash proves nothing about the check.
_DEATHS: Final = (Kind.UNKEPT, Kind.HANG, Kind.LEFTOVER)
_registry: dict[tuple[str, Capability, str], Mutant] = {}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate fault.

    Attributes:
        number: The promise that it breaks.
        capability: Where.
        name: The function's.
        sentence: What is wrong, in one line.
        by: The names of the checks that look for this very fault: each of them must notice, with every seed.
        patch: Makes it so, while entered.
        served: Whether it is one of the served backend, which takes processes, a server and real time.
    """

    number: str
    capability: Capability
    name: str
    sentence: str
    by: tuple[str, ...]
    patch: Patch
    served: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant with one seed.

    Attributes:
        mutant: Which.
        seed: With which.
        failures: What each of its checks found, None if nothing.
    """

    mutant: Mutant
    seed: int
    failures: dict[str, Failure | None]

    @property
    def missed(self) -> dict[str, Failure | None]:
        """The checks that should have noticed, and did not or by a crash only."""
        return {name: one for name, one in self.failures.items() if one is None or one.kind not in _DEATHS}

    def __str__(self) -> str:
        """Say who should have noticed what."""
        lines = [f"{self.mutant.capability} {self.mutant.number} {self.mutant.name}: {self.mutant.sentence}"]
        for name, failure in self.missed.items():
            seen = "notices nothing" if failure is None else f"only crashes: {failure.message}"
            lines.append(f"  {name} with seed {self.seed} {seen}")
        return "\n".join(lines)


def mutant(
    number: str, *capabilities: Capability, by: str | tuple[str, ...], served: bool = False
) -> Callable[[Any], Any]:
    """Register a fault that breaks the promise *number*; the function's docstring says what is wrong.

    A function with a parameter is given the in-process class of each of the *capabilities* in turn.

    Args:
        number: The promise.
        capabilities: Where it is broken.
        by: The check, or checks, that look for this very fault. That another check notices proves nothing.
        served: Whether it is one of the served backend.

    Raises:
        ValueError: A capability has no such promise, there is no docstring, or the name is taken.
    """
    for capability in capabilities:
        if number not in PROMISES or capability not in PROMISES[number].capabilities:
            raise ValueError(f"{capability} has no promise {number!r}")
    names = (by,) if isinstance(by, str) else by

    def register(patch: Any) -> Any:
        name = getattr(patch, "__name__", "")
        if not patch.__doc__:
            raise ValueError(f"{name} needs a docstring: it is what is shown when no check notices the fault")
        sentence = patch.__doc__.strip().splitlines()[0]
        for capability in capabilities:
            if (number, capability, name) in _registry:
                raise ValueError(f"there are two mutants of {capability} for {number} named {name!r}")
            made = partial(patch, BACKENDS[capability]) if inspect.signature(patch).parameters else patch
            _registry[number, capability, name] = Mutant(number, capability, name, sentence, names, made, served)
        return patch

    return register


@contextmanager
def together(*patches: Patched) -> Iterator[None]:
    """Enter several patches, which are one fault."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def methods(owner: type | ModuleType, **changed: Any) -> Patched:
    """Give a class other methods, or a module other functions, while entered."""
    # Not `mock.patch.multiple`, which takes a method `create` for an argument of its own.
    return together(*(mock.patch.object(owner, name, method) for name, method in changed.items()))


def all_mutants() -> list[Mutant]:
    """Return every mutant, by capability and promise in the order of the contract."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    numbers = list(PROMISES)
    return sorted(
        _registry.values(),
        key=lambda one: (CAPABILITIES.index(one.capability), one.number[0] == "G", numbers.index(one.number)),
    )


def run_mutant(mutated: Mutant, seed: int = 0) -> Outcome:
    """Run the checks that must notice the mutant, with the fault in the backend.

    The harness check comes first and without the fault, which is to be noticed by its own promise.

    Raises:
        LookupError: Its promise has no check of that name.
    """
    from deerflow_conformance.reference import REFERENCE  # noqa: PLC0415  # importing the mutants should load none

    (reference,) = (one for one in REFERENCE if one.capability == mutated.capability)
    checks = {check.name: check for check in checks_of(mutated.number)}
    if unknown := [name for name in mutated.by if name not in checks]:
        raise LookupError(f"{mutated.name} is to be caught by {unknown}, which {mutated.number} does not have")
    with ExitStack() as stack:
        run = stack.enter_context(_running(reference, seed))
        yielded = stack.enter_context(mutated.patch())
        if isinstance(yielded, Conformance):
            run = stack.enter_context(_running(yielded, seed))
        failures = {name: run._finished(mutated.number, [checks[name]]).failure for name in mutated.by}
    return Outcome(mutated, seed, failures)


def judge_mutant(mutated: Mutant, seed: int = 0) -> Outcome:
    """Run the mutant, one of the served backend up to three times until it is noticed; return the last outcome.

    Among processes and over a network the seed does not decide alone what meets what.
    """
    outcome = run_mutant(mutated, seed)
    for further in range(1, _CHANCES if mutated.served else 1):
        if not outcome.missed:
            break
        outcome = run_mutant(mutated, seed + further * len(SEEDS))
    return outcome


@contextmanager
def _running(conformance: Conformance, seed: int) -> Iterator[Run]:
    run = Run(conformance, seed=seed, shorten=False)
    try:
        run.start()
        run.judge(HARNESS.number)
        yield run
    finally:
        run.close()
