"""What an empty store begins with: the memory in DeerFlow's own folder, read whole or not at all.

It is put together in a folder beside that of the users and takes its place in one step, together with the note of
what was read. Whoever dies before that step has imported nothing.
"""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path

import msgspec

from deerflow_backends.deerflow_folders import Damaged, read_folder
from deerflow_backends.errors import Conflict
from deerflow_backends.files.journals import Intent
from deerflow_backends.files.layout import IMPORTED_FILE, ImportedFile, Refused, Store, decode
from deerflow_backends.files.users import restore
from deerflow_backends.local_folders import sync, write_file
from deerflow_backends.records import Part

logger = logging.getLogger("deerflow_backends")


def import_folder(store: Store, source: Path) -> None:
    """Import *source* into a store without users; what is damaged there is logged, noted and left.

    If nothing of it can be read, that is logged and tried again by the next opening while the store is empty. If
    somebody has written to the store meanwhile, nothing is imported, and a warning says so. Only one process may call
    it at a time.

    Raises:
        BackendUnavailable, OSError: It failed; nothing was imported.
    """
    try:
        _import(store, _room(store), source)
    finally:
        forget_half_imported(store)


def is_half_imported(store: Store) -> bool:
    """Whether somebody imports just now, or died doing it."""
    return any(folder.exists() for folder in (_room(store).users, _room(store).journals))


def forget_half_imported(store: Store) -> None:
    """Remove what somebody who died had imported; nobody else may be importing."""
    for folder in (_room(store).users, _room(store).journals):
        shutil.rmtree(folder, ignore_errors=True)


def _room(store: Store) -> Store:
    return Store(store.root / "import", store.root / "import-journals")


def _import(store: Store, room: Store, source: Path) -> None:
    room.users.mkdir(0o700)
    room.journals.mkdir(0o700)
    found = ImportedFile(str(source), 0, [])
    for part in read_folder(source):
        refused = _take(room, part, source)
        if refused is None:
            found.parts += 1
        else:
            found.damaged.append(refused)
            logger.warning("files_import_damaged", extra={"file": refused.path, "reason": refused.reason})
    if not found.parts:
        return
    write_file(room.users / IMPORTED_FILE, msgspec.json.encode(found))
    sync(room.users)
    try:
        room.users.rename(store.users)  # takes the place of an empty folder only
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        logger.warning("files_import_given_up", extra={"source": str(source), "reason": "the store is not empty"})
    else:
        sync(store.root)


def _take(room: Store, part: Part | Damaged, source: Path) -> Refused | None:
    if isinstance(part, Damaged):
        return Refused(str(part.path), part.reason)
    try:
        restore(room, part, Intent())
    except Conflict as error:
        return Refused(str(source), str(error))
    return None


def imported(store: Store) -> ImportedFile | None:
    """Tell what was imported, None if nothing ever was."""
    path = store.users / IMPORTED_FILE
    return decode(path.read_bytes(), ImportedFile, path) if path.exists() else None
