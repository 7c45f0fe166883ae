"""Writes that are done once, however often they are asked for (G5).

What became of a write is stored under its token in the same transaction, errors too: whoever asks again, after a lost
reply or a restart of the server, gets the same answer. A request that comes after its last moment is refused, so an
answer need not be kept for longer.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from typing import Any, Final

from deerflow_backends.clocks import wall_clock
from deerflow_backends.errors import BackendsError, BackendUnavailable
from deerflow_backends.sqlite.database import Database
from deerflow_conformance.mutants.served.messages import Write

#: How long the disk may take. The client gives up by itself, and earlier.
DISK_SECONDS: Final = 60.0

#: How many answers one portion of a sweep forgets at most.
SWEEP_ROWS: Final = 1_000

#: Whether a value was returned or an error raised, and that.
Outcome = tuple[bool, Any]

CREATE = """
CREATE TABLE IF NOT EXISTS answers (token TEXT NOT NULL PRIMARY KEY, expires_at INTEGER NOT NULL, outcome BLOB NOT NULL)
STRICT
"""

FIND = "SELECT outcome FROM answers WHERE token = :token"

REMEMBER = "INSERT INTO answers (token, expires_at, outcome) VALUES (:token, :expires_at, :outcome)"

FORGET = """
DELETE FROM answers WHERE token IN (SELECT token FROM answers WHERE expires_at < :now LIMIT :limit)
"""


async def prepare(database: Database) -> None:
    """Make the table, if it is not there."""
    await database.write(lambda connection: connection.execute(CREATE).close(), timeout_seconds=DISK_SECONDS)


async def write_once(database: Database, write: Write, function: Callable[[sqlite3.Connection], Any]) -> Outcome:
    """Do *function* in a transaction, unless that was done under this token before; return what became of it.

    Raises:
        BackendUnavailable: The request came too late, or the disk did not take it; `maybe_written` tells.
    """

    def job(connection: sqlite3.Connection) -> Outcome:
        row = connection.execute(FIND, {"token": write.token}).fetchone()
        if row is not None:
            found: Outcome = pickle.loads(row[0])  # noqa: S301  # we wrote it
            return found
        if wall_clock() > write.until:
            raise BackendUnavailable("the request came after its last moment; it was not done")
        outcome = attempt(connection, function)
        row = {"token": write.token, "expires_at": write.until, "outcome": pickle.dumps(outcome)}
        connection.execute(REMEMBER, row)
        return outcome

    return await database.write(job, timeout_seconds=DISK_SECONDS)


def attempt(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], Any]) -> Outcome:
    """Do *function*; what it raises undoes what it did."""
    connection.execute("SAVEPOINT attempt")
    try:
        outcome: Outcome = (True, function(connection))
    except BackendsError as error:
        connection.execute("ROLLBACK TO attempt")
        outcome = (False, error)
    connection.execute("RELEASE attempt")
    return outcome


def sweep(connection: sqlite3.Connection) -> bool:
    """Forget some answers that nobody can ask for any more; True if there are more."""
    forgotten = connection.execute(FORGET, {"now": wall_clock(), "limit": SWEEP_ROWS}).rowcount
    return forgotten == SWEEP_ROWS
