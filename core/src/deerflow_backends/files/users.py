"""What reading and changing a user's memory do with files; each function is one call, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from deerflow_backends.changes import Changes, Effects, State, StoredBody
from deerflow_backends.errors import Corrupt
from deerflow_backends.files.journals import Intent, commit, reading, writing
from deerflow_backends.files.layout import (
    NO_PART,
    USER_FILE,
    Store,
    StoredPart,
    UserFile,
    damaged,
    decode_part,
    decode_user,
    encode_part,
    is_user_name,
    part_file,
    user_name,
)
from deerflow_backends.records import Part

Parts = dict[str | None, StoredPart]


def read(
    store: Store, user: str, wanted: Callable[[UserFile], Iterable[str | None]] = lambda user: ()
) -> tuple[UserFile | None, Parts]:
    """Read a user and some of the parts, all of one revision (M11).

    Args:
        user: The folder's name.
        wanted: Which parts; those that are not there are not in the answer.

    Returns:
        None for a user who was never written.
    """
    with reading(store, user) as folder:
        found = None if folder is None else _user(folder)
        if folder is None or found is None:
            return None, {}
        contents = {name: _content(folder, name) for name in wanted(found) if name in found.parts}
    return found, {name: decode_part(content, folder / part_file(name)) for name, content in contents.items()}


def read_part(store: Store, user_id: str | None, agent_name: str | None) -> tuple[UserFile, StoredPart]:
    """Read one part, absent or not."""
    user, parts = read(store, user_name(user_id), lambda _: [agent_name])
    return user or _never_written(user_id), parts.get(agent_name, NO_PART)


def agents(store: Store, user_id: str | None) -> list[str]:
    """Name the agents that have a body or facts, in order."""
    user, _ = read(store, user_name(user_id))
    return [name for name in user.parts if name is not None] if user else []


def apply(
    store: Store,
    user_id: str | None,
    changes: Changes,
    judge: Callable[[State], tuple[Effects, int]],
    intent: Intent,
) -> tuple[State, Effects]:
    """Make the changes that *judge* finds in the state they touch; it also says when."""
    with writing(store, user_name(user_id)) as folder:
        user = _user(folder) or _never_written(user_id)
        touched = {*changes.bodies, *(agent_name for agent_name, _ in changes.facts)}
        parts = _parts(folder, [name for name in user.parts if name in touched])
        state = _state(user.revision, changes, parts)
        effects, now = judge(state)
        if effects.changed:
            user = UserFile(user_id, effects.revision, now, user.parts)
            _commit(store, user, _changed(parts, effects), intent)
    return state, effects


def _state(revision: int, changes: Changes, parts: Parts) -> State:
    bodies = {name: part.body for name in changes.bodies if (part := parts.get(name)) is not None and part.body}
    facts = {}
    for agent_name, fact_id in changes.facts:
        fact = parts.get(agent_name, NO_PART).facts.get(fact_id)
        if fact is not None:
            facts[agent_name, fact_id] = fact
    return State(revision, bodies, facts)


def _changed(parts: Parts, effects: Effects) -> Parts:
    names = {*effects.bodies, *(agent_name for agent_name, _ in effects.facts)}
    bodies: dict[str | None, StoredBody | None] = {name: parts.get(name, NO_PART).body for name in names}
    bodies |= effects.bodies
    facts = {name: dict(parts.get(name, NO_PART).facts) for name in names}
    for (agent_name, fact_id), fact in effects.facts.items():
        if fact is None:
            del facts[agent_name][fact_id]
        else:
            facts[agent_name][fact_id] = fact
    return {name: StoredPart(bodies[name], facts[name]) for name in names}


def clear(
    store: Store, user_id: str | None, agent_names: tuple[str | None] | None, clock: Callable[[], int], intent: Intent
) -> int:
    """Remove one part, or with None as *agent_names* all; return the revision, raised if anything was there (M8)."""
    with writing(store, user_name(user_id)) as folder:
        user = _user(folder) or _never_written(user_id)
        cleared = [name for name in user.parts if agent_names is None or name in agent_names]
        if cleared:
            user = UserFile(user_id, user.revision + 1, clock(), user.parts)
            _commit(store, user, dict.fromkeys(cleared, NO_PART), intent)
    return user.revision


def erase(store: Store, user_id: str | None, intent: Intent) -> None:
    """Leave no trace of a user, whatever files are in the folder.

    Raises:
        Corrupt: There is something that no file of ours can be; nothing was removed.
    """
    name = user_name(user_id)
    with writing(store, name) as folder:
        entries = list(os.scandir(folder))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) or not entry.name.isprintable():
                raise Corrupt(f"{entry.path!r} is not of this backend; move it away and erase the user again")
        if entries:
            commit(store, name, {}, [entry.name for entry in entries], intent)


def restore(store: Store, part: Part, intent: Intent) -> bool:
    """Store an exported part; False if exactly this one is there.

    Raises:
        Conflict: Something else is there.
    """
    with writing(store, user_name(part.user_id)) as folder:
        user = _user(folder)
        parts = user.parts if user else []
        stored = _parts(folder, {part.agent_name}.intersection(parts)).get(part.agent_name, NO_PART)
        if not part.is_new((user.revision, user.updated_at) if user else None, stored.body, stored.facts):
            return False
        written = UserFile(part.user_id, part.user_revision, part.user_updated_at, parts)
        _commit(store, written, {part.agent_name: StoredPart(part.body, part.facts)}, intent)
        return True


def names(store: Store) -> list[str]:
    """Name all users' folders, in order."""
    return sorted(filter(is_user_name, os.listdir(store.users)))


def export(store: Store, user: str) -> list[Part]:
    """Read a whole user, the user-wide part first, there or not; nothing if the user is gone."""
    found, parts = read(store, user, lambda found: found.parts)
    if found is None:
        return []
    listed = [None, *(name for name in found.parts if name is not None)]
    return [Part(found.user_id, name, found.revision, found.updated_at, *parts.get(name, NO_PART)) for name in listed]


def _commit(store: Store, user: UserFile, changed: Mapping[str | None, StoredPart], intent: Intent) -> None:
    """Write the user's file and the changed parts, those that are empty by removing their files."""
    there = {name for name in user.parts if name not in changed} | {
        name for name, part in changed.items() if not part.empty
    }
    user.parts = sorted(there, key=lambda name: (name is not None, name or ""))
    put = {part_file(name): encode_part(user.user_id, name, part) for name, part in changed.items() if not part.empty}
    put[USER_FILE] = msgspec.json.encode(user)
    remove = [part_file(name) for name, part in changed.items() if part.empty]
    commit(store, user_name(user.user_id), put, remove, intent)


def _never_written(user_id: str | None) -> UserFile:
    return UserFile(user_id, 0, 0, [])


def _user(folder: Path) -> UserFile | None:
    path = folder / USER_FILE
    with suppress(FileNotFoundError):
        return decode_user(path.read_bytes(), path)
    if left := os.listdir(folder):
        raise damaged(path, f"it is not there, but {left[0]} is")
    return None


def _parts(folder: Path, agent_names: Iterable[str | None]) -> Parts:
    return {name: decode_part(_content(folder, name), folder / part_file(name)) for name in agent_names}


def _content(folder: Path, agent_name: str | None) -> bytes:
    path = folder / part_file(agent_name)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise damaged(path, "it is not there") from None
