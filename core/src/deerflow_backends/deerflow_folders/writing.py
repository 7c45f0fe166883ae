"""Writing a folder that DeerFlow reads: whole, or not at all.

Everything is written and synced in a folder of its own first. A folder that was not there appears by one rename. In one
that was there that folder is renamed to a fixed name, which decides; then its files are put into place one by one, and
the next write finishes that if this one is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, get_args

from deerflow_backends.deerflow_folders import documents, markdown
from deerflow_backends.deerflow_folders.places import ADDING, AGENTS, DOCUMENT, FACTS, SUFFIX, USERS, Layout
from deerflow_backends.deerflow_folders.reading import memory_in
from deerflow_backends.errors import BackendUnavailable, ConfigError, InvalidArgument
from deerflow_backends.local_folders import sync
from deerflow_backends.records import Part

#: The longest name of a file or folder, in bytes, that file systems take.
_LONGEST_NAME: Final = 255
_USER: Final = re.compile(r"[A-Za-z0-9_-]+")
_AGENT: Final = re.compile(r"[A-Za-z0-9-]+")
_FACT: Final = re.compile(r"[A-Za-z0-9_-]+")
#: The later DeerFlow's own name for memory without an agent.
_DEFAULT_AGENT: Final = "__default__"


class File(NamedTuple):
    """A file to write: where, what, and when it was changed, in microseconds since 1970."""

    path: Path
    data: bytes
    changed_at: int


def write_folder(folder: Path, parts: Iterable[Part], *, layout: Layout = "documents") -> int:
    """Write *parts* to *folder* as DeerFlow lays them out, and return how many that have a body or facts.

    What was read from the same layout and did not change is written equal. ``documents`` suits every DeerFlow: a later
    one takes them over. It keeps no revisions.

    Args:
        folder: Not there yet, or without memory; what else is in it stays. No DeerFlow may be running on it.
        parts: A user's user-wide part first.
        layout: ``markdown`` is for what came from it: it has no bodies of agents and no user-wide facts.

    Raises:
        ConfigError: *folder* holds memory, or something that may hide some. It stays as it was.
        InvalidArgument: DeerFlow cannot have such a name or fact, or would take two for one. Nothing was written.
        BackendUnavailable: The disk refused; `maybe_written` tells whether the next write finishes this one.
    """
    if layout not in get_args(Layout):
        raise InvalidArgument("layout", f"must be one of {', '.join(get_args(Layout))}, not {layout!r}")
    try:
        finish(folder)
        _refuse_memory(folder)
        return _write(folder, parts, _Documents() if layout == "documents" else _Markdown())
    except OSError as error:
        raise BackendUnavailable(
            f"{folder} cannot be written: {error}", maybe_written=(folder / ADDING).exists()
        ) from error


def _refuse_memory(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name one that holds no memory, or that is not there yet")
    path = next(memory_in(folder), None)
    if path is not None:
        raise ConfigError(
            f"{folder} holds memory already, or may: {path}; name a folder without, or move this one's memory away"
        )


def _write(folder: Path, parts: Iterable[Part], laying: _Documents | _Markdown) -> int:
    is_new = not folder.exists()
    place = next(parent for parent in folder.absolute().parents if parent.exists()) if is_new else folder
    stage = place / f".deerflow-backends-{uuid.uuid4().hex}"
    stage.mkdir()
    try:
        count = 0
        for part in parts:
            for file in laying.files(part):
                _put(stage / file.path, file)
            count += part.body is not None or bool(part.facts)
        _sync_all(stage)
        _refuse_obstacles(stage, folder)
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        stage.rename(folder if is_new else folder / ADDING)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    sync(folder.absolute().parent if is_new else folder)
    finish(folder)
    return count


def _put(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:  # a file system that folds names must not fold two files into one
        stream.write(file.data)
        stream.flush()
        os.utime(stream.fileno(), ns=(file.changed_at * 1_000, file.changed_at * 1_000))
        os.fsync(stream.fileno())


def finish(folder: Path) -> None:
    """Put into place what a write that was killed had decided to.

    Raises:
        ConfigError: Somebody made the same file meanwhile. Nothing more was put into place.
    """
    adding = folder / ADDING
    if adding.is_symlink() or not adding.is_dir():
        return
    _refuse_obstacles(adding, folder)
    for root, _, names in os.walk(adding):
        place = folder / Path(root).relative_to(adding)
        place.mkdir(exist_ok=True)
        for name in names:
            Path(root, name).rename(place / name)
        sync(place)
    shutil.rmtree(adding)
    sync(folder)


def _refuse_obstacles(stage: Path, folder: Path) -> None:
    """Refuse to write over what is in *folder*."""
    for root, folders, names in os.walk(stage):
        place = folder / Path(root).relative_to(stage)
        files = [place / name for name in names if (place / name).exists()]
        others = [place / name for name in folders if (place / name).exists() and not (place / name).is_dir()]
        for path in (*files, *others):
            raise ConfigError(f"{path} is in the way; move it out of {folder}")


def _sync_all(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        sync(Path(root))


@dataclass(slots=True)
class _Names:
    """The folders given so far, and to whom: DeerFlow folds some names, and two must not become one."""

    _owners: dict[Path, tuple[str | None, str | None]] = field(default_factory=dict)

    def claim(self, path: Path, part: Part) -> None:
        """Note that *path* is of *part*.

        Raises:
            InvalidArgument: It is another's, or was given already.
        """
        if path in self._owners:
            user_id, agent_name = self._owners[path]
            raise InvalidArgument(
                f"the part of user {part.user_id!r}, agent {part.agent_name!r},",
                f"would be kept where that of user {user_id!r}, agent {agent_name!r} is ({path}); rename or join them",
            )
        self._owners[path] = (part.user_id, part.agent_name)


def _home(name: str | None) -> Path:
    return Path() if name is None else Path(USERS, name)


def _agent_folder(home: Path, agent_name: str) -> Path:
    return home / AGENTS / agent_name.lower()


class _Documents:
    """One document for each part."""

    def __init__(self) -> None:
        self._names = _Names()

    def files(self, part: Part) -> Iterator[File]:
        """Give the file of *part*, none if there is nothing in it."""
        if part.user_id is not None:
            _check_name("user_id", part.user_id, _USER, "the layout 'markdown' takes any")
        folder = _home(part.user_id)
        if part.agent_name is not None:
            _check_name("agent_name", part.agent_name, _AGENT, "rename that agent")
            folder = _agent_folder(folder, part.agent_name)
        self._names.claim(folder, part)
        if part.body is not None or part.facts:
            data = documents.dump_object(documents.make_document(part))
            yield File(folder / DOCUMENT, data, part.user_updated_at)


class _Markdown:
    """One document for each user, one Markdown file for each fact."""

    def __init__(self) -> None:
        self._names = _Names()
        self._users: set[str | None] = set()

    def files(self, part: Part) -> Iterator[File]:
        """Give the files of *part*."""
        home = _home(None if part.user_id is None else _short("user_id", markdown.safe_user_id(part.user_id)))
        if part.agent_name is None or part.user_id not in self._users:
            self._users.add(part.user_id)
            wide = part if part.agent_name is None else replace(part, agent_name=None, body=None, facts={})
            self._names.claim(home, wide)
            yield File(home / DOCUMENT, documents.dump_object(markdown.make_summaries(wide)), part.user_updated_at)
        if part.agent_name is None:
            return
        if part.agent_name != _DEFAULT_AGENT:
            _check_name("agent_name", part.agent_name, _AGENT, "rename that agent")
        if part.body is not None:
            raise InvalidArgument(
                f"agent {part.agent_name!r} of user {part.user_id!r}",
                "has a body; only the layout 'documents' keeps it, and a later DeerFlow takes that over",
            )
        folder = _agent_folder(home, part.agent_name)
        self._names.claim(folder, part)
        for fact_id, fact in part.facts.items():
            _check_name("fact_id", fact_id, _FACT, "the layout 'documents' takes any")
            data = markdown.render_fact(part.user_id, part.agent_name, fact_id, fact)
            name = _short("fact_id", f"{fact_id}{SUFFIX}")
            yield File(folder / FACTS / markdown.shard(fact_id) / name, data, fact.updated_at)


def _check_name(place: str, name: str, pattern: re.Pattern[str], remedy: str) -> None:
    if not pattern.fullmatch(name):
        allowed = pattern.pattern.removesuffix("+")
        raise InvalidArgument(place, f"{name!r:.80} is no name in DeerFlow, which takes {allowed} only; {remedy}")
    _short(place, name)


def _short(place: str, name: str) -> str:
    if len(name.encode()) > _LONGEST_NAME:
        raise InvalidArgument(
            place, f"gives the name {name!r:.80}, too long for a file at over {_LONGEST_NAME} bytes; rename it"
        )
    return name
