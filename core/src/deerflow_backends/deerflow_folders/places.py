"""Where DeerFlow keeps memory in its folder, and what of it may be opened."""

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
        Unread: It is a link, which is never followed, or no plain file.
        OSError: It cannot be read.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        raise Unread("is a symbolic link, which is not followed")
    if not stat.S_ISREG(status.st_mode):
        raise Unread("is not a plain file")
    return Contents(path.read_bytes(), times.of_file(status.st_mtime_ns))


def folders_in(path: Path) -> Iterator[Path | Damaged]:
    """Give the folders in *path* by name; none if it is not there. Links are damage, plain files nothing."""
    try:
        if path.is_symlink():
            yield Damaged(path, "is a symbolic link, which is not followed")
            return
        entries = sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Damaged(path, f"cannot be listed: {error.strerror or error}")
        return
    for entry in entries:
        try:
            check_identifier("its name", entry.name)
            if entry.is_symlink():
                yield Damaged(entry, "is a symbolic link, which is not followed")
            elif entry.is_dir():
                yield entry
        except InvalidArgument as error:
            yield Damaged(entry, str(error))
        except OSError as error:
            yield Damaged(entry, f"cannot be looked at: {error.strerror or error}")
