"""The commands and their options. Each raises what goes wrong; `run` turns that into one line and an exit code."""
# ruff: noqa: PLC0415  # each command loads what it needs and no more: pydantic alone takes longer than most of them

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from deerflow_backends.cli import INTERRUPTED, missing_extra
from deerflow_backends.cli.demo import require_libraries
from deerflow_backends.cli.options import (
    BackendOption,
    JsonOption,
    OneBackendOption,
    SetOption,
    UsageError,
    configured,
    configured_alone,
    parse_settings,
)
from deerflow_backends.cli.output import Warnings, print_errors
from deerflow_backends.errors import BackendsError, ConfigError, InvalidArgument, PluginError

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


@app.command("threads")
def threads_command(
    user: Annotated[str | None, typer.Argument(metavar="USER", help="Whose threads.", show_default=False)] = None,
    *,
    any_user: Annotated[
        bool, typer.Option("--any-user", help="Every user's threads, and those without owner, in place of USER.")
    ] = False,
    status: Annotated[str | None, typer.Option("--status", metavar="STATUS", help="Only those of this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Print at most so many.")] = 50,
    backend: OneBackendOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a user's threads, pinned ones first, then the latest."""
    if (user is None) != any_user:
        raise UsageError("name one USER, or --any-user for everybody's threads")
    configuration = configured_alone("thread_index", backend, settings)
    from deerflow_backends.cli.threads import show_threads
    from deerflow_backends.threads import ANY_USER

    scope = ANY_USER if user is None else user
    asyncio.run(show_threads(configuration, scope, status=status, limit=limit, as_json=as_json))


@app.command("memory")
def memory_command(
    user: Annotated[str | None, typer.Argument(metavar="USER", help="Whose memory.", show_default=False)] = None,
    *,
    shared: Annotated[
        bool, typer.Option("--shared", help="The one memory of a deployment without users, in place of USER.")
    ] = False,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="This agent's part, not the user-wide one.")
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="QUERY", help="Show the facts that have all words of it.")
    ] = None,
    category: Annotated[
        str | None, typer.Option("--category", metavar="C", help="Search in facts of this category only.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Show at most so many matches; 10 if not said.")
    ] = None,
    backend: OneBackendOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is remembered of a user, or search in it."""
    if (user is None) != shared:
        raise UsageError("name one USER, or --shared for the memory without a user")
    if search is None and (category is not None or limit is not None):
        raise UsageError("--category and --limit go with --search QUERY")
    configuration = configured_alone("memory", backend, settings)
    from deerflow_backends.cli.memories import search_memory, show_memory

    if search is None:
        asyncio.run(show_memory(configuration, user, agent_name=agent, as_json=as_json))
        return
    found = search_memory(
        configuration, user, search, agent_name=agent, category=category, limit=limit or 10, as_json=as_json
    )
    asyncio.run(found)


@app.command("counters")
def counters_command(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    window: Annotated[
        int, typer.Option("--window", metavar="SECONDS", min=1, help="How far back health is judged.")
    ] = 300,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval", metavar="SECONDS", min=0.1, max=86_400, help="How often --watch looks; 2 if not said."
        ),
    ] = None,
    backend: OneBackendOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how every model does: in all, of late, and whether that is healthy."""
    if interval is not None and not watch:
        raise UsageError("--interval goes with --watch")
    configuration = configured_alone("counters", backend, settings)
    from deerflow_backends.cli.counters import show_counters

    interval_seconds = (interval or 2.0) if watch else None
    shown = show_counters(configuration, window_seconds=window, interval_seconds=interval_seconds, as_json=as_json)
    asyncio.run(shown)


@app.command("copy")
def copy_command(
    capability: Annotated[str, typer.Argument(metavar="memory|thread_index", help="What to copy.")],
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="CONNECTION", help="A connection; for memory also deerflow:FOLDER.")
    ],
    target: Annotated[str, typer.Option("--to", metavar="CONNECTION", help="As --from; a folder must be empty.")],
    layout: Annotated[
        str | None,
        typer.Option("--layout", metavar="documents|markdown", help="How a folder is written; documents if not said."),
    ] = None,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Leave in the target what the source does not have.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy all memory or threads, ids, revisions and times included, and read everything back.

    A connection is one that is configured, or a backend's name for its default one.

    The target must be empty, or hold only what the source holds too, and equal:
    so an interrupted copy goes on, and a repeated one changes nothing.
    With --into-existing it may hold anything else as well, which stays.
    Nothing is ever overwritten.

    Exit codes: 0 all copied and verified; 1 not all, as with a damaged file;
    2 nothing was done.
    """
    from deerflow_backends.cli.copy import copy

    copying = copy(capability, source, target, layout=layout, into_existing=into_existing, as_json=as_json)
    raise typer.Exit(0 if asyncio.run(copying) else 1)


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
    logger, warnings = logging.getLogger("deerflow_backends"), Warnings()
    logger.addHandler(warnings)
    try:
        code = app(list(arguments) or ["--help"], prog_name="deerflow-backends", standalone_mode=False)
    except (ConfigError, PluginError, InvalidArgument, UsageError) as error:
        print_errors(str(error).splitlines())
        return 2
    except BackendsError as error:
        print_errors(str(error).splitlines())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        # Typer's own errors: which class they have depends on its version, but all of them know how to put it.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        print_errors([describe()])
        return 2
    finally:
        logger.removeHandler(warnings)
    return code if isinstance(code, int) else 0
