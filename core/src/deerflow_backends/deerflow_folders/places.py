"""Where DeerFlow keeps memory in its folder, and what of it may be opened.

A *home* is the folder of one user: the whole folder for what is kept without a user, else ``users/U``. In it are
``memory.json`` and, for each agent, ``agents/A/memory.json`` or ``agents/A/facts/xx/ID.md``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from deerflow_backends.arguments import check_identifier
from deerflow_backends.deerflow_folders import times
from deerflow_backends.errors import BackendUnavailable, InvalidArgument
from deerflow_backends.local_folders import REFUSALS

#: How a folder is laid out: one document a part, or summaries and one Markdown file a fact.
Layout: TypeAlias = Literal["documents", "markdown"]

DOCUMENT: Final = "memory.json"
USERS: Final = "users"
AGENTS: Final = "agents"
FACTS: Final = "facts"
SUFFIX: Final = ".md"

#: DeerFlow's own: there while it changes several files of a home, and afterwards if it was killed.
JOURNAL: Final = ".memory.journal.json"

#: Ours: what a write that was killed has yet to put into place.
ADDING: Final = ".deerflow-backends-adding"


_LINK: Final = "is a symbolic link, which is not followed"

#: DeerFlow itself needs one folder below that of an agent's facts.
_DEEPEST: Final = 32


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file or folder that was left as it is and not read.

    Attributes:
        path: Which one.
        reason: Why, in one line for people.
    """

    path: Path
    reason: str


class Unread(Exception):
    """Why a file or folder is not read."""


class Contents(NamedTuple):
    """What a file holds, and when it was changed, in microseconds since 1970."""

    data: bytes
    changed_at: int


def read_file(path: Path) -> Contents | None:
    """Read a plain file; None if there is nothing of that name.

    Raises:
        Unread: It is a link, which is never followed, or no plain file, or it cannot be read.
    """
    try:
        if path.is_symlink():
            raise Unread(_LINK)
        with open(path, "rb", opener=_open_no_link) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unread("is not a plain file")
            return Contents(file.read(), times.of_file(status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise Unread("is not a plain file") from None
    except OSError as error:
        raise Unread(_refusal(path, error)) from error


def _open_no_link(path: str, flags: int) -> int:
    """Open without waiting for a pipe's writer, and without following what has become a link meanwhile."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _refusal(path: Path, error: OSError) -> str:
    """Say why *path* is not read.

    Raises:
        BackendUnavailable: Trying again may help: to call this damage would lose what is there.
    """
    if error.errno not in REFUSALS:
        raise BackendUnavailable(f"{path} cannot be read just now: {error.strerror or error}; try again") from error
    return f"cannot be read: {error.strerror or error}"


def entries_in(path: Path) -> Iterator[Path | Damaged]:
    """Give what is in a folder by name; nothing if it is not there. Links, and names that are no text, are damage."""
    try:
        if path.is_symlink():
            yield Damaged(path, _LINK)
            return
        entries = sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Damaged(path, _refusal(path, error))
        return
    for entry in entries:
        try:
            check_identifier("its name", entry.name)
            yield Damaged(entry, _LINK) if entry.is_symlink() else entry
        except InvalidArgument as error:
            yield Damaged(entry, str(error))
        except OSError as error:
            yield Damaged(entry, _refusal(entry, error))


def folders_in(path: Path) -> Iterator[Path | Damaged]:
    """Give the folders of users or agents in *path*."""
    return (entry for entry in entries_in(path) if isinstance(entry, Damaged) or entry.is_dir())


def homes_in(folder: Path) -> Iterator[Path | Damaged]:
    """Give every home, the one without a user first."""
    yield folder
    yield from folders_in(folder / USERS)


def fact_files_in(path: Path, depth: int = 0) -> Iterator[Path | Damaged]:
    """Give the Markdown files of an agent, *path* being its folder of facts; in folders below it, as DeerFlow looks."""
    for entry in entries_in(path):
        if isinstance(entry, Damaged):
            yield entry
        elif entry.is_dir():
            deep = depth == _DEEPEST
            yield from [Damaged(entry, "is nested too deeply")] if deep else fact_files_in(entry, depth + 1)
        elif entry.suffix == SUFFIX:
            yield entry
