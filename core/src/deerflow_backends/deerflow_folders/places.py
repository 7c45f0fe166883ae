"""Where DeerFlow keeps memory in its folder, and what of it may be opened.

A *home* is the folder of one user: the whole folder for what is kept without a user, else ``users/U``. In it are
``memory.json`` and, for each agent, ``agents/A/memory.json`` or ``agents/A/facts/xx/ID.md``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from deerflow_backends.arguments import check_identifier
from deerflow_backends.deerflow_folders import times
from deerflow_backends.errors import InvalidArgument

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
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise Unread("is a symbolic link, which is not followed")
        if not stat.S_ISREG(status.st_mode):
            raise Unread("is not a plain file")
        return Contents(path.read_bytes(), times.of_file(status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unread(f"cannot be read: {error.strerror or error}") from error


def entries_in(path: Path) -> Iterator[Path | Damaged]:
    """Give what is in a folder by name; nothing if it is not there. Links, and names that are no text, are damage."""
    try:
        if path.is_symlink():
            yield Damaged(path, "is a symbolic link, which is not followed")
            return
        entries = sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Damaged(path, f"cannot be read: {error.strerror or error}")
        return
    for entry in entries:
        try:
            check_identifier("its name", entry.name)
            yield Damaged(entry, "is a symbolic link, which is not followed") if entry.is_symlink() else entry
        except InvalidArgument as error:
            yield Damaged(entry, str(error))
        except OSError as error:
            yield Damaged(entry, f"cannot be read: {error.strerror or error}")


def folders_in(path: Path) -> Iterator[Path | Damaged]:
    """Give the folders of users or agents in *path*."""
    return (entry for entry in entries_in(path) if isinstance(entry, Damaged) or entry.is_dir())


def homes_in(folder: Path) -> Iterator[Path | Damaged]:
    """Give every home, the one without a user first."""
    yield folder
    yield from folders_in(folder / USERS)


def fact_files_in(path: Path) -> Iterator[Path | Damaged]:
    """Give the Markdown files of an agent, *path* being its folder of facts; at any depth, as DeerFlow looks."""
    for entry in entries_in(path):
        if isinstance(entry, Damaged):
            yield entry
        elif entry.is_dir():
            yield from fact_files_in(entry)
        elif entry.suffix == SUFFIX:
            yield entry
