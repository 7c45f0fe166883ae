"""Is this folder ours, and fit to be written? Asked before anything writes; makes it where there is none, and imports.

A folder that is refused is left as it was.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from deerflow_backends.blocking import in_thread
from deerflow_backends.deerflow_folders import find_layout, read_folder
from deerflow_backends.errors import BackendUnavailable, ConfigError, PluginError
from deerflow_backends.files.importing import forget_half_imported, import_folder, is_half_imported
from deerflow_backends.files.journals import recover_all
from deerflow_backends.files.layout import (
    FORMAT,
    IMPORTED_FILE,
    STORE_FILE,
    USER_FILE,
    VERSION,
    Store,
    StoreFile,
    damaged,
    decode,
)
from deerflow_backends.local_folders import REFUSALS, check_folder, is_writable, sync, write_file

#: How long processes that start at once may wait for the one that imports.
MIGRATE_SECONDS: Final = 60.0

_PAUSE_SECONDS: Final = 0.02

#: As in `ConnectionSettings`.
_NAMESPACE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def store_of(path: Path, namespace: str) -> Store:
    """Name the folder of a namespace.

    Raises:
        ConfigError: The namespace's name is none.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(f"namespace must match {_NAMESPACE.pattern}, not {namespace!r}")
    return Store.at(path / namespace)


async def migrate(path: Path, namespace: str, *, import_from: Path | None = None, apply: bool) -> list[str]:
    """Make the folder and import what it is to begin with, or only tell what is missing.

    Args:
        path: The folder; made, with its parents.
        namespace: The folder in it.
        import_from: A DeerFlow store's folder.
        apply: False writes nothing at all.

    Returns:
        The steps done, or due, such as ``"deerflow: folder"``.

    Raises:
        ConfigError, PluginError, Corrupt: The folder is not fit to be used; it is as it was.
        BackendUnavailable: Another process has been importing for a minute; steps not done are due.
    """
    store = store_of(path, namespace)
    try:
        return await in_thread("deerflow files migrate", lambda: _migrate(path, store, import_from, apply))
    except OSError as error:
        if error.errno not in REFUSALS:
            raise BackendUnavailable(f"path {str(path)!r}: {error}; open it again once that has passed") from error
        raise ConfigError(f"path {str(path)!r}: {error}; make the folder accessible, or choose another one") from error


def _migrate(path: Path, store: Store, import_from: Path | None, apply: bool) -> list[str]:
    check_folder(path, "locks", parents=True)
    if find_layout(path) is not None:
        raise ConfigError(
            f"path {str(path)!r} is a folder that a DeerFlow store uses; choose another path, such as a new folder "
            "in it, and name this one as import_from to begin with its memory"
        )
    due = _due(path, store, import_from)
    if not apply or not (due or is_half_imported(store)):
        return list(due.values())
    for folder in reversed([store.root, *store.root.parents]):
        _make(folder)
    with _locked(store):
        due = _due(path, store, import_from)  # others may have been faster
        if "folder" in due:
            _set_up(store)
        forget_half_imported(store)
        if import_from is not None and "import" in due:
            recover_all(store)  # an empty folder that somebody left would be in the way
            import_folder(store, import_from)
        return list(due.values())


def _due(path: Path, store: Store, import_from: Path | None) -> dict[str, str]:
    due = {}
    made = _is_made(store)
    if not made:
        due["folder"] = f"{store.root.name}: folder"
    if import_from is None or (made and _is_used(store)):
        return due
    if not import_from.is_dir() and import_from not in path.parents:
        raise ConfigError(
            f"import_from {str(import_from)!r} is no folder; name that of a DeerFlow store, or remove import_from"
        )
    if next(read_folder(import_from), None) is not None:
        due["import"] = f"{store.root.name}: import from {import_from}"
    return due


def _is_made(store: Store) -> bool:
    """Look at a namespace's folder without changing it; False if there is none, or nobody has set it up yet.

    Raises:
        ConfigError: It is not ours, or read-only.
        PluginError: A newer version of this code wrote it.
        Corrupt: It is damaged.
    """
    root, marker = store.root, store.root / STORE_FILE
    if not os.path.lexists(root):
        return False
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder; move it away, or choose another path or namespace")
    for folder in (root, store.users, store.journals):
        with suppress(FileNotFoundError):
            if not is_writable(folder):
                raise ConfigError(f"{folder} is read-only; make it writable")
    if not marker.exists():
        strange = _holds_more_than_a_beginning(store)
        if not marker.exists():  # looked at again: somebody may be setting it up just now
            if strange:
                raise _not_ours(root)
            return False
    found = decode(marker.read_bytes(), StoreFile, marker)
    if found.format != FORMAT:
        raise _not_ours(root)
    if found.version > VERSION:
        raise PluginError(
            f"{root} has layout {found.version}, this deerflow-backends knows {VERSION}: upgrade deerflow-backends"
        )
    for folder in (store.users, store.journals):
        if not folder.is_dir():
            raise damaged(folder, "it is not there")
    return True


def _holds_more_than_a_beginning(store: Store) -> bool:
    """Whether there is anything that `_set_up` does not put there."""
    begun = {store.users, store.journals, store.root / STORE_FILE, _prepared(store)}
    return any(
        path not in begun or (path.is_dir() and not begun.issuperset(path.iterdir())) for path in store.root.iterdir()
    )


def _prepared(store: Store) -> Path:
    return store.journals / f"{STORE_FILE}.new"


def _is_used(store: Store) -> bool:
    """Whether anybody has a memory in it, or it was imported."""
    with os.scandir(store.users) as entries:
        return any(entry.name == IMPORTED_FILE or _has_memory(store, entry.name) for entry in entries)


def _has_memory(store: Store, user: str) -> bool:
    """Whether a user was written, and the folder is not what somebody left who died before."""
    return (store.users / user / USER_FILE).exists() or store.journal(user).exists()


def _not_ours(root: Path) -> ConfigError:
    return ConfigError(
        f"{root} holds something that is not of this backend; move it away, or choose another path or namespace"
    )


def _make(folder: Path) -> None:
    """Make a folder, for its owner alone, if there is none."""
    with suppress(FileExistsError):
        folder.mkdir(0o700)
        sync(folder.parent)


def _set_up(store: Store) -> None:
    """Make what is in a namespace's folder; the file that says so comes last."""
    _make(store.journals)
    _make(store.users)
    write_file(_prepared(store), msgspec.json.encode(StoreFile(FORMAT, VERSION)))
    _prepared(store).rename(store.root / STORE_FILE)
    sync(store.root)


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Be the only one who sets up or imports."""
    until = time.monotonic() + MIGRATE_SECONDS
    handle = os.open(store.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BackendUnavailable(
                        f"{store.root} is being set up by another process for {MIGRATE_SECONDS:g} s; try again"
                    ) from None
                time.sleep(_PAUSE_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # also that of a copy of the handle that a fork has made
    finally:
        os.close(handle)
