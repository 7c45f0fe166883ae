"""Judges one capability's promises one after the other, and tells how it goes: what ``run`` and ``verify`` share."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deerflow_conformance.promises import EVERYTHING, HARNESS, Capability, Level, promises_of
from deerflow_conformance.reports.texts import scrubbed, without_secrets
from deerflow_conformance.results import BrokenUse, Result, State, Verdict
from deerflow_conformance.runs import Run

if TYPE_CHECKING:
    from deerflow_conformance.conformances import Conformance


class Listener(Protocol):
    """Hears how a run goes."""

    def judging(self, number: str) -> None:
        """Hear that the promise *number* is judged from now on."""

    def judged(self, result: Result) -> None:
        """Hear what came of it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of one capability.

    Attributes:
        verdict: The results of the promises asked for, and the harness check's if it did not pass.
        server: What the server calls itself, or None if nobody can tell.
    """

    verdict: Verdict
    server: str | None


def judge(
    conformance: Conformance,
    *,
    level: Level | None,
    numbers: Sequence[str],
    seed: int,
    budget: float,
    tell: Listener,
    secrets: Collection[str] = (),
) -> Judgement:
    """Judge the promises *numbers* in that order; level, seed and budget are those of `Run`.

    Args:
        conformance: Whose.
        numbers: Those to judge, the harness check only if it is to be shown.
        tell: Hears of each before and after.
        secrets: Texts that no result may show.

    Raises:
        BrokenUse: The author's start, stop or server failed.
        KitDefect: A promise has no check.
    """
    run = Run(conformance, level=level or EVERYTHING, seed=seed, budget=budget)
    results: list[Result] = []
    try:
        try:
            run.start()
        except BrokenUse as error:
            raise BrokenUse(without_secrets(str(error), secrets)) from None
        for number in numbers:
            tell.judging(number)
            results.append(scrubbed(run.judge(number), secrets))
            tell.judged(results[-1])
    finally:
        run.close()
    harness = run.results.get(HARNESS.number)
    if harness is not None and HARNESS.number not in numbers and harness.state is not State.PASSED:
        results.insert(0, scrubbed(harness, secrets))
        tell.judged(results[0])
    verdict = Verdict(conformance.capability, level or EVERYTHING, tuple(results), run.verdict.reach, budget)
    return Judgement(verdict, None if run.server is None else without_secrets(run.server, secrets))


def numbers_of(capability: Capability, level: Level | None, wanted: str | None = None) -> list[str]:
    """Return the harness check and the promises that *level* counts, or those of them that *wanted* names.

    Args:
        capability: Whose.
        level: What is asked for; None for all.
        wanted: Numbers and patterns such as ``S3 S1? G*``.
    """
    numbers = [HARNESS.number]
    if level != HARNESS.level:
        numbers += [one.number for one in promises_of(capability, level)]
    patterns = ["*"] if wanted is None else re.split(r"[\s,]+", wanted.strip())
    return [one for one in numbers if any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns)]
