"""What SQLite reports, turned into this project's errors: the only place that does it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from deerflow_backends.errors import BackendsError, BackendUnavailable, ConfigError, Conflict, Corrupt

_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PASSING: Final = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_FULL: "is on a full disk",
    sqlite3.SQLITE_INTERRUPT: "was interrupted",
    sqlite3.SQLITE_IOERR: "cannot be read or written",
    sqlite3.SQLITE_LOCKED: "is locked",
    sqlite3.SQLITE_NOLFS: "is too large for this system",
    sqlite3.SQLITE_PERM: "may not be accessed",
    sqlite3.SQLITE_PROTOCOL: "is being opened by too many at once",
    sqlite3.SQLITE_READONLY: "may not be written",
}


def primary_code(error: sqlite3.Error) -> int | None:
    """The SQLite result code without its extension; None for an error of the driver's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the lock just now."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translated(error: sqlite3.Error, path: Path, *, maybe_written: bool = False) -> BackendsError | None:
    """Return our error for SQLite's, its cause set; None if SQLite was misused, which is a defect of ours."""
    code = primary_code(error)
    ours: BackendsError
    if code in _DAMAGED:
        ours = Corrupt(f"{path} is damaged ({error}); restore it from a backup or move it away")
    elif code in _PASSING:
        ours = BackendUnavailable(f"{path} {_PASSING[code]} ({error})", maybe_written=maybe_written)
    elif code == sqlite3.SQLITE_ERROR and str(error).startswith("no such table"):
        ours = missing_schema(path)
    else:
        return None
    ours.__cause__ = error
    return ours


def missing_schema(path: Path) -> ConfigError:
    """The error for a file without the tables that are asked of it."""
    return ConfigError(
        f"{path} lacks tables; run 'deerflow-backends migrate' or set the connection's 'migrate' to 'auto'"
    )


def count_until_conflict(restored: Iterable[bool]) -> tuple[int, Conflict | None]:
    """Restore records one by one, up to the first that meets another one; those before it shall be committed.

    Returns:
        How many were new, and that one's error.
    """
    count = 0
    try:
        for new in restored:
            count += new
    except Conflict as error:
        return count, error
    return count, None
