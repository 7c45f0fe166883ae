"""What every command prints with: tables and lines for people on stdout, remarks on stderr, JSON for scripts."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deerflow_backends.codec import to_json
from deerflow_backends.mistakes import scrub


def console(*, stderr: bool = False) -> Console:
    """Return the console for this moment's stdout or stderr, which tests replace."""
    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def printable(text: str) -> str:
    """Return *text* on one line, with what could steer a terminal written as an escape: identifiers may hold it."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def cell(text: object, style: str = "") -> Text:
    """Return what somebody else chose (a name, a message) as text that is never taken for markup."""
    return Text("\n".join(map(printable, str(text).splitlines())), style)


def table(*columns: str) -> Table:
    """Return an empty table in the one look that all commands share."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(value: Any) -> None:
    """Print one JSON document for scripts, on one line and in ASCII: no pipe, locale or line reader garbles that."""
    sys.stdout.write(json.dumps(value, default=to_json, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def remark(text: str, *, style: str = "") -> None:
    """Print one line to stderr, never wrapped: it may be searched for."""
    console(stderr=True).print(Text(text, style), soft_wrap=True)


def warn_of_reach(reach: str, what: str, unseen: str) -> None:
    """Say on stderr that *what* keeps to this process, if it does, and that *unseen* therefore is not seen."""
    if reach == "process":
        remark(f"warning: {what} reaches this process only: {unseen}", style="yellow")


def print_errors(lines: Iterable[str]) -> None:
    """Print one line to stderr for each mistake."""
    for line in lines:
        remark(f"error: {scrub(printable(line), ())}")


def moment(at: datetime) -> str:
    """Return a time for people, to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


class Warnings(logging.Handler):
    """Shows what the backends log as one line each on stderr, its facts with it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        facts = [f"{name}={value}" for name, value in vars(record).items() if name not in _NO_FACTS]
        remark(scrub(printable(" ".join(["warning:", record.getMessage(), *facts])), ()), style="yellow")


#: What every log record has.
_NO_FACTS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def quoted(value: Any) -> str:
    """Return *value* as JSON text for people, on one line and safe for a terminal."""
    return printable(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))
