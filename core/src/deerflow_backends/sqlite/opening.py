"""Is this file ours, whole, and fit to be written? Asked before anything writes; creates it where there is none.

A file that is refused is left as it was, byte for byte, with what SQLite keeps beside it. So it is looked at as
immutable, which locks and writes nothing; and where a write-ahead log lies beside it, since it is in use or somebody
died, under another name, so that SQLite keeps its ``-shm`` file elsewhere. No file is opened past SQLite: its locks
end when the process closes *any* handle of theirs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from deerflow_backends.errors import BackendUnavailable, ConfigError, Corrupt, PluginError
from deerflow_backends.local_folders import is_writable, sync
from deerflow_backends.sqlite.failures import translated
from deerflow_backends.sqlite.layout import VERSION, Kind
from deerflow_backends.sqlite.worker import connect_file

T = TypeVar("T")

#: STRICT tables came with this one.
OLDEST_SQLITE: Final = (3, 37, 0)

#: Reading a large file whole takes longer than anybody wants to wait at each start: what these seconds do not reach
#: is found when it is used.
CHECK_SECONDS: Final = 2.0

#: What a process that died while opening left behind is removed when it is this old.
_STALE_SECONDS: Final = 60.0

#: Give up after so many virtual machine steps to look at the time.
_STEPS_BETWEEN_LOOKS: Final = 10_000

#: How often a file that others seem to write is looked at before we take their word.
_LOOKS: Final = 6
_LOOKS_AT_DAMAGE: Final = 2
_SECONDS_BETWEEN_LOOKS: Final = 0.05

_CREATE_STEPS: Final = "CREATE TABLE steps (step TEXT NOT NULL PRIMARY KEY) STRICT"


def check_sqlite() -> None:
    """Raise `PluginError` if Python was built with a SQLite that is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise PluginError(
            f"this Python has SQLite {sqlite3.sqlite_version}; use one with SQLite {oldest} or newer, "
            "or another backend"
        )


def check_file(path: Path, kind: Kind) -> bool:
    """Look at a file without changing it; False if there is none.

    Raises:
        ConfigError: It is not ours, or read-only.
        PluginError: A newer version of this code wrote it.
        Corrupt: It is no database, or a damaged one.
    """
    if not os.path.lexists(path):
        return False
    if not path.is_file():
        raise ConfigError(f"{path} is no file; move it away, or choose another path or namespace")
    for written in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with contextlib.suppress(FileNotFoundError):
            if not is_writable(written):
                raise ConfigError(f"{written} is read-only; make it writable")
    _in_stillness(path, lambda: _check_header(path, kind))
    look(path, lambda connection: _examine(connection, path))
    return True


def create_file(path: Path, kind: Kind) -> None:
    """Make an empty file of ours, whole at once: nobody ever sees a part of it. Somebody else's is left alone."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with _translating(path), _room_beside(path) as room:
        made = room / path.name
        with contextlib.closing(connect_file(made, mode="rwc")) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # nobody knows the file yet; it is synced once below
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute(_CREATE_STEPS)
        made.chmod(0o600)  # it will hold what users said; SQLite gives its log the same mode
        sync(made)
        with contextlib.suppress(FileExistsError):
            _link(made, path)
    with contextlib.suppress(OSError):  # not every system can sync a folder
        sync(path.parent)


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `PluginError` if a newer version of this code wrote the file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise PluginError(
            f"{path} has layout {version}, this deerflow-backends knows {VERSION}: upgrade deerflow-backends"
        )


def _check_header(path: Path, kind: Kind) -> None:
    try:
        with _translating(path), contextlib.closing(connect_file(path, mode="ro", immutable=True)) as connection:
            _check_marks(connection, path, kind)
    except Corrupt:
        if not _signature(path)[-1]:
            raise
        # A checkpoint that died leaves a first page that is ahead of the file; the log has the rest.
        with _unchanged(path) as connection:
            _check_marks(connection, path, kind)


def _check_marks(connection: sqlite3.Connection, path: Path, kind: Kind) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != kind.application_id:
        raise ConfigError(f"{path} is not a file of this backend; move it away, or choose another path or namespace")
    check_version(connection, path)


def look(path: Path, function: Callable[[sqlite3.Connection], T]) -> T | None:
    """Read a file without changing anything, not even beside it; None if others never keep still meanwhile."""

    def once() -> T:
        with _unchanged(path) as connection:
            return function(connection)

    return _in_stillness(path, once)


def _in_stillness(path: Path, once: Callable[[], T]) -> T | None:
    """Look at a file that others may write: then it may seem damaged where it is not.

    They found it sound when they opened it, so damage counts only if it is seen twice and nothing moved.
    """
    before, seen = _signature(path), 0
    for _ in range(_LOOKS):
        try:
            return once()
        except (BackendUnavailable, Corrupt) as error:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            after = _signature(path)
            seen = seen + 1 if before == after and isinstance(error, Corrupt) else 0
            if seen == _LOOKS_AT_DAMAGE:
                raise
            before = after
    return None


@contextlib.contextmanager
def _unchanged(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_translating(path))
        view = stack.enter_context(_view(path)) if _signature(path)[-1] else None
        opened = connect_file(path, mode="ro", immutable=True) if view is None else connect_file(view, mode="ro")
        yield stack.enter_context(contextlib.closing(opened))


def _examine(connection: sqlite3.Connection, path: Path) -> None:
    check_version(connection, path)
    _quick_check(connection, path)


def _quick_check(connection: sqlite3.Connection, path: Path) -> None:
    until = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_BETWEEN_LOOKS)
    try:
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    if finding != "ok":
        raise Corrupt(f"{path} is damaged ({finding}); restore it from a backup or move it away")


@contextlib.contextmanager
def _translating(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path) or error from error


@contextlib.contextmanager
def _view(path: Path) -> Iterator[Path | None]:
    """Give file and log other names, so that what SQLite must write beside them lies there; None without a log."""
    with _room_beside(path) as room:
        view = room / path.name
        try:
            _link(Path(f"{path}-wal"), Path(f"{view}-wal"))
        except FileNotFoundError:  # the last user has just closed the file, which is complete then
            yield None
            return
        _link(path, view)
        yield view


@contextlib.contextmanager
def _room_beside(path: Path) -> Iterator[Path]:
    """Make a folder for a moment, and remove those that somebody who died has left."""
    prefix = f".{path.name}-"
    for left in path.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as room:
        yield Path(room)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise ConfigError(
            f"cannot make a hard link of {source.name} in {target.parent}: {error.strerror}; choose another folder"
        ) from error


def _signature(path: Path) -> tuple[int, int, int, int]:
    """Changes whenever the file or its log is written; ends with the log's size, 0 if there is none."""
    file = path.stat()
    try:
        log = os.stat(f"{path}-wal")
    except FileNotFoundError:
        return file.st_mtime_ns, file.st_size, 0, 0
    return file.st_mtime_ns, file.st_size, log.st_mtime_ns, log.st_size
