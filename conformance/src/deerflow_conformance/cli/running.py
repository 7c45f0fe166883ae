"""``run``: judge what a command line names, show it, and write reports."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deerflow_conformance.cli.output import print_json, remark
from deerflow_conformance.cli.screen import Screen, open_screen
from deerflow_conformance.cli.subjects import Subject, settings_of, subjects
from deerflow_conformance.judging import judge, numbers_of
from deerflow_conformance.promises import CAPABILITIES, LEVELS, Level
from deerflow_conformance.reports import Report, part_of, prepare, report_of, write_reports
from deerflow_conformance.reports.model import command
from deerflow_conformance.results import BrokenUse, Exit


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run.

    Attributes:
        level: What is asked for, None for all.
        seed: What generated programs are drawn from.
        budget: A factor on how many there are.
    """

    level: Level | None = None
    seed: int = 0
    budget: float = 1.0


def level_of(name: str | None) -> Level | None:
    """Return the level called *name*.

    Raises:
        BrokenUse: There is none.
    """
    level = next((one for one in LEVELS if one == name), None)
    if level is None and name is not None:
        raise BrokenUse(f"there is no level {name!r}; there are {', '.join(LEVELS)}")
    return level


def run(
    target: str,
    *,
    pairs: Sequence[str] | None,
    only: str | None,
    level: str | None,
    wanted: str | None,
    seed: int,
    budget: float,
    as_json: bool,
    folder: Path | None,
) -> Exit:
    """Judge *target*, with the options of the command as its help explains them, and return what that comes to.

    Raises:
        BrokenUse: An option is wrong, or nothing can be judged.
    """
    if not 0 < budget < math.inf:
        raise BrokenUse(f"--budget must be more than 0 and finite, not {budget}")
    settings = Settings(level_of(level), seed, budget)
    if only is not None and only not in CAPABILITIES:
        raise BrokenUse(f"there is no capability {only!r}; there are {', '.join(CAPABILITIES)}")
    found = subjects(target, settings_of(pairs))
    chosen = [one for one in found if only in (None, one.conformance.capability)]
    if not chosen:
        raise BrokenUse(f"{target} does not offer {only}")
    selected = [
        (one, numbers) for one in chosen if (numbers := numbers_of(one.conformance.capability, settings.level, wanted))
    ]
    if not selected:
        of = [one for one in CAPABILITIES if any(one == subject.conformance.capability for subject in chosen)]
        of_these = f" of {', '.join(of)}" if len(of) < len(CAPABILITIES) else ""
        at = f" at {level}" if level else ""
        raise BrokenUse(f"-k {wanted!r} matches no promise{of_these}{at}; 'deerflow-conformance promises' lists them")
    if folder is not None:
        prepare(folder)
    with open_screen(silent=as_json) as screen:
        report = judged(selected, settings, screen)
        screen.end(report.parts)
    if folder is not None:
        write_reports(folder, report)
        remark(f"reports: {folder / 'report.html'}, report.json, junit.xml, badge.svg")
    if as_json:
        print_json(report.as_json())
    return report.exit


def judged(selected: Sequence[tuple[Subject, Sequence[str]]], settings: Settings, screen: Screen) -> Report:
    """Judge each subject's numbers, one subject after the other, and return the report.

    Raises:
        BrokenUse: An author's start, stop or server failed.
    """
    parts = []
    for subject, numbers in selected:
        conformance = subject.conformance
        replay = functools.partial(
            command,
            subject.source,
            conformance.capability,
            seed=settings.seed,
            budget=settings.budget,
            asked=settings.level,
        )
        screen.begin(conformance.plugin, conformance.capability, numbers, replay)
        judgement = judge(
            conformance,
            level=settings.level,
            numbers=numbers,
            seed=settings.seed,
            budget=settings.budget,
            tell=screen,
            secrets=subject.secrets,
        )
        parts.append(part_of(conformance.plugin, subject.source, judgement.verdict, server=judgement.server))
    return report_of(parts, seed=settings.seed, budget=settings.budget, asked=settings.level)
