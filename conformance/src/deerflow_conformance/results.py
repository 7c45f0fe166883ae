"""What came of a promise, and what a whole run amounts to."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from deerflow_conformance.promises import CONTRACT_VERSION, PROMISES, Capability, Level, levels_of, promises_of

if TYPE_CHECKING:
    from deerflow_backends.streams import Reach


class BrokenUse(Exception):
    """The kit is used wrongly, or what it is to test cannot be opened at all: exit code 2."""


class State(enum.StrEnum):
    """What came of a promise; exactly one of these."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    COULD_NOT_RUN = "could not run"
    KNOWN_FAILURE = "known failure"


class Kind(enum.StrEnum):
    """How a promise failed."""

    UNKEPT = "unkept"  # a check's expectation did not hold
    ERROR = "error"  # an exception that the promise does not allow
    HANG = "hang"  # no end within the deadline
    LEFTOVER = "leftover"  # a task, thread, handle or warning remained
    FIXED = "fixed"  # a declared known failure passed


class Exit(enum.IntEnum):
    """The exit codes of the command."""

    CONFORMANT = 0
    NOT_CONFORMANT = 1
    BROKEN = 2
    INCOMPLETE = 3
    KIT_DEFECT = 4


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """A failure that the author knows of: it shows as such, and when it passes, that fails.

    Attributes:
        reason: What is wrong.
        link: Where it is tracked, a URL.
        date: When it was found out.
    """

    reason: str
    link: str
    date: date | str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("reason must say what is wrong")
        if not self.link.startswith(("https://", "http://")):
            raise ValueError(f"link must be a URL where the failure is tracked, not {self.link!r}")
        if not isinstance(self.date, date):
            object.__setattr__(self, "date", date.fromisoformat(self.date))

    def __str__(self) -> str:
        return f"{self.reason} ({self.link}, {self.date})"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a promise failed, as an author reads it.

    Attributes:
        kind: How.
        check: The check's name.
        check_sentence: What the check tests.
        message: What was wrong.
        program: The shortest generated program that was found to show it, or None if nothing was generated.
        trace: Where it happened, the backend's and the check's lines.
        history: What was called, by whom and when, and what came of it, as short as still shows the failure; None
            where the check keeps none.
        cause: What usually lies behind a failure of this promise.
        snippet: A Python program that runs this check again.
    """

    kind: Kind
    check: str
    check_sentence: str
    message: str
    program: str | None = None
    trace: str = ""
    history: str | None = None
    cause: str = ""
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one promise of one capability.

    Attributes:
        number: The promise's.
        capability: Whose.
        state: What came of it.
        reason: Why it is not applicable, could not run, or is known; else empty, or what half was not applicable or
            not seen.
        failure: Why it failed, also of a known failure.
        levels: The levels that its checks ran at.
        seconds: How long they took, for information.
    """

    number: str
    capability: Capability
    state: State
    reason: str = ""
    failure: Failure | None = None
    levels: tuple[Level, ...] = field(default=(), compare=False)
    seconds: float = field(default=0.0, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, fit for JSON and for other processes."""
        plain = dataclasses.asdict(self)
        plain["state"], plain["levels"] = self.state.value, list(self.levels)
        if self.failure is not None:
            plain["failure"]["kind"] = self.failure.kind.value
        return plain

    @property
    def word(self) -> str:
        """The state as reports put it, and whether it is that of a part only."""
        in_part = self.state is State.PASSED and self.reason
        return f"{self.state} in part" if in_part else str(self.state)

    @staticmethod
    def from_json(plain: dict[str, Any]) -> Result:
        """Take back what `as_json` gave."""
        failure = plain["failure"]
        if failure is not None:
            failure = Failure(**{**failure, "kind": Kind(failure["kind"])})
        return Result(**{**plain, "state": State(plain["state"]), "levels": tuple(plain["levels"]), "failure": failure})


@dataclass(frozen=True, slots=True)
class Verdict:
    """All results of one capability.

    Attributes:
        capability: Whose.
        level: What was asked for.
        results: The harness check's and the promises', each at most once.
        reach: What the backend says of itself, or None if it could not be asked.
        budget: The factor on how many programs were drawn.
    """

    capability: Capability
    level: Level
    results: tuple[Result, ...]
    reach: Reach | None = None
    budget: float = 1.0

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that ran."""
        return levels_of(self.level, self.reach or "process")

    def numbers(self, *states: State) -> list[str]:
        """Return the numbers of the counted promises in any of these *states*."""
        return [one.number for one in self.results if one.state in states and one.number in PROMISES]

    @property
    def missing(self) -> list[str]:
        """The numbers of the promises of this level of which there is no result."""
        present = {one.number for one in self.results}
        return [one.number for one in promises_of(self.capability, self.level) if one.number not in present]

    @property
    def exit(self) -> Exit:
        """What this capability's results amount to."""
        states = {one.state for one in self.results}
        if any(one.number == "L0" and one.state is State.FAILED for one in self.results):
            return Exit.BROKEN
        if states & {State.FAILED, State.KNOWN_FAILURE}:
            return Exit.NOT_CONFORMANT
        if not self.results or self.missing or State.COULD_NOT_RUN in states:
            return Exit.INCOMPLETE
        return Exit.CONFORMANT

    def line(self) -> str:
        """Say it in one line: what ran, of how many, and what did not."""
        wanted = promises_of(self.capability, self.level)
        exempt = self.numbers(State.NOT_APPLICABLE)
        passed = self.numbers(State.PASSED)
        notes = [f"{state}: {_listed(found)}" for state in _NOTED if (found := self.numbers(state))]
        if self.missing:
            notes.append(f"not run: {_listed(self.missing)}")
        level = {one.number for one in wanted}
        if above := [one.number for one in promises_of(self.capability) if one.number not in level]:
            notes.append(f"not at this level: {_listed(above)}")
        if self.level == "L0":
            return f"{self.capability}/{CONTRACT_VERSION} L0 · {self.harness}"
        detail = f" ({'; '.join(notes)})" if notes else ""
        few = f" · {self.small_budget}" if self.small_budget else ""
        score = f"{len(passed)}/{len(wanted) - len(exempt)} passed"
        return f"{self.capability}/{CONTRACT_VERSION} {self.level_text} · {score}{detail}{few}"

    @property
    def level_text(self) -> str:
        """The highest level that ran, and load if that did: ``L2``, ``L3 + load``."""
        *below, highest = self.levels
        return highest if highest != "load" else f"{below[-1]} + load"

    @property
    def small_budget(self) -> str:
        """The budget where it drew fewer programs than the kit means to: ``budget 0.2``; else nothing."""
        return f"budget {self.budget:g}" if self.budget < 1 and self.level != "L0" else ""

    @property
    def scope(self) -> str:
        """What ran, and whether with fewer programs: ``L3 + load``, ``L2, budget 0.2``."""
        return f"{self.level_text}, {self.small_budget}" if self.small_budget else self.level_text

    @property
    def harness(self) -> str:
        """What came of the harness check, or ``not run``."""
        return next((str(one.state) for one in self.results if one.number == "L0"), "not run")


def _listed(numbers: Sequence[str]) -> str:
    """Join *numbers*, three and more of one letter in a row as ``C3-C7``."""
    runs: list[list[str]] = []
    for number in numbers:
        if runs and runs[-1][-1] == f"{number[0]}{int(number[1:]) - 1}":
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


_NOTED: Final = (State.FAILED, State.KNOWN_FAILURE, State.COULD_NOT_RUN, State.NOT_APPLICABLE)
#: The exit codes from the one that hides all others to the one that hides none.
_GRAVEST: Final[Sequence[Exit]] = (Exit.KIT_DEFECT, Exit.BROKEN, Exit.NOT_CONFORMANT, Exit.INCOMPLETE)


def exit_of(verdicts: Iterable[Verdict]) -> Exit:
    """Return the gravest exit code of *verdicts*; of none, INCOMPLETE."""
    codes = {verdict.exit for verdict in verdicts}
    if not codes:
        return Exit.INCOMPLETE
    return next((code for code in _GRAVEST if code in codes), Exit.CONFORMANT)
