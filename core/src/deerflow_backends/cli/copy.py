"""The command ``copy``: everything of one capability, from one store into another, found there again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from deerflow_backends.cli.copying import Copied, Copying, NotEmpty, as_it_is
from deerflow_backends.cli.ends import ConnectionEnd, End, FolderEnd, ends
from deerflow_backends.cli.folders import SourceFolder, as_read, as_written
from deerflow_backends.cli.options import UsageError
from deerflow_backends.cli.output import cell, console, print_errors, print_json, printable, remark
from deerflow_backends.deerflow_folders import Damaged
from deerflow_backends.errors import BackendsError
from deerflow_backends.threads import ANY_USER

#: What a record is called.
_UNITS: Final = {"memory": "part", "thread_index": "thread"}


async def copy(
    capability: str, source: str, target: str, *, layout: str | None, into_existing: bool, as_json: bool
) -> bool:
    """Copy, verify, print what came of it, and return whether all of it is fine.

    Args:
        source: A connection's name, or ``deerflow:FOLDER``; as *target*.
        layout: Of a target that is a folder.
        into_existing: Whether the target may hold what the source does not have.
        as_json: One JSON document.

    Raises:
        UsageError: The arguments are wrong, or the target holds something else; nothing was copied.
        BackendsError: As the backends raise it. What was copied before stays, and a remark says so.
    """
    begun = perf_counter()
    found = ends(capability, source, target, layout=layout, into_existing=into_existing)
    copied, damaged = await _copy(capability, *found, into_existing=into_existing)
    seconds = perf_counter() - begun
    fine = copied.verified and not damaged
    if as_json:
        told = {"ok": fine, "capability": capability, "from": source, "to": target, "seconds": seconds}
        told |= {**asdict(copied), "verified": copied.verified, "damaged": [asdict(one) for one in damaged]}
        print_json(told)
    _print_damaged(damaged)
    if copied.stopped is not None:
        print_errors([copied.stopped])
        read = f"{_count(copied.records, capability)} of {source} read until then"
        remark(f"{read}; {copied.found} of them are in {target}.")
    elif not copied.verified:
        print_errors(f"reading back: {fault}" for fault in copied.faults)
        remark(f"{copied.found} of {_count(copied.records, capability)} are in {target} as they were copied.")
    elif not as_json:
        _print(copied, capability, source, target, seconds)
    return fine


async def _copy(
    capability: str, source_end: End, target_end: End, *, into_existing: bool
) -> tuple[Copied, Sequence[Damaged]]:
    bars = _Bars()
    try:
        async with source_end.open() as source, target_end.open() as target:
            size = await source.count(ANY_USER) if capability == "thread_index" else None
            layout = target_end.layout if isinstance(target_end, FolderEnd) else None
            sent, kept = (as_it_is, as_it_is) if layout is None else (as_written(layout), as_read)
            with bars.progress:
                copied = await Copying(source, target, sent, kept, size, bars.phase).run(into_existing=into_existing)
    except NotEmpty as error:
        if error.differs:
            problem = f"{error} is in {source_end.label} and in {target_end.label}, with other contents"
            raise UsageError(f"{problem}; choose an empty target, or delete it in one of them") from None
        problem = f"{target_end.label} is not empty: {source_end.label} has nothing equal to {error}"
        remedy = ", or add --into-existing to leave what is there" if isinstance(target_end, ConnectionEnd) else ""
        raise UsageError(f"{problem}; choose an empty one{remedy}") from None
    except (BackendsError, asyncio.CancelledError):
        if bars.copying and isinstance(target_end, ConnectionEnd):
            remark("What was copied until now stays; the same command goes on from there.")
        raise
    return copied, source.damaged if isinstance(source, SourceFolder) else ()


class _Bars:
    """The progress of each phase, at a terminal; nothing in a pipe.

    Attributes:
        progress: To be entered first, and left before anything else is printed.
        copying: Whether something may have been written already.
    """

    def __init__(self) -> None:
        out = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self.copying = False

    @contextmanager
    def phase(self, what: str, total: int | None) -> Iterator[Callable[[], None]]:
        """Show a phase of the work."""
        self.copying = self.copying or what == "copying"
        task = self.progress.add_task(what, total=total)
        yield lambda: self.progress.advance(task)


def _print_damaged(damaged: Sequence[Damaged]) -> None:
    for one in damaged:
        remark(f"damaged, not copied: {printable(str(one.path))}: {printable(one.reason)}", style="yellow")


def _print(copied: Copied, capability: str, source: str, target: str, seconds: float) -> None:
    out = console()
    if not copied.records:
        out.print(cell(f"There is nothing in {source}; nothing was copied."), soft_wrap=True)
        return
    there = copied.records - (copied.new or 0)
    before = f", {there} {'was' if there == 1 else 'were'} there already" if there else ""
    out.print(cell(f"copied {_count(copied.new or 0, capability)} from {source} to {target}{before}"), soft_wrap=True)
    out.print(Text(f"verified: all {copied.records} read back equal, in {seconds:.1f} s", "green"), soft_wrap=True)
    if copied.others:
        out.print(cell(f"{_count(copied.others, capability)} besides in {target}, left alone", "dim"), soft_wrap=True)


def _count(count: int, capability: str) -> str:
    unit = _UNITS[capability]
    return f"{count} {unit}{'' if count == 1 else 's'}"
