"""Deliberate small faults, each of which the checks of one promise must notice: the kit's proof of itself.

A mutant patches core's in-process backend, or the pure code it uses, while its context manager is entered.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

from deerflow_conformance.promises import HARNESS, PROMISES, Capability
from deerflow_conformance.results import Kind, Result, State
from deerflow_conformance.runs import Run

Patch: TypeAlias = Callable[[], AbstractContextManager[None]]

_MODULES: Final = ("streams", "stream_lifetimes", "memories", "threads", "counters", "general")
#: A mutant must die of what a check looks for. One that makes the backend crash proves nothing about the check.
_DEATHS: Final = (Kind.UNKEPT, Kind.HANG, Kind.LEFTOVER)
_registry: dict[str, Mutant] = {}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate fault.

    Attributes:
        number: The promise that it breaks.
        capability: Where.
        name: The function's.
        sentence: What is wrong, in one line.
        patch: Makes it so, while entered.
    """

    number: str
    capability: Capability
    name: str
    sentence: str
    patch: Patch


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: Which.
        result: What came of its promise.
    """

    mutant: Mutant
    result: Result

    @property
    def killed(self) -> bool:
        """Whether a check noticed, by what it looks for."""
        failure = self.result.failure
        return self.result.state is State.FAILED and failure is not None and failure.kind in _DEATHS


def mutant(number: str, capability: Capability) -> Callable[[Patch], Patch]:
    """Register a fault that breaks the promise *number* of *capability*; its docstring says what is wrong.

    Raises:
        ValueError: That capability has no such promise, there is no docstring, or the name is taken.
    """
    if number not in PROMISES or capability not in PROMISES[number].capabilities:
        raise ValueError(f"{capability} has no promise {number!r}")

    def register(patch: Patch) -> Patch:
        name = getattr(patch, "__name__", "")
        if not patch.__doc__:
            raise ValueError(f"{name} needs a docstring: it is what is shown when no check notices the fault")
        if name in _registry:
            raise ValueError(f"there are two mutants named {name!r}")
        _registry[name] = Mutant(number, capability, name, patch.__doc__.strip().splitlines()[0], patch)
        return patch

    return register


def all_mutants() -> list[Mutant]:
    """Return every mutant, by capability in the order of the contract."""
    for name in _MODULES:
        importlib.import_module(f"{__name__}.{name}")
    return list(_registry.values())


def run_mutant(mutated: Mutant, seed: int = 0) -> Outcome:
    """Judge the mutant's promise against the in-process reference with the fault in it.

    The harness check comes first and without the fault, which is to be noticed by its own promise.
    """
    from deerflow_conformance.reference import REFERENCE  # noqa: PLC0415  # loads the backend

    (conformance,) = (one for one in REFERENCE if one.capability == mutated.capability)
    run = Run(conformance, seed=seed, shorten=False)
    try:
        run.judge(HARNESS.number)
        with mutated.patch():
            return Outcome(mutated, run.judge(mutated.number))
    finally:
        run.close()
