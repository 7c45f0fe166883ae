"""The engine: one capability's promises, judged one by one. The command and the pytest plugin both use it."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Final

from deerflow_conformance.bench import Bench
from deerflow_conformance.causes import cause_of
from deerflow_conformance.checks import Check, NotApplicable, Unkept, checks_of
from deerflow_conformance.conformances import Conformance
from deerflow_conformance.disturbed import unlogged
from deerflow_conformance.harness import HARNESS_CHECKS
from deerflow_conformance.isolation import Hang, Leftover
from deerflow_conformance.promises import EVERYTHING, HARNESS, NEVER_APPLIES, PROMISES, Level, levels_of, promises_of
from deerflow_conformance.reruns import rerun_text
from deerflow_conformance.results import Failure, Kind, Result, State, Verdict
from deerflow_conformance.servers import switch, told

_NO_REACH: Final = "its reach is one process, and L3 puts its faults between processes"
_BLOCKING: Final = (State.FAILED, State.COULD_NOT_RUN)
_KINDS: Final[dict[type[BaseException], Kind]] = {
    Unkept: Kind.UNKEPT,
    Hang: Kind.HANG,
    Leftover: Kind.LEFTOVER,
}


class KitDefect(Exception):
    """The kit itself is wrong: a promise of a tested level without a check, checks that cannot be loaded."""


class Run:
    """One run of one capability's checks.

    Args:
        level: What is asked for: this level and those below, or ``load``: all that the backend's reach allows.
        seed: What generated programs are drawn from.
        budget: A factor on how many there are.
        shorten: Whether a failing one is shortened, for a reader.

    Attributes:
        conformance: What is tested.
        results: What came of each promise so far, by number.
        server: What the server calls itself, once the run has started; None if nobody can tell.
    """

    def __init__(
        self,
        conformance: Conformance,
        *,
        level: Level = EVERYTHING,
        seed: int = 0,
        budget: float = 1.0,
        shorten: bool = True,
    ) -> None:
        self.conformance = conformance
        self.level = level
        self._seed, self._budget = seed, budget
        self.results: dict[str, Result] = {}
        self.server: str | None = None
        self._bench = Bench(conformance, seed=seed, budget=budget, shorten=shorten)
        self._started = False
        self._together: frozenset[str] | None = None

    def start(self) -> None:
        """Start the server, if the author said how, and ask what it is.

        Raises:
            BrokenUse: The author's start or server failed.
        """
        self._started = True
        switch(self.conformance.start, "start")
        self.server = told(self.conformance.server)

    def close(self) -> None:
        """End what this run started, and the server."""
        self._bench.close()
        if self._started:
            self._started = False
            switch(self.conformance.stop, "stop")

    @property
    def verdict(self) -> Verdict:
        """What the promises judged so far amount to."""
        results = tuple(self.results.values())
        return Verdict(self.conformance.capability, self.level, results, self._bench.known_reach, self._budget)

    def judge(self, number: str) -> Result:
        """Return what comes of one promise; the harness check comes first, whether asked for or not.

        What the promise needs counts only if it was judged before.

        Raises:
            KitDefect: The promise has no check at the level asked for.
        """
        if number not in self.results:
            began = time.monotonic()
            with unlogged():  # of the kit's own faults: an operator's log would, this is a verdict
                result = self._judge(number)
            self.results[number] = dataclasses.replace(result, seconds=round(time.monotonic() - began, 3))
        return self.results[number]

    def _judge(self, number: str) -> Result:
        if number == HARNESS.number:
            return self._finished(number, HARNESS_CHECKS)
        checks = _loaded(number)
        if self.judge(HARNESS.number).state is not State.PASSED:
            return self._result(number, State.COULD_NOT_RUN, "the harness check L0 failed")
        if reason := NEVER_APPLIES.get((number, self.conformance.capability)):
            return self._result(number, State.NOT_APPLICABLE, reason)
        if number in self._bench.exempt:
            return self._result(number, State.NOT_APPLICABLE, f"the backend says: {self._bench.exempt[number]}")
        beyond_reach = self._bench.reach == "process" and any(one.level == "L3" for one in checks)
        if beyond_reach and self.level != "L3" and PROMISES[number].level == "L3":
            return self._result(number, State.NOT_APPLICABLE, _NO_REACH)
        for needed in PROMISES[number].needed_for(self.conformance.capability):
            before = self.results.get(needed)
            if before is not None and before.state in _BLOCKING:
                return self._result(number, State.COULD_NOT_RUN, f"it builds on {needed}, which {_became(before)}")
        if beyond_reach and self.level == "L3":
            return self._result(number, State.COULD_NOT_RUN, f"{_NO_REACH}: ask for no level, or for L2")
        levels = levels_of(self.level, self._bench.reach)
        return self._finished(number, [one for one in checks if one.level in levels])

    def _finished(self, number: str, checks: Sequence[Check]) -> Result:
        if not checks:
            raise KitDefect(f"{number} has no check at {self.level}")
        exempt: list[str] = []
        missing: list[str] = []
        passed = 0
        failure: Failure | None = None
        for check in checks:
            self._bench.begin(check)
            try:
                if not self._passed_together(check):
                    check.function(self._bench)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a backend that skips the test, or exits, has failed it
                if error is not self._bench.skipped:
                    failure = self._failure(check, error)
                    break
                (exempt if isinstance(error, NotApplicable) else missing).append(str(error))
            else:
                passed += 1
                exempt += self._bench.unseen
        levels = tuple(dict.fromkeys(one.level for one in checks))
        known = self.conformance.known_failures.get(number)
        if failure is not None:
            state = State.KNOWN_FAILURE if known else State.FAILED
            return self._result(number, state, str(known or ""), failure, levels)
        if missing:
            return self._result(number, State.COULD_NOT_RUN, "; ".join(dict.fromkeys(missing)), levels=levels)
        if known is not None:
            message = f"it passes now; take it out of known_failures: {known}"
            return self._result(number, State.FAILED, "", Failure(Kind.FIXED, "", "", message), levels)
        state = State.PASSED if passed else State.NOT_APPLICABLE
        return self._result(number, state, "; ".join(dict.fromkeys(exempt)), levels=levels)

    def _passed_together(self, check: Check) -> bool:
        """Whether *check* mostly waits, and passed when it waited together with all others of the capability."""
        if not check.waits or check.level != "L1" or self._bench.virtual:
            return False
        if self._together is None:
            promises = promises_of(self.conformance.capability, "L1")
            waiting = [
                one for promise in promises for one in _loaded(promise.number) if one.waits and one.level == "L1"
            ]
            self._together = self._bench.passing_together(waiting)
        return check.name in self._together

    def _result(
        self,
        number: str,
        state: State,
        reason: str,
        failure: Failure | None = None,
        levels: tuple[Level, ...] = (),
    ) -> Result:
        return Result(number, self.conformance.capability, state, reason, failure, levels)

    def _failure(self, check: Check, raised: BaseException) -> Failure:
        error = _finding(raised) or raised
        kind = next((kind for form, kind in _KINDS.items() if isinstance(error, form)), Kind.ERROR)
        if type(error) is AssertionError:
            kind = Kind.UNKEPT
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
        if kind is Kind.ERROR:
            message = "".join(traceback.format_exception_only(error)).rstrip()  # its notes, too
        return Failure(
            kind,
            check.name,
            check.sentence,
            message,
            self._bench.program,
            _trace(error),
            history=getattr(error, "timeline", None),
            cause=cause_of(check.number, kind, error),
            snippet=rerun_text(self.conformance, check, seed=self._seed, budget=self._budget),
        )


def _finding(raised: BaseException) -> Unkept | None:
    """Return what the check found where *raised* came of it: closing a backend that fails may fail, too."""
    to_see: list[BaseException | None] = [raised]
    seen: set[int] = set()
    while to_see:
        error = to_see.pop(0)
        if isinstance(error, Unkept):
            return error
        if error is None or id(error) in seen:
            continue  # an error may be in the group that is its own context: Hypothesis makes such ones
        seen.add(id(error))
        to_see += error.exceptions if isinstance(error, BaseExceptionGroup) else [error.__context__]
    return None


def _became(result: Result) -> str:
    return "failed" if result.state is State.FAILED else str(result.state)


def _loaded(number: str) -> list[Check]:
    try:
        checks = checks_of(number)
    except Exception as error:
        raise KitDefect(f"the checks of {number} cannot be loaded: {error!r}") from error
    if not checks:
        raise KitDefect(f"{number} has no check")
    return checks


def _trace(error: BaseException) -> str:
    """Return the lines between the check and what raised: not those of this kit's and Hypothesis' machinery.

    Where the check itself raised because of what came out of the backend, the backend's lines of that come first.
    """
    own = _lines(error, _MACHINERY)
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if not isinstance(error, Unkept) or behind is None:
        return own
    raised = "".join([_lines(behind, (*_MACHINERY, "/deerflow_conformance/")), *getattr(behind, "__notes__", ())])
    return f"{raised.rstrip()}\nnoticed at\n{own}" if raised else own


def _lines(error: BaseException, without: Iterable[str]) -> str:
    """Return the frames that *error* came through, but those of files whose names have a part that is in *without*."""
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(traceback.format_list([one for one in frames if not any(part in one.filename for part in without)]))


#: Files whose lines say nothing about the backend or the check.
_OWN: Final = ("bench", "isolation", "runs", "checks", "replicas", "rivals", "networks", "proxies", "wire")
#: The same of other people's.
_MACHINERY: Final = (
    *("/hypothesis/", "/asyncio/", "/contextlib.py"),
    *(f"/deerflow_conformance/{name}.py" for name in _OWN),
)
