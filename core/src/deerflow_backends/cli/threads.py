"""The command ``threads``: a user's threads, or everybody's, newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.text import Text

from deerflow_backends.arguments import MAX_PAGE
from deerflow_backends.backends import open_capability
from deerflow_backends.cli.output import cell, console, print_json, printable, remark, table, warn_of_reach
from deerflow_backends.configuration import Configuration
from deerflow_backends.threads import ANY_USER, PINNED_KEY, Scope, Thread

#: What a table needs around its columns, and between two of them.
_EDGE_COLUMNS: Final = 2
_GAP_COLUMNS: Final = 3
#: How wide an identifier usually is.
_UUID_COLUMNS: Final = 36
_LEAST_NAME_COLUMNS: Final = 8


async def show_threads(
    configuration: Configuration, scope: Scope, *, status: str | None, limit: int, as_json: bool
) -> None:
    """Print up to *limit* threads in *scope*, and say on stderr if there are none, or more.

    Args:
        as_json: One JSON object a line for each thread.

    Raises:
        BackendsError: As `deerflow_backends.open_backends` does.
    """
    async with open_capability(configuration, "thread_index") as index:
        rows: list[Thread] = []
        cursor, shown = None, 0
        while True:
            page = await index.list(scope, status=status, limit=min(limit - shown, MAX_PAGE), cursor=cursor)
            cursor, shown = page.next_cursor, shown + len(page.items)
            if as_json:
                for thread in page.items:
                    print_json(thread)
            else:
                rows += page.items
            if cursor is None or shown == limit:
                break
        if rows:
            _print(rows, of_all=scope is ANY_USER)
        backend = configuration.choices["thread_index"].backend
        warn_of_reach(index.reach, f"the thread index {backend!r}", "no thread of another process is seen here")
        if not shown:
            remark(f"There is no thread{_of(scope, status)}.")
        elif cursor is not None:
            total = await index.count(scope, status=status)
            remark(f"{shown} of {total} threads{_of(scope, status)}; --limit shows more.", style="dim")


def _of(scope: Scope, status: str | None) -> str:
    whose = "" if scope is ANY_USER else f" of the user {printable(scope)!r}"
    return whose + ("" if status is None else f" with the status {printable(status)!r}")


def _print(threads: list[Thread], *, of_all: bool) -> None:
    out, now = console(), datetime.now(UTC)
    rows = []
    for thread in threads:
        mark = Text("*" if thread.metadata.get(PINNED_KEY) is True else "", "yellow")
        owner = [_or_dash(thread.user_id)] if of_all else []
        updated = Text(_ago((now - thread.updated_at).total_seconds()))
        identifier, status = cell(printable(thread.thread_id)), cell(printable(thread.status))
        rows.append([mark, identifier, *owner, _or_dash(thread.display_name), status, updated])
    listing = table("", "thread", *(["user"] if of_all else []), "name", "status", "updated")
    # Identifiers are for copying: names make room for them.
    others = [max(row[at].cell_len for row in rows) for at in range(len(rows[0])) if at != len(rows[0]) - 3]
    room = out.width - _EDGE_COLUMNS - sum(_GAP_COLUMNS + min(width, _UUID_COLUMNS) for width in others)
    for row in rows:
        row[-3].truncate(max(room, _LEAST_NAME_COLUMNS), overflow="ellipsis")
        listing.add_row(*row)
    out.print(listing)
    if any(row[0] for row in rows):
        out.print(Text("* pinned", "dim"))


def _ago(seconds: float) -> str:
    """Say for people how long ago that is; what this computer's clock calls the future is now."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _or_dash(text: str | None) -> Text:
    return Text("-", "dim") if text is None else cell(printable(text))
