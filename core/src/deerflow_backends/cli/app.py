"""The commands and their options. Each raises what goes wrong; `run` turns that into one line and an exit code."""
# ruff: noqa: PLC0415  # each command loads what it needs and no more: pydantic alone takes longer than most of them

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Final

import typer

from deerflow_backends.cli import missing_extra
from deerflow_backends.cli.demo import require_libraries
from deerflow_backends.cli.options import (
    BackendOption,
    JsonOption,
    SetOption,
    UsageError,
    configured,
    parse_settings,
)
from deerflow_backends.cli.output import print_errors
from deerflow_backends.errors import BackendsError, ConfigError, InvalidArgument, PluginError

#: Shells and timeouts(1) expect this of a program that was interrupted.
_INTERRUPTED: Final = 130

app = typer.Typer(
    name="deerflow-backends",
    add_completion=False,
    pretty_exceptions_enable=False,  # it would show the values of variables, secrets among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"deerflow-backends {metadata.version('deerflow-backends')}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Backends that let DeerFlow run as many replicas."""


@app.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """Show the installed backends, and what is wrong with the broken ones."""
    from deerflow_backends.cli.installed import list_installed

    list_installed(as_json=as_json)


@app.command("check")
def check_command(*, backend: BackendOption = None, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Try what is configured: each capability once there and back, leaving nothing behind."""
    from deerflow_backends.cli.check import check

    fine = asyncio.run(check(configured(backend, settings), as_json=as_json))
    raise typer.Exit(0 if fine else 1)


@app.command("migrate")
def migrate_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which steps are due.")] = False,
    backend: BackendOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the schemas of what is configured up to date."""
    from deerflow_backends.cli.migrate import migrate

    asyncio.run(migrate(configured(backend, settings), dry_run=dry_run, as_json=as_json))


@app.command("tail")
def tail_command(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    *,
    last_event_id: Annotated[
        str | None, typer.Option("--last-event-id", metavar="ID", help="Begin after this event.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for what comes, or print only what is there.")
    ] = True,
    backend: BackendOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a run's events as they come, until the run ends."""
    from deerflow_backends.cli.tail import tail

    configuration = configured(backend, settings)
    whole = asyncio.run(tail(configuration, run_id, last_event_id=last_event_id, follow=follow, as_json=as_json))
    raise typer.Exit(0 if whole else 1)


@app.command()
def demo(
    *,
    backend: Annotated[str, typer.Option("--backend", metavar="NAME", help="What all processes share.")] = "sqlite",
    settings: SetOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was written, and the logs, in place.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Kill a replica under ten readers, and see that nothing is lost."""
    parsed = parse_settings(backend, settings)
    try:
        require_libraries()
    except ModuleNotFoundError as error:
        raise typer.Exit(missing_extra("demo", error)) from None
    from deerflow_backends.cli.demo.command import demonstrate

    raise typer.Exit(demonstrate(backend, parsed, keep=keep, as_json=as_json))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors become one line each on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no error
    try:
        code = app(list(arguments) or ["--help"], prog_name="deerflow-backends", standalone_mode=False)
    except (ConfigError, PluginError, InvalidArgument, UsageError) as error:
        print_errors(str(error).splitlines())
        return 2
    except BackendsError as error:
        print_errors(str(error).splitlines())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:
        # Typer's own errors: which class they have depends on its version, but all of them know how to put it.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        print_errors([describe()])
        return 2
    return code if isinstance(code, int) else 0
