"""What a command line names: an installed plugin, or a file in which an author has conformed something."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from deerflow_conformance.conformances import Conformance, PluginConformance, conform_plugin, refuse_lost
from deerflow_conformance.privacy import secrets_in, shown_settings
from deerflow_conformance.reports.model import FileSource, PluginSource, Source
from deerflow_conformance.results import BrokenUse

#: The plugin that is tested in virtual time.
_IN_VIRTUAL_TIME: Final = "inprocess"


@dataclass(frozen=True, slots=True)
class Subject:
    """One capability to test.

    Attributes:
        conformance: How to open it.
        source: The same as a report says it.
        secrets: What nothing that is printed or written may show.
    """

    conformance: Conformance
    source: Source
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


def settings_of(pairs: Sequence[str] | None) -> dict[str, str]:
    """Read ``--set KEY=VALUE``.

    Raises:
        BrokenUse: No ``=``, no key, or a key twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BrokenUse("--set takes KEY=VALUE, such as --set path=data")  # what it got may be a secret
        if key in settings:
            raise BrokenUse(f"--set gives {key!r} twice")
        settings[key] = value
    return settings


def subjects(target: str, settings: Mapping[str, str]) -> list[Subject]:
    """Return what *target* names: ``redis``, or ``tests/test_acme.py`` with or without ``::function``.

    Raises:
        BrokenUse: There is no such thing, it cannot be loaded, or it has no use for *settings*.
    """
    path, separator, function = target.partition("::")
    if path.endswith(".py") or separator or "/" in path or os.sep in path:
        if settings:
            raise BrokenUse("--set goes with a plugin's name: a file has its own settings")
        return list(_in_file(path, function))
    if target == _IN_VIRTUAL_TIME:
        if settings:
            raise BrokenUse("inprocess is tested in virtual time and takes no --set")
        found = importlib.import_module("deerflow_conformance.reference").REFERENCE
    else:
        try:
            found = conform_plugin(target, connection=settings).conformances()
        except BrokenUse as error:
            raise BrokenUse(f"{error}{_perhaps(target)}") from None
    source, secrets = PluginSource(target, shown_settings(target, settings)), secrets_in(target, settings)
    return [Subject(one, source, secrets) for one in found]


def _perhaps(target: str) -> str:
    """Say what may be meant by what is no plugin's name."""
    if entry_points(group="deerflow_backends", name=target):
        return ""
    if Path(f"{target}.py").is_file():
        return f"; for the file say {target}.py"
    return f"; {_is_folder(target)}" if Path(target).is_dir() else ""


def _is_folder(path: str) -> str:
    return f"{path} is a folder: name one test file in it, or run pytest there"


def _in_file(path: str, function: str) -> Iterator[Subject]:
    names = vars(_imported(Path(path)))
    refuse_lost(names)
    found = {name: one for name, one in names.items() if isinstance(one, Conformance | PluginConformance)}
    if not found:
        raise BrokenUse(f"{path} conforms nothing: there is no @conform function and no conform_plugin() in it")
    if function:
        if function not in found:
            raise BrokenUse(f"{path} conforms no {function!r}; it conforms {', '.join(found)}")
        found = {function: found[function]}
    seen: dict[tuple[str, str], str] = {}
    for name, one in found.items():
        source = FileSource(_shown(path), name)
        conformances = one.conformances() if isinstance(one, PluginConformance) else [one]
        secrets = secrets_in(one.plugin, one.connection) if isinstance(one, PluginConformance) else frozenset[str]()
        for conformance in conformances:
            key = (conformance.plugin, conformance.capability)
            if key in seen:
                raise BrokenUse(f"{key[1]} of {key[0]!r} is given twice: by {seen[key]} and by {name}")
            seen[key] = name
            yield Subject(conformance, source, secrets)


def _shown(path: str) -> str:
    """Return how a report names the file: as seen from here, so that it says nothing of this machine."""
    return Path(os.path.relpath(path)).as_posix()


def _imported(path: Path) -> ModuleType:
    """Import an author's file as pytest would: under the name that it has in its package, if it is in one.

    Raises:
        BrokenUse: It is not there, or does not import.
    """
    if not path.is_file():
        raise BrokenUse(_is_folder(str(path)) if path.is_dir() else f"there is no file {path}")
    folder, name = path.resolve().parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path.resolve()):
            return known
        raise BrokenUse(f"{path} cannot be imported: there is a module {name!r} already; call the file otherwise")
    try:
        if package := name.rpartition(".")[0]:
            importlib.import_module(package)
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        if spec is None or spec.loader is None:
            raise BrokenUse(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except BaseException as error:  # also one that exits, or skips itself as a test
        sys.modules.pop(name, None)
        if isinstance(error, BrokenUse | KeyboardInterrupt):
            raise
        raise BrokenUse(f"{path} cannot be imported: {_cause(error, path)}") from error
    return module


def _cause(error: BaseException, path: Path) -> str:
    """Return the error and the line of the file that it came from."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{f' (line {line})' if line else ''}"
