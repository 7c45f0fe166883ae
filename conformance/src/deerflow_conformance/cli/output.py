"""What every command prints with: results on stdout, remarks on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deerflow_conformance.reports.texts import visible, without_secrets


def console(*, stderr: bool = False) -> Console:
    """Return the console for this moment's stdout or stderr, which tests replace."""
    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def say(*lines: str) -> None:
    """Print *lines* to stdout as they are, unwrapped, at once."""
    for line in lines:
        sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print one JSON document, in ASCII: no pipe, locale or half of a character garbles that."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def remark(text: str, *, style: str = "") -> None:
    """Print to stderr, never wrapped: it may be searched for."""
    console(stderr=True).print(Text(visible(text), style), soft_wrap=True)


def print_errors(lines: Iterable[str]) -> None:
    """Print one line to stderr for each mistake."""
    for line in lines:
        remark(f"error: {without_secrets(line, ())}")


def cell(text: object, style: str = "") -> Text:
    """Return what somebody else chose as text that is never taken for markup."""
    return Text(visible(str(text)), style)


def table(*columns: str) -> Table:
    """Return an empty table in the one look that all commands share."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
