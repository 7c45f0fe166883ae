"""A user's folder, locked; and how files in it change all at once, also if the writer dies half-way.

A write prepares new files beside the journal, then renames the journal to its name: at that moment it has happened.
Then the files take their places and the journal goes. Whoever locks a folder and finds a journal moves on from there:
its writer is dead, or it would hold the lock. Without a journal, what was prepared is removed.

Whatever a later step stands on is synced before it: files and journal before the journal's rename, that rename before
the files take their places, and these before the journal goes. So the same holds when the power fails. That the
journal is gone is not synced: should it come back, a later write's files have other names, and it finds nothing to do.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deerflow_backends.errors import BackendUnavailable, Corrupt
from deerflow_backends.files.failures import translating
from deerflow_backends.files.layout import USER_FILE, Journal, Store, decode, is_user_name
from deerflow_backends.local_folders import sync, write_file


class Busy(Exception):
    """Somebody else holds the lock just now."""


class GivenUp(Exception):
    """Whoever wanted this write does not wait for it any more; nothing was written."""


class Intent:
    """A write that somebody waits for: either they give it up, or it begins. Both may be tried at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._given_up = False

    def begin(self) -> None:
        """Call it before the first thing is written.

        Raises:
            GivenUp: Nobody waits any more.
        """
        with self._lock:
            if self._given_up:
                raise GivenUp
            self._begun = True

    def give_up(self) -> bool:
        """Keep it from beginning; False if it has begun."""
        with self._lock:
            self._given_up = not self._begun
            return self._given_up


@contextmanager
def reading(store: Store, user: str) -> Iterator[Path | None]:
    """Keep writers out of a user's folder; None if there is no such user.

    Raises:
        Busy: Somebody writes just now.
        BackendUnavailable: The files cannot be reached.
    """
    with translating():
        while True:
            with _lock(store, user, fcntl.LOCK_SH) as there:
                if not there or not store.journal(user).exists():
                    yield store.users / user if there else None
                    return
            with writing(store, user):
                pass  # which finishes what somebody who died has begun


@contextmanager
def writing(store: Store, user: str) -> Iterator[Path]:
    """Keep all others out of a user's folder; made if there is none, removed if it is not used in the end.

    Raises:
        Busy: Somebody else is there.
        BackendUnavailable: The files cannot be reached; nothing was written.
    """
    folder = store.users / user
    with translating():
        while True:
            with _lock(store, user, fcntl.LOCK_EX) as there:
                if there:
                    _recover(store, user)
                    try:
                        yield folder
                    finally:
                        with suppress(OSError):  # what is left is empty, and found by the next opening
                            _remove_unused(store, user)
                    return
            _mark(store, user).touch(0o600)
            with suppress(FileExistsError):
                folder.mkdir(0o700)


def commit(store: Store, user: str, put: Mapping[str, bytes], remove: Collection[str], intent: Intent) -> None:
    """Replace and remove files of a folder that the caller has locked, all at once.

    Raises:
        GivenUp: Nobody waits for it; nothing was written.
        BackendUnavailable: `maybe_written` tells whether it happened, or will with the next access.
    """
    journal = store.journal(user)
    prepared = store.new(user, "journal")
    intent.begin()
    try:
        with translating():
            if not (store.users / user / USER_FILE).exists():
                sync(store.users)  # the folder is new, and will be needed
            token = secrets.token_hex(4)
            for file, content in put.items():
                write_file(store.new(user, f"{file}.{token}"), content)
            write_file(prepared, msgspec.json.encode(Journal(list(put), list(remove), token)))
            prepared.rename(journal)
    except BackendUnavailable:
        with suppress(OSError):
            _clean(store, user)
        raise
    with translating(maybe_written=True):
        sync(store.journals)
        _finish(store, user)


def recover_all(store: Store) -> None:
    """Finish or undo what dead writers have left.

    Folders in use are left to whoever uses them; of damage, and of what cannot be reached, the calls for that user
    tell.
    """
    for user in {entry.partition(".")[0] for entry in os.listdir(store.journals)}:
        if is_user_name(user):
            with suppress(Busy, Corrupt, BackendUnavailable), writing(store, user):
                pass


@contextmanager
def _lock(store: Store, user: str, how: int) -> Iterator[bool]:
    """Lock a user's folder; False if there is none."""
    folder = store.users / user
    while True:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            store.users.stat()  # or the whole store is gone, which is not the same as a user without memory
            yield False
            return
        try:
            if _try_lock(handle, how, folder):
                try:
                    yield True
                finally:
                    fcntl.flock(handle, fcntl.LOCK_UN)  # also that of a copy of the handle that a fork has made
                return
        finally:
            os.close(handle)


def _try_lock(handle: int, how: int, folder: Path) -> bool:
    """Lock an open folder; False if it was removed before we had the lock."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy from None
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _recover(store: Store, user: str) -> None:
    """Finish what the journal says, or undo what has no journal."""
    if store.journal(user).exists():
        _finish(store, user)
    _clean(store, user)


def _finish(store: Store, user: str) -> None:
    """Do what the journal says; again, if somebody died doing it."""
    path, folder = store.journal(user), store.users / user
    journal = decode(path.read_bytes(), Journal, path)
    for file in journal.put:
        with suppress(FileNotFoundError):
            store.new(user, f"{file}.{journal.token}").rename(folder / file)
    for file in journal.remove:
        (folder / file).unlink(missing_ok=True)
    sync(folder)
    if USER_FILE in journal.remove:
        _mark(store, user).touch(0o600)
    path.unlink()


def _clean(store: Store, user: str) -> None:
    """Remove what was prepared and never happened."""
    for entry in os.listdir(store.journals):
        if entry.startswith(f"{user}.") and entry != _mark(store, user).name:
            (store.journals / entry).unlink(missing_ok=True)


def _mark(store: Store, user: str) -> Path:
    """The file that makes the next opening look at a folder that is perhaps not used: we may die before it is."""
    return store.new(user, "folder")


def _remove_unused(store: Store, user: str) -> None:
    folder = store.users / user
    if not (folder / USER_FILE).exists() and not store.journal(user).exists():
        folder.rmdir()
    _mark(store, user).unlink(missing_ok=True)
