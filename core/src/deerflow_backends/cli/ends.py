"""What the command ``copy`` copies from and to: configured connections, and memory folders of DeerFlow's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final, Literal, TypeAlias, cast, get_args, get_origin

from deerflow_backends import distributions
from deerflow_backends.backends import PlannedConnection, open_capability, plan
from deerflow_backends.cli.folders import SourceFolder, TargetFolder
from deerflow_backends.cli.options import UsageError
from deerflow_backends.configuration import Configuration, load_configuration
from deerflow_backends.deerflow_folders import Layout, read_folder
from deerflow_backends.deerflow_folders.writing import finish
from deerflow_backends.files.layout import STORE_FILE
from deerflow_backends.mistakes import unknown
from deerflow_backends.settings import ConnectionSettings

#: What can be copied.
COPIED: Final = ("memory", "thread_index")
#: What begins the name of an end that is a folder of DeerFlow's.
FOLDER_PREFIX: Final = "deerflow:"
#: Settings that say how a store began, not which one it is.
_NO_IDENTITY: Final = frozenset({"import_from"})
LAYOUTS: Final[tuple[str, ...]] = get_args(Layout)


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """One capability over one connection.

    Attributes:
        label: What the user calls it.
        capability: Its name.
        configuration: In which this capability, and no other, goes over that connection.
    """

    label: str
    capability: str
    configuration: Configuration

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """Open it.

        Raises:
            UsageError: It reaches this process only.
            BackendsError: As `deerflow_backends.open_backends` does.
        """
        async with open_capability(self.configuration, self.capability) as store:
            if store.reach == "process":
                raise UsageError(f"{self.label!r} reaches this process only: nothing is in it, and nothing stays there")
            yield store

    def planned(self) -> PlannedConnection:
        """Return its connection, settings validated and nothing opened.

        Raises:
            BackendsError: As `deerflow_backends.backends.plan` does.
        """
        (connection,) = plan(self.configuration).connections
        return connection


@dataclass(frozen=True, slots=True)
class FolderEnd:
    """The memory in a folder of DeerFlow's.

    Attributes:
        label: What the user calls it.
        layout: How it is to be laid out; None if it is the source.
    """

    label: str
    path: Path
    layout: Layout | None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """Give what reads it, or writes it; there is nothing to open.

        Raises:
            BackendsError: An earlier copy was killed at its very end, and that cannot be put right.
        """
        if self.layout is None:
            yield SourceFolder(self.path)
        else:
            finish(self.path)
            yield TargetFolder(self.path, self.layout)


End: TypeAlias = ConnectionEnd | FolderEnd


def ends(capability: str, source: str, target: str, *, layout: str | None, into_existing: bool) -> tuple[End, End]:
    """Find what ``--from`` and ``--to`` name, and refuse what cannot be copied.

    Raises:
        UsageError: The arguments are wrong, or both name the same store, as far as that can be known.
        BackendsError: As `load_configuration` and `deerflow_backends.backends.plan` raise it.
    """
    if capability not in COPIED:
        raise UsageError(unknown(f"{capability!r} cannot be copied", capability, COPIED, these="these can"))
    is_folder = target.startswith(FOLDER_PREFIX)
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(unknown(f"there is no layout {layout!r}", layout, LAYOUTS))
    if layout is not None and not is_folder:
        raise UsageError(f"--layout goes with --to {FOLDER_PREFIX}FOLDER only")
    if into_existing and is_folder:
        raise UsageError(f"--into-existing does not go with --to {FOLDER_PREFIX}FOLDER, which must be empty")
    found = _source_of(capability, source), _target_of(capability, target, layout)
    if _are_same(*found):
        raise UsageError(f"--from {source} and --to {target} are the same store; there is nothing to copy")
    return found


def _source_of(capability: str, text: str) -> End:
    if not text.startswith(FOLDER_PREFIX):
        return _connection("--from", capability, text)
    path = _folder("--from", capability, text)
    if next(read_folder(path), None) is None:
        raise UsageError(f"--from: there is no memory of DeerFlow in {path}; name the folder that DEER_FLOW_HOME names")
    return FolderEnd(text, path, None)


def _target_of(capability: str, text: str, layout: str | None) -> End:
    if not text.startswith(FOLDER_PREFIX):
        return _connection("--to", capability, text)
    path = _folder("--to", capability, text)
    if next(path.glob(f"*/{STORE_FILE}"), None) is not None:
        # With DeerFlow's memory beside it that store would refuse to open.
        raise UsageError(f"--to {text}: a store of the backend 'files' is in there; choose another folder")
    return FolderEnd(text, path, cast(Layout, layout or LAYOUTS[0]))


def _folder(option: str, capability: str, text: str) -> Path:
    name = text.removeprefix(FOLDER_PREFIX)
    if capability != "memory":
        raise UsageError(f"{option} {text}: a folder of DeerFlow's holds memory only, no {capability}")
    if not name:
        raise UsageError(f"{option} {text}: name the folder, such as {FOLDER_PREFIX}/var/lib/deer-flow")
    return Path(name)


def _connection(option: str, capability: str, name: str) -> ConnectionEnd:
    connections = load_configuration().connections
    if name in connections:
        backend = connections[name].backend
    elif name in (installed := distributions.names()):
        backend = name
    else:
        known = {*connections, *installed}
        raise UsageError(unknown(f"{option}: there is no connection {name!r}", name, known, these="there are"))
    configuration = load_configuration({capability: {"backend": backend, "connection": name}})
    alone = replace(configuration, choices={capability: configuration.choices[capability]})
    return ConnectionEnd(name, capability, alone)


def _are_same(source: End, target: End) -> bool:
    if isinstance(source, FolderEnd) and isinstance(target, FolderEnd):
        return source.path.resolve() == target.path.resolve()
    if isinstance(source, ConnectionEnd) and isinstance(target, ConnectionEnd):
        if source.label == target.label:
            return True
        ours, theirs = source.planned(), target.planned()
        return ours.plugin.name == theirs.plugin.name and _identity(ours.settings) == _identity(theirs.settings)
    return False


def _identity(settings: ConnectionSettings | None) -> dict[str, Any]:
    """Return the settings that may tell one store from another: no durations, no choices from a list."""
    found = {}
    for name, field in type(settings).model_fields.items() if settings is not None else ():
        value = getattr(settings, name)
        if name in _NO_IDENTITY or name.endswith("_seconds") or get_origin(field.annotation) is Literal:
            continue
        found[name] = Path(value).resolve() if isinstance(value, PurePath) else value
    return found
