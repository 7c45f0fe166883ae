"""Faults of the served backend: in this process, in its server, and in the kit's helper processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Final

from deerflow_conformance.conformances import Conformance
from deerflow_conformance.mutants import Patch, Patched, all_mutants, methods, mutant, together
from deerflow_conformance.promises import Capability

#: Names the fault, and the process that has it already, to those that are started while it is there.
_VARIABLE: Final = "DEERFLOW_SERVED_FAULT"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong, whether this process is as it should be, and whether nobody needs to wait for what never comes."""

    patch: Patch
    elsewhere: bool
    for_ever: bool


_faults: Final[dict[str, _Fault]] = {}

#: How long checks wait for what should come, where it never does: in which module, by which name, and for how long.
_PATIENCE: Final = (
    ("deerflow_conformance.attempts", "RECOVERY_SECONDS", 5.0),
    ("deerflow_conformance.disturbed", "RECOVERY_SECONDS", 5.0),
    ("deerflow_conformance.outages", "GRACE_SECONDS", 2.0),
    ("deerflow_conformance.stream_outages", "_NEWS_SECONDS", 5.0),
    ("deerflow_conformance.isolation", "REAL_SECONDS", 25.0),
)

#: What another process has entered, for as long as it lives.
_entered = ExitStack()


def fault(
    number: str,
    *capabilities: Capability,
    by: str | tuple[str, ...],
    elsewhere: bool = False,
    for_ever: bool = False,
) -> Callable[[Patch], Patch]:
    """Register a fault of the served backend, as `mutant` does; several times, if different checks look for it.

    Args:
        number: The promise.
        capabilities: Where it is broken.
        by: The checks that look for it.
        elsewhere: Whether it is in the other processes only, so that this one can tell what is true.
        for_ever: Whether what the checks wait for never comes: then they wait for it less long.
    """

    def register(patch: Patch) -> Patch:
        name: str = getattr(patch, "__name__", "")
        _faults[name] = _Fault(patch, elsewhere, for_ever)
        for capability in capabilities:
            made = partial(_served, capability, name)
            made.__name__, made.__doc__ = name, patch.__doc__  # type: ignore[attr-defined]
            mutant(number, capability, by=by, served=True)(made)
        return patch

    return register


@contextmanager
def _served(capability: Capability, name: str) -> Iterator[Conformance]:
    conformances = import_module("deerflow_conformance.mutants.served.conformances")
    with _little_patience() if _faults[name].for_ever else nullcontext(), everywhere(name):
        yield getattr(conformances, capability)


def _little_patience() -> Patched:
    return together(*(methods(import_module(module), **{name: seconds}) for module, name, seconds in _PATIENCE))


@contextmanager
def everywhere(name: str) -> Iterator[None]:
    """Have the fault *name* in every process that is started meanwhile, and here unless it is for the others."""
    with ExitStack() as stack:
        if not _faults[name].elsewhere:
            stack.enter_context(_faults[name].patch())
        os.environ[_VARIABLE] = f"{name} {os.getpid()}"
        stack.callback(os.environ.pop, _VARIABLE)
        yield


def have_fault() -> None:
    """Have the fault that whoever started this process gave it."""
    name, _, process = os.environ.get(_VARIABLE, "").partition(" ")
    if name and process != str(os.getpid()):
        del os.environ[_VARIABLE]  # once is enough, and what is imported now asks, too
        all_mutants()
        _entered.enter_context(_faults[name].patch())
