"""Brings a file's tables up to date, in numbered steps, for the capabilities that were chosen."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from deerflow_backends.blocking import in_thread
from deerflow_backends.errors import BackendUnavailable, ConfigError
from deerflow_backends.local_folders import check_folder
from deerflow_backends.sqlite.failures import is_busy, translated
from deerflow_backends.sqlite.layout import KIND_OF, STATE, STEPS_OF, STREAMS, VERSION, Kind, step_sql
from deerflow_backends.sqlite.opening import (
    check_file,
    check_sqlite,
    check_version,
    create_file,
    look,
)
from deerflow_backends.sqlite.worker import BEGIN_WRITE, connect_file

#: How long twenty processes that start at once may wait for one another.
MIGRATE_SECONDS: Final = 30.0

_DONE: Final = "SELECT step FROM steps"
_NOTE: Final = "INSERT INTO steps (step) VALUES (:step)"


async def migrate(
    path: Path, namespace: str, capabilities: Iterable[str], *, apply: bool, check: bool = True
) -> list[str]:
    """Make the files and tables that *capabilities* need, or only tell what is missing.

    Args:
        path: The folder; made if its parent exists.
        namespace: Names the files.
        apply: False writes nothing at all.
        check: Whether to look for damage, too; not needed where the file is open already.

    Returns:
        The steps done, or due, such as ``"deerflow.sqlite3: 0002_memory"``.

    Raises:
        ConfigError, PluginError, Corrupt: Folder or file are not fit to be used; they are as they were.
        BackendUnavailable: Others held the lock for half a minute; steps not done are due.
    """
    chosen = frozenset(capabilities)
    try:
        return await in_thread("deerflow sqlite migrate", lambda: _migrate(path, namespace, chosen, apply, check))
    except OSError as error:
        raise ConfigError(f"path {str(path)!r}: {error}; make the folder accessible, or choose another one") from error


def _migrate(path: Path, namespace: str, capabilities: frozenset[str], apply: bool, check: bool) -> list[str]:
    check_sqlite()
    check_folder(path, "SQLite's locks")
    taken: list[str] = []
    for kind in (STREAMS, STATE):
        chosen = [capability for capability in STEPS_OF if capability in capabilities and KIND_OF[capability] is kind]
        if chosen:
            file = kind.path(path, namespace)
            steps = [step for capability in chosen for step in STEPS_OF[capability]]
            taken += [f"{file.name}: {step}" for step in _take_steps(file, kind, steps, apply, check)]
    return taken


def _take_steps(file: Path, kind: Kind, steps: list[str], apply: bool, check: bool) -> list[str]:
    if check and not check_file(file, kind):
        if not apply:
            return steps
        create_file(file, kind)
    due = look(file, lambda connection: steps_due(connection, steps))
    if apply and due != []:
        return _take_due(file, steps)
    if due is None:
        raise BackendUnavailable(f"{file} is being written too fast to be looked at; try again, or migrate it")
    return due


def _take_due(file: Path, steps: list[str]) -> list[str]:
    with _write_locked(file) as connection:
        check_version(connection, file)
        due = steps_due(connection, steps)  # others may have been faster
        for step in due:
            _take(connection, step)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    return due


def steps_due(connection: sqlite3.Connection, steps: Iterable[str]) -> list[str]:
    """Say which of *steps* the file lacks."""
    done = {step for (step,) in connection.execute(_DONE)}
    return [step for step in steps if step not in done]


def _take(connection: sqlite3.Connection, step: str) -> None:
    statement = ""
    for line in step_sql(step).splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(_NOTE, {"step": step})


@contextlib.contextmanager
def _write_locked(file: Path) -> Iterator[sqlite3.Connection]:
    until = time.monotonic() + MIGRATE_SECONDS
    try:
        with contextlib.closing(connect_file(file, mode="rw")) as connection:
            _begin(connection, until)
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise translated(error, file) or error from error


def _begin(connection: sqlite3.Connection, until: float) -> None:
    while True:
        try:
            connection.execute(BEGIN_WRITE)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
        else:
            return
