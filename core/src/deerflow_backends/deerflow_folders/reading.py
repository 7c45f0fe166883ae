"""Reading a folder of DeerFlow's, user by user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deerflow_backends.deerflow_folders.documents import Document, read_document, read_object
from deerflow_backends.deerflow_folders.places import (
    AGENTS,
    DOCUMENT,
    USERS,
    Damaged,
    Layout,
    Unread,
    folders_in,
    read_file,
)
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.records import Part


def find_layout(folder: Path) -> Layout | None:
    """Say how the memory in *folder* is laid out; None if there is none, or no such folder."""
    for home in (folder, *_paths(folder / USERS)):
        if any(_is_there(part / DOCUMENT) for part in (home, *_paths(home / AGENTS))):
            return "documents"
    return None


def read_folder(folder: Path) -> Iterator[Part | Damaged]:
    """Read all memory in *folder*, changing nothing: what DeerFlow keeps without a user first, then user by user.

    A user's first part is the user-wide one, there or not, as `MemoryStore.restore` wants it. Nothing is given for a
    folder that is not there. A damaged document is given as `Damaged` and not read at all; the others are.
    """
    yield from _read_user(folder, None)
    for home in folders_in(folder / USERS):
        if isinstance(home, Damaged):
            yield home
        else:
            yield from _read_user(home, home.name)


def _read_user(home: Path, user_id: str | None) -> Iterator[Part | Damaged]:
    documents: dict[str | None, Document] = {}
    for found in (home, *folders_in(home / AGENTS)):
        if isinstance(found, Damaged):
            yield found
            continue
        path = found / DOCUMENT
        try:
            contents = read_file(path)
            if contents is not None:
                agent_name = None if found is home else found.name
                documents[agent_name] = read_document(read_object(contents), contents.changed_at)
        except (Unread, InvalidArgument) as error:
            yield Damaged(path, str(error))
        except OSError as error:
            yield Damaged(path, f"cannot be read: {error.strerror or error}")
    if documents:
        changed_at = max(document.changed_at for document in documents.values())
        if None not in documents:
            yield Part(user_id, None, 1, changed_at, None, {})
        for agent_name, document in documents.items():
            yield Part(user_id, agent_name, 1, changed_at, document.body, document.facts)


def _paths(folder: Path) -> Iterator[Path]:
    return (path for path in folders_in(folder) if isinstance(path, Path))


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
