"""The command ``deerflow-conformance``: run the promises against a backend, or list them."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from deerflow_conformance.conformances import Conformance, conform_plugin
from deerflow_conformance.promises import (
    CAPABILITIES,
    CONTRACT_VERSION,
    EVERYTHING,
    HARNESS,
    LEVELS,
    PROMISES,
    Capability,
    Level,
    promises_of,
)
from deerflow_conformance.results import BrokenUse, Exit, Result, State, Verdict, exit_of
from deerflow_conformance.runs import Run
from deerflow_conformance.texts import result_text

#: Settings that look like this are not repeated in what the command prints.
_SECRET = re.compile("@|password|passwd|secret|token|credential|key", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 conformant, 1 not, 2 usage, 3 incomplete, 4 a defect of the kit."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except BrokenUse as error:
        print(f"deerflow-conformance: {error}", file=sys.stderr)  # noqa: T201  # a command talks
        return Exit.BROKEN
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.INCOMPLETE
    except Exception:
        traceback.print_exc()
        print("deerflow-conformance: this is a defect of the kit, please report it", file=sys.stderr)  # noqa: T201
        return Exit.KIT_DEFECT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deerflow-conformance",
        description="Does a backend keep the promises of the contract?",
        epilog="Exit codes: 0 conformant at the asked level, 1 not, 2 usage or nothing opens, 3 incomplete, "
        "4 a defect of the kit.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="test an installed backend")
    run.add_argument("name", help="the backend's name in configuration, such as sqlite")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a connection setting")
    run.add_argument("--only", choices=CAPABILITIES, help="one capability")
    run.add_argument("--level", choices=LEVELS, help="up to this level; without it the highest that this kit tests")
    run.add_argument(
        "-k", metavar="NUMBERS", help='promises or patterns, such as "S3 S1? G*"; the verdict is incomplete'
    )
    run.add_argument("--seed", type=int, default=0, help="what generated programs are drawn from (default: 0)")
    run.add_argument("--budget", type=float, default=1.0, help="factor on the number of programs (default: 1)")
    run.add_argument("--json", action="store_true", help="print results as JSON")
    run.set_defaults(command=_run)
    listing = commands.add_parser("promises", help="list the promises")
    listing.add_argument("--json", action="store_true", help="print them as JSON")
    listing.set_defaults(command=_promises)
    return parser


def _run(options: argparse.Namespace) -> Exit:
    if not 0 < options.budget < math.inf:
        raise BrokenUse(f"--budget must be more than 0, not {options.budget}")
    level: Level = options.level or EVERYTHING
    conformances = _conformances(options.name, _settings(options.set))
    if options.only:
        conformances = [one for one in conformances if one.capability == options.only]
        if not conformances:
            raise BrokenUse(f"{options.name} does not offer {options.only}")
    selected = [(one, numbers) for one in conformances if (numbers := _numbers(one.capability, level, options.k))]
    if not selected:
        raise BrokenUse(f"-k {options.k!r} matches no promise at {level}; 'deerflow-conformance promises' lists them")
    verdicts = [_judged(one, level, numbers, options) for one, numbers in selected]
    if options.json:
        _say(json.dumps(_as_json(options, verdicts), indent=2))
    else:
        _say("", *(verdict.line() for verdict in verdicts))
    code = exit_of(verdicts)
    return code


def _conformances(name: str, settings: dict[str, Any]) -> Sequence[Conformance]:
    if name == "inprocess":
        from deerflow_conformance.reference import REFERENCE  # noqa: PLC0415  # loads the backend

        if settings:
            raise BrokenUse("inprocess is tested in virtual time and takes no --set")
        return REFERENCE
    return conform_plugin(name, connection=settings).conformances()


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise BrokenUse(f"--set takes KEY=VALUE, not {pair!r}")
        if key in settings:
            raise BrokenUse(f"--set gives {key!r} twice")
        settings[key] = value
    return settings


def _numbers(capability: Capability, level: Level, wanted: str | None) -> list[str]:
    numbers = [HARNESS.number]
    if level != "L0":
        numbers += [one.number for one in promises_of(capability, level)]
    patterns = ["*"] if wanted is None else re.split(r"[\s,]+", wanted.strip())
    return [one for one in numbers if any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns)]


def _judged(conformance: Conformance, level: Level, numbers: Sequence[str], options: argparse.Namespace) -> Verdict:
    run = Run(conformance, level=level, seed=options.seed, budget=options.budget)
    results: list[Result] = []
    try:
        run.start()
        for number in numbers:
            results.append(run.judge(number))
            if not options.json:
                _tell(results[-1], _replay(conformance, number, options))
    finally:
        run.close()
    harness = run.results.get(HARNESS.number)
    if harness is not None and harness not in results and harness.state is not State.PASSED:
        results.insert(0, harness)
        if not options.json:
            _tell(harness, _replay(conformance, HARNESS.number, options))
    return Verdict(conformance.capability, level, tuple(results), run.verdict.reach)


def _tell(result: Result, replay: str) -> None:
    if result.state is State.PASSED:
        _say(f"{result.capability} {result.number} passed" + (f" (in part: {result.reason})" if result.reason else ""))
    else:
        _say(result_text(result, replay))


def _replay(conformance: Conformance, number: str, options: argparse.Namespace) -> str:
    settings = "".join(f" --set {shlex.quote(_hidden(pair))}" for pair in options.set)
    budget = "" if options.budget == 1 else f" --budget {options.budget:g}"
    return (
        f"deerflow-conformance run {options.name}{settings} --only {conformance.capability} -k {number}"
        f" --seed {options.seed}{budget}"
    )


def _hidden(pair: str) -> str:
    """Return a setting to show: without its value where that may hold a password."""
    return f"{pair.partition('=')[0]}=..." if _SECRET.search(pair) else pair


def _as_json(options: argparse.Namespace, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "backend": options.name,
        "contract": CONTRACT_VERSION,
        "seed": options.seed,
        "exit": exit_of(verdicts),
        "capabilities": [
            {
                "capability": verdict.capability,
                "level": verdict.level,
                "exit": verdict.exit,
                "missing": verdict.missing,
                "results": [result.as_json() for result in verdict.results],
            }
            for verdict in verdicts
        ],
    }


def _promises(options: argparse.Namespace) -> Exit:
    if options.json:
        _say(json.dumps([dataclasses.asdict(promise) for promise in PROMISES.values()], indent=2))
        return Exit.CONFORMANT
    for promise in PROMISES.values():
        whose = "all" if len(promise.capabilities) == len(CAPABILITIES) else promise.capabilities[0]
        note = "" if promise.counted else " (not counted)"
        _say(f"{promise.number:4}{promise.level:4}{whose:14}{promise.sentence}{note}")
    return Exit.CONFORMANT


def _say(*lines: str) -> None:
    for line in lines:
        print(line)  # noqa: T201  # a command talks
