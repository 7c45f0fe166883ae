"""The commands and their options. Each returns what is to be done; `run` does it and turns the end into a code."""
# ruff: noqa: PLC0415  # each command loads what it needs and no more: help must not load Hypothesis

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeAlias

import typer

from deerflow_conformance.cli import INTERRUPTED
from deerflow_conformance.cli.output import print_errors, remark
from deerflow_conformance.promises import CAPABILITIES
from deerflow_conformance.results import BrokenUse, Exit

#: What writing raises where there is no room or no terminal any more, which is no defect of the kit.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
#: What a command returns: click would take a broken pipe or an exit inside of it for its own.
Action: TypeAlias = Callable[[], Exit]

app = typer.Typer(
    name="deerflow-conformance",
    add_completion=False,
    pretty_exceptions_enable=False,  # it would show the values of variables, secrets among them
    context_settings={"help_option_names": ["-h", "--help"]},
)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of its connection, such as url=...; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def _seed(text: str | float) -> int:
    try:
        return int(text)
    except ValueError:
        raise BrokenUse(f"--seed must be a whole number, such as 7, not {text!r}") from None


def _budget(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise BrokenUse(f"--budget must be a number, such as 0.5, not {text!r}") from None


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"deerflow-conformance {metadata.version('deerflow-conformance')}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    r"""Hold a backend to the promises of the contract.

    \b
    Exit codes:
    0  conformant at the asked level
    1  not conformant
    2  wrong usage, or nothing opens
    3  incomplete
    4  a defect of the kit
    """


@app.command("run")
def run_command(
    target: Annotated[
        str, typer.Argument(metavar="NAME|FILE.py[::FUNCTION]", help="A backend's name, or an author's test file.")
    ],
    *,
    pairs: SetOption = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="CAPABILITY", help=f"Only this one of {', '.join(CAPABILITIES)}."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            metavar="LEVEL",
            help="L0 to L3: up to this one; load, or none: the highest that applies, and load.",
        ),
    ] = None,
    numbers: Annotated[
        str | None,
        typer.Option(
            "-k", metavar="NUMBERS", help='Promises or patterns, such as "S3 S1? G*"; the verdict is incomplete.'
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", parser=_seed, help="What programs are drawn from.")] = 0,
    budget: Annotated[
        float, typer.Option("--budget", metavar="FACTOR", parser=_budget, help="Draw FACTOR times as many.")
    ] = 1.0,
    as_json: JsonOption = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write report.html, .json, JUnit and a badge there.")
    ] = None,
) -> Action:
    """Test an installed backend, or what a test file conforms."""

    def action() -> Exit:
        from deerflow_conformance.cli.running import run as run_it

        return run_it(
            target,
            pairs=pairs,
            only=only,
            level=level,
            wanted=numbers,
            seed=seed,
            budget=budget,
            as_json=as_json,
            folder=report,
        )

    return action


@app.command("matrix")
def matrix_command(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="What --report wrote.")],
    *,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as one HTML page, too.")] = None,
    as_json: JsonOption = False,
) -> Action:
    """Show several reports side by side: backends by capabilities, and promises by backends.

    Exits 0 only if every report is conformant, else with the gravest code among them.
    """

    def action() -> Exit:
        from deerflow_conformance.cli.matrix import show_matrix

        return show_matrix(reports, html=html, as_json=as_json)

    return action


@app.command("verify")
def verify_command(
    report: Annotated[Path, typer.Argument(metavar="REPORT.json", help="What somebody claims.")],
    *,
    pairs: SetOption = None,
) -> Action:
    r"""Run a report again and compare, promise by promise.

    \b
    Exit codes:
    0  each claim holds and the run is conformant
    1  a claim does not hold, or the run is not conformant
    2  the report cannot be read, contradicts itself or is of a newer kit
    3  not all could be compared
    """

    def action() -> Exit:
        from deerflow_conformance.cli.verify import verify

        return verify(report, pairs=pairs)

    return action


@app.command("promises")
def promises_command(
    *,
    checks: Annotated[bool, typer.Option("--checks", help="With the checks that test each.")] = False,
    as_json: JsonOption = False,
) -> Action:
    """List the promises: number, lowest level, whose, and what each says."""

    def action() -> Exit:
        from deerflow_conformance.cli.listing import list_promises

        return list_promises(checks=checks, as_json=as_json)

    return action


def _abandon_stdout() -> None:
    """Have nothing more written there: Python would complain once more when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; whoever uses it wrongly gets lines on stderr and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no error
    try:
        action = app(list(arguments), prog_name="deerflow-conformance", standalone_mode=False)
        with _exits_failing():
            return int(action()) if callable(action) else int(action or 0)
    except BrokenUse as error:
        print_errors(str(error).splitlines())
        return Exit.BROKEN
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()  # whoever read has seen enough
        return Exit.INCOMPLETE
    except BaseException as error:  # nothing that a backend raises ends the command with another code, such as 0
        if isinstance(error, OSError) and error.errno in _FULL:
            _abandon_stdout()
            print_errors([f"{error.filename or 'the output'} cannot be written: {error.strerror}"])
            return Exit.BROKEN
        # Typer's own errors: which class they have depends on its version, but all of them know how to put it.
        describe = getattr(error, "format_message", None)
        if describe is not None:
            known = getattr(getattr(error, "ctx", None), "command_path", "deerflow-conformance")
            print_errors([f"{describe().rstrip('.')}; try '{known} --help'"])
            return Exit.BROKEN
        traceback.print_exc()
        remark("deerflow-conformance: this is a defect of the kit, please report it")
        return Exit.KIT_DEFECT


@contextmanager
def _exits_failing() -> Iterator[None]:
    """Let ``os._exit`` in this process end it as a failure: a backend that exits must not choose the exit code."""
    real, ours = os._exit, os.getpid()

    def exit_failing(status: int) -> NoReturn:
        if os.getpid() == ours:  # a process that the backend has forked may exit as it likes
            print_errors([f"the backend ended the process with os._exit({status}), so there is no verdict"])
            status = Exit.NOT_CONFORMANT
        real(status)

    os._exit = exit_failing
    try:
        yield
    finally:
        os._exit = real
