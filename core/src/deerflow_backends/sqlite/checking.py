"""What an operator should know about the files, and how much is in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import Final

from deerflow_backends.hookspecs import Finding
from deerflow_backends.local_folders import file_system
from deerflow_backends.sqlite.connection import Connection
from deerflow_backends.sqlite.layout import ONE_ROW_TABLE, TABLES_OF

#: Less room than this on the disk is worth a warning.
_LOW_BYTES: Final = 1024**3

#: A write-ahead log starts over when its readers let it; one this long has a reader that never leaves.
_LONG_LOG_BYTES: Final = 256 * 1024**2

_MEBIBYTE: Final = 1024**2


def findings(connection: Connection) -> list[Finding]:
    """Look at folder and files, changing nothing."""
    folder = connection.path
    found = [Finding("info", f"SQLite {sqlite3.sqlite_version}, synchronous={connection.tuning.synchronous}")]
    if connection.tuning.synchronous == "NORMAL":
        found.append(
            Finding(
                "warning",
                "synchronous=NORMAL: a power loss may take the last writes with it; set it to FULL to keep them",
            )
        )
    if file_system(folder) is None:
        found.append(
            Finding("info", f"this system does not tell the file system of {folder}; make sure that it is a local one")
        )
    free = shutil.disk_usage(folder).free
    if free < _LOW_BYTES:
        found.append(Finding("warning", f"only {free // _MEBIBYTE} MiB are free where {folder} is; make room"))
    for file in connection.files():
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(f"{file}-wal").st_size
            if size > _LONG_LOG_BYTES:
                found.append(
                    Finding(
                        "warning",
                        f"{file}-wal has {size // _MEBIBYTE} MiB; look for a process that reads without an end",
                    )
                )
    return found


async def owned(connection: Connection, capability: str) -> int:
    """Count the rows stored of a capability: what must not grow without bound (G11)."""

    def job(database: sqlite3.Connection) -> int:
        counts = [database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables]  # noqa: S608  # ours
        return sum(count for (count,) in counts)

    tables = [table for table in TABLES_OF[capability] if table != ONE_ROW_TABLE]
    async with connection.database(capability) as database:
        return await database.read(job, timeout_seconds=connection.timeout_seconds)
