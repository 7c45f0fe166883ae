"""The command: run the scenarios, print what was found, write the results and the page."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine
from benchmarks.goals import goal_of, not_run, verdict
from benchmarks.page import page
from benchmarks.results import Outcome, Report, write
from benchmarks.rivals import Rival, rival_of
from benchmarks.scenarios import FULL, QUICK, SCENARIOS, Bench, Scenario, Sizes
from benchmarks.servers import SERVERS
from benchmarks.subjects import EMBEDDED, Subject, forget_environment, subject
from deerflow_backends import BackendsError, distributions
from deerflow_backends.cli.output import cell, console, remark, table
from deerflow_backends.mistakes import scrub, secrets_in

_ROOT = Path(__file__).parents[1]
_TITLES = {scenario.name: scenario.title for scenario in SCENARIOS}

#: Settings whose values are told apart by the names of results, so that they stand side by side.
_VARIANTS = ("tail", "synchronous")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return 0 unless something broke: a missed goal is a finding, no failure."""
    options = _parser().parse_args(arguments)
    forget_environment()
    # By default this signal ends the program on the spot, and would leave a server behind.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, ExitStack() as servers:
        try:
            subjects = _subjects(options, Path(folder), servers)
            rivals = {one.name: rival for one in subjects if (rival := rival_of(one.name)) is not None}
            about = _about(subjects, rivals, Path(folder))
        except (BackendsError, ValueError) as error:
            remark(f"error: {error}")
            return 2
        report = _measured(options, subjects, rivals, about, Path(folder))
    _print(report)
    absent = [f"{_TITLES[goal.scenario]}: {goal.figure} {goal.text()}" for goal in not_run(report.backends)]
    write(report, options.out, {"goals": _goals(report), "not_run": absent})
    (options.out / f"{report.name}.html").write_text(page(report, _TITLES), encoding="utf-8")
    remark(f"written: {options.out / report.name}.html, with .json and -samples.json.gz beside it")
    return 1 if any(outcome.failure for outcome in report.outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description="How fast are the backends?")
    parser.add_argument(
        "--backend", action="append", metavar="NAME", help="an installed backend; may be repeated (default: embedded)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a connection setting of the one --backend"
    )
    parser.add_argument(
        "--only", action="append", choices=_TITLES, metavar="SCENARIO", help=f"one of {', '.join(_TITLES)}"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries everything, measures nothing")
    parser.add_argument("--folder", type=Path, help="where embedded backends keep their files (default: temporary)")
    parser.add_argument("--out", type=Path, help="where results go (default: benchmarks/results)")
    return parser


def _subjects(options: argparse.Namespace, folder: Path, servers: ExitStack) -> list[Subject]:
    """Load the backends that are asked for, and settle what was not said; *servers* ends what is started for them.

    Raises:
        ValueError: The options contradict each other.
        PluginError: A backend is not installed, or broken.
    """
    pairs = [pair.partition("=") for pair in options.set]
    if any(not key or not separator for key, separator, _ in pairs):
        raise ValueError(f"--set takes KEY=VALUE, not {options.set!r}")
    if pairs and len(options.backend or ()) != 1:
        raise ValueError("--set needs exactly one --backend, whose connection it is for")
    if options.out is None:
        # What was not measured must not replace what was.
        whole = not options.quick and not options.only
        options.out = _ROOT / ("benchmarks/results" if whole else "build/benchmarks")
    installed = distributions.names()
    names = options.backend or [name for name in EMBEDDED if name in installed]
    settings = {key: value for key, _, value in pairs}
    found = []
    for name in dict.fromkeys(names):
        one = subject(name, settings, folder)
        if name in SERVERS and "url" not in settings:
            one = subject(name, {**servers.enter_context(SERVERS[name](folder)), **settings}, folder)
        found.append(one)
    return found


def _about(subjects: Sequence[Subject], rivals: Mapping[str, Rival], folder: Path) -> dict[str, str]:
    """Describe the machine and what is measured on it.

    Raises:
        BackendUnavailable: A server does not answer.
        ValueError: A rival cannot be had with these settings.
    """
    owners = {"deerflow-backends", "msgspec", *(driver for rival in rivals.values() for driver in rival.drivers)}
    owners |= {f"deerflow-{one.name}" for one in subjects if one.name not in EMBEDDED}
    engines = {rivals[one.name].engine(one.settings) for one in subjects if one.name in rivals}
    return machine.describe(folder, owners, engines - {""})


def _measured(
    options: argparse.Namespace,
    subjects: Sequence[Subject],
    rivals: Mapping[str, Rival],
    about: Mapping[str, str],
    folder: Path,
) -> Report:
    sizes = QUICK if options.quick else FULL
    chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    outcomes = [
        _run(scenario, one, sizes, folder)
        for one in subjects
        for scenario in chosen
        if scenario.capability in one.capabilities
    ]
    outcomes += [_run(scenario, subjects[0], sizes, folder) for scenario in chosen if scenario.capability is None]
    does = {name: rival.does for name, rival in rivals.items()}
    does |= {f"{name}, naive": rival.naive.does for name, rival in rivals.items() if rival.naive is not None}
    return Report(
        name=_name(options, subjects),
        quick=options.quick,
        machine=about,
        rivals=does,
        outcomes=tuple(outcomes),
    )


def _name(options: argparse.Namespace, subjects: Sequence[Subject]) -> str:
    """Name the results after what was measured."""
    if not options.backend:
        return "embedded"
    variants = [one.settings[key].lower() for one in subjects for key in _VARIANTS if key in one.settings]
    return "-".join([*(one.name for one in subjects), *(value for value in variants if value.isalnum())])


def _run(scenario: Scenario, one: Subject, sizes: Sizes, folder: Path) -> Outcome:
    backend = one.name if scenario.capability else "core"
    remark(f"{backend}: {scenario.title} ...")
    try:
        outcome = asyncio.run(scenario.run(Bench(one, sizes, folder, scenario.name)))
    except Exception as error:
        secrets = secrets_in(one.settings)  # a driver may repeat the URL that it could not reach
        sys.stderr.write(scrub(traceback.format_exc(), secrets))
        return Outcome(scenario.name, backend, failure=scrub(f"{type(error).__name__}: {error}", secrets))
    # What this one leaves in process must not slow down the next one's garbage collection.
    gc.collect()
    gc.freeze()
    return outcome


def _goals(report: Report) -> list[dict[str, str]]:
    """What became of each goal, for the summary."""
    return [
        {
            "scenario": outcome.scenario,
            "backend": outcome.backend,
            "figure": figure.name,
            "found": figure.text(),
            "goal": goal.text(),
            "verdict": verdict(outcome, figure),
        }
        for outcome in report.outcomes
        for figure in outcome.figures
        if (goal := goal_of(outcome, figure)) is not None
    ]


def _print(report: Report) -> None:
    made = table("scenario", "backend", "figure", "found (rounds)", "goal", "")
    for outcome in report.outcomes:
        title = _TITLES[outcome.scenario]
        if outcome.failure:
            made.add_row(cell(title), cell(outcome.backend), cell("failed", "red"), cell(outcome.failure))
        for figure in outcome.figures:
            goal, said = goal_of(outcome, figure), verdict(outcome, figure)
            made.add_row(
                *map(cell, (title, outcome.backend, figure.name, figure.text(), goal.text() if goal else "")),
                cell(said, "" if not said else "green" if said == "reached" else "yellow"),
            )
            title = ""
    console().print(made)
    for goal in not_run(report.backends):
        line = f"not run: {_TITLES[goal.scenario]}: {goal.figure} {goal.text()}; only for {', '.join(goal.backends)}"
        console().print(cell(line))
    if report.quick:
        console().print(cell("A quick run: its figures say nothing about speed."))
