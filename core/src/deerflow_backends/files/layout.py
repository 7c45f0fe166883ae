"""Everything this backend owns, by name: folders, files, and what is in them.

::

    <path>/<namespace>/
        store.json                      what this folder is
        users/
            imported.json               what was read from DeerFlow's own folder, if anything was
            <user>/                     its lock is the user's lock
                user.json               the user's revision and time, and which parts there are
                <part>.json             one part: a body and facts
        import/ import-journals/        users while they are imported, until all are
        journals/                       what is being written just now
            <user>.<file>.new           a file that is to replace another
            <user>.journal              which ones are to take their places, and which files are to go

``<user>`` and ``<part>`` are the SHA-256 of the identifier, so that any of them fits and no two fold into one; the
shared user and the user-wide part have names that no such digest is. The true ids are inside and are compared
when a file is read. An agent that has neither body nor facts has no file, a user without revision no folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.errors import Corrupt

#: The newest layout that this code knows.
VERSION: Final = 1
FORMAT: Final = "deerflow-backends files"

STORE_FILE: Final = "store.json"
IMPORTED_FILE: Final = "imported.json"
USER_FILE: Final = "user.json"

_SHARED_USER: Final = "shared"
_USER_WIDE: Final = "wide"
_DIGEST: Final = re.compile("[0-9a-f]{64}")

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Store:
    """Where the memories of one namespace are.

    Attributes:
        users: The users' folders.
        journals: What is being written.
    """

    users: Path
    journals: Path

    @classmethod
    def at(cls, root: Path) -> Store:
        """The store in a namespace's folder."""
        return cls(root / "users", root / "journals")

    @property
    def root(self) -> Path:
        """The namespace's folder."""
        return self.users.parent

    def journal(self, user: str) -> Path:
        """The journal of a user's folder: there from the moment a write has happened until it is in place."""
        return self.journals / f"{user}.journal"

    def new(self, user: str, file: str) -> Path:
        """What is to become a file in a user's folder."""
        return self.journals / f"{user}.{file}.new"


class StoreFile(msgspec.Struct):
    """``store.json``."""

    format: str
    version: int


class Refused(msgspec.Struct):
    """A file of DeerFlow's that could not be imported."""

    path: str
    reason: str


class ImportedFile(msgspec.Struct):
    """``imported.json``: from where, how many parts, and what was left."""

    source: str
    parts: int
    damaged: list[Refused]


class Journal(msgspec.Struct):
    """Names in the user's folder: what is to be replaced or made, and what is to be removed."""

    put: list[str]
    remove: list[str]
    token: str


class UserFile(msgspec.Struct):
    """``user.json``. Revision 0 is a user who was never written, and is in no file.

    Attributes:
        updated_at: Microseconds since 1970.
        parts: The parts that have a body or facts; None is the user-wide one.
    """

    user_id: str | None
    revision: int
    updated_at: int
    parts: list[str | None]


class _FactEntry(msgspec.Struct):
    fact_id: str
    revision: int
    created_at: int
    updated_at: int
    value: msgspec.Raw


class _PartFile(msgspec.Struct):
    user_id: str | None
    agent_name: str | None
    body_revision: int
    body: msgspec.Raw
    facts: list[_FactEntry]


class StoredPart(NamedTuple):
    """One part of a user's memory, its facts by id in order."""

    body: StoredBody | None
    facts: Mapping[str, StoredFact]

    @property
    def empty(self) -> bool:
        """Whether it is as good as not there."""
        return self.body is None and not self.facts


NO_PART: Final = StoredPart(None, {})


def is_user_name(name: str) -> bool:
    """Whether it is the name of a user's folder."""
    return name == _SHARED_USER or _DIGEST.fullmatch(name) is not None


def user_name(user_id: str | None) -> str:
    """Name the folder of a user."""
    return _SHARED_USER if user_id is None else _digest(user_id)


def part_file(agent_name: str | None) -> str:
    """Name the file of a part."""
    return f"{_USER_WIDE if agent_name is None else _digest(agent_name)}.json"


def _digest(identifier: str) -> str:
    return hashlib.sha256(identifier.encode()).hexdigest()


def encode_part(user_id: str | None, agent_name: str | None, part: StoredPart) -> bytes:
    """Write a part, its values as they are."""
    revision, body = part.body or (0, b"{}")
    facts = [
        _FactEntry(fact_id, fact.revision, fact.created_at, fact.updated_at, msgspec.Raw(fact.value))
        for fact_id, fact in sorted(part.facts.items())
    ]
    return msgspec.json.encode(_PartFile(user_id, agent_name, revision, msgspec.Raw(body), facts))


def decode_part(content: bytes, path: Path) -> StoredPart:
    """Read the file of a part.

    Raises:
        Corrupt: It is damaged, or in the place of another one.
    """
    part = decode(content, _PartFile, path)
    if (user_name(part.user_id), part_file(part.agent_name)) != (path.parent.name, path.name):
        raise misplaced(path, f"user {part.user_id!r}, agent {part.agent_name!r}")
    facts = {
        entry.fact_id: StoredFact(entry.revision, bytes(entry.value), entry.created_at, entry.updated_at)
        for entry in part.facts
    }
    if len(facts) != len(part.facts):
        raise damaged(path, "a fact is there twice")
    body = StoredBody(part.body_revision, bytes(part.body)) if part.body_revision else None
    return StoredPart(body, facts)


def decode_user(content: bytes, path: Path) -> UserFile:
    """Read ``user.json``. Raises as `decode_part` does."""
    user = decode(content, UserFile, path)
    if user_name(user.user_id) != path.parent.name:
        raise misplaced(path, f"user {user.user_id!r}")
    return user


def decode(content: bytes, kind: type[T], path: Path) -> T:
    """Read a file of ours.

    Raises:
        Corrupt: It is damaged.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> Corrupt:
    """The error for a file that cannot be read."""
    return Corrupt(f"{path} is damaged ({reason}); restore it from a backup or move it away")


def misplaced(path: Path, whose: str) -> Corrupt:
    """The error for a file that lies where another one belongs."""
    return Corrupt(f"{path} is in the wrong place: it is that of {whose}; put it back or move it away")


def owned(store: Store) -> int:
    """Count files and folders: what must not grow without bound (G11)."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(store.root))
