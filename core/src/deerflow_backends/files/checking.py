"""What an operator should know about the memory's files."""

from __future__ import annotations

import shutil
from typing import Final

from deerflow_backends.blocking import in_thread
from deerflow_backends.deerflow_folders import find_layout
from deerflow_backends.files.connection import Connection
from deerflow_backends.files.failures import translating
from deerflow_backends.files.importing import imported
from deerflow_backends.hookspecs import Finding
from deerflow_backends.local_folders import file_system

#: Less room than this on the disk is worth a warning.
_LOW_BYTES: Final = 1024**3

_MEBIBYTE: Final = 1024**2


async def findings(connection: Connection) -> list[Finding]:
    """Look at the folder, changing nothing."""
    return await in_thread("deerflow files check", lambda: _findings(connection))


def _findings(connection: Connection) -> list[Finding]:
    root = connection.store.root
    found = [Finding("info", f"memory is kept in {root}; it suits one host, and memories of a few thousand facts")]
    with translating():
        if file_system(root) is None:
            found.append(
                Finding(
                    "info", f"this system does not tell the file system of {root}; make sure that it is a local one"
                )
            )
        free = shutil.disk_usage(root).free
        if free < _LOW_BYTES:
            found.append(Finding("warning", f"only {free // _MEBIBYTE} MiB are free where {root} is; make room"))
        return found + _import_findings(connection)


def _import_findings(connection: Connection) -> list[Finding]:
    note = imported(connection.store)
    if note is not None:
        left = [
            Finding("warning", f"{one.path} was not imported ({one.reason}); mend it and copy it, or leave it")
            for one in note.damaged
        ]
        return [Finding("info", f"{note.parts} parts were imported from {note.source}"), *left]
    if connection.import_from is None:
        return []
    problem = "there is no DeerFlow memory in it"
    if find_layout(connection.import_from) is not None:
        problem = "there was memory already; copy it with 'deerflow-backends copy', or remove import_from"
    return [Finding("info", f"nothing was imported from {connection.import_from}: {problem}")]
