"""Whoever uses us can look up every name we offer."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

PACKAGES = ("deerflow_backends", "deerflow_conformance", "deerflow_redis")
HOOKS = {
    "deerflow_settings",
    "deerflow_connect",
    "deerflow_migrate",
    "deerflow_check",
    "deerflow_stream_bridge",
    "deerflow_memory",
    "deerflow_thread_index",
    "deerflow_counters",
}


def says_something(text: str | None, name: str) -> bool:
    """Say whether *text* is a sentence about *name*: more than its words again, or what dataclasses write."""
    if not text or text.startswith(f"{name}("):
        return False
    words = set(re.findall(r"\w+", text.lower())) - set(re.findall(r"[a-z]+", re.sub("(?=[A-Z])", "_", name).lower()))
    return len(words) >= 3


def commented_names(folder: Path) -> set[str]:
    """Return the module-level names in *folder* that are assigned right below a `#:` comment."""
    found = set()
    for path in folder.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            above = lines[node.lineno - 2] if node.lineno > 1 else ""
            if above.startswith("#:") and says_something(above, ""):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that *owner* itself defines."""
    for name, value in vars(owner).items():
        kinds = (staticmethod, classmethod, property)
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds)):
            yield name, getattr(owner, name) if isinstance(value, staticmethod | classmethod) else value


def undocumented(name: str, value: Any, commented: set[str]) -> list[str]:
    """Return what of the public *name*, its members included, nothing explains."""
    if inspect.isclass(value):
        faults = [] if says_something(value.__doc__, value.__name__) else [name]
        return faults + [
            f"{name}.{member}"
            for member, function in members(value)
            if not says_something(inspect.getdoc(function), member) and not explained_by_a_base(value, member)
        ]
    if inspect.isroutine(value):
        return [] if says_something(value.__doc__, name) else [name]
    if inspect.ismodule(value):
        return [] if says_something(value.__doc__, "") else [name]
    return [] if name in commented else [name]


def explained_by_a_base(owner: type, member: str) -> bool:
    return any(says_something(inspect.getdoc(getattr(base, member, None)), member) for base in owner.__mro__[1:-1])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    """Every name in `__all__`, and every public method of every class there, says what it means."""
    module = importlib.import_module(package)
    commented = commented_names(Path(str(module.__file__)).parent)
    faults = [fault for name in module.__all__ for fault in undocumented(name, getattr(module, name), commented)]
    assert faults == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_there(package: str) -> None:
    """`__all__` names something, nothing twice, and each name in it resolves."""
    module = importlib.import_module(package)
    assert module.__all__
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_every_hook_is_documented() -> None:
    """Each hook of the specification is there, is a hook to pluggy, and its docstring explains it."""
    hookspecs = importlib.import_module("deerflow_backends.hookspecs")
    specified = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "deerflow_backends_spec")}
    assert set(specified) == HOOKS
    assert [name for name, hook in specified.items() if not says_something(hook.__doc__, name)] == []


def test_every_module_says_what_it_is_for() -> None:
    """Every module of every package begins with a docstring."""
    folders = [Path(str(importlib.import_module(package).__file__)).parent for package in PACKAGES]
    modules = [path for folder in folders for path in folder.rglob("*.py")]
    assert modules
    silent = [str(path) for path in modules if not says_something(ast.get_docstring(ast.parse(path.read_text())), "")]
    assert silent == []


@dataclass(frozen=True)
class Silent:
    size: int

    def grow(self) -> None:
        """Grow."""

    @property
    def half(self) -> float:
        return self.size / 2

    @classmethod
    def empty(cls) -> "Silent":
        return cls(0)


class Spoken:
    """Something that a reader can understand."""

    def grow(self) -> None:
        """Make it larger by one step and keep the rest."""

    @property
    def half(self) -> float:
        """The size of one of two equal parts."""
        return 0.5


class Heir(Spoken):
    """Another thing, explained where its base is."""

    def grow(self) -> None: ...


class Colour(Enum):
    """What the eye tells apart."""

    RED = 1


LONELY: Final = 1


def test_check_finds_what_is_not_explained() -> None:
    """The check accepts sentences, those of a base class too, and finds every kind of silence."""
    assert undocumented("Silent", Silent, set()) == ["Silent", "Silent.grow", "Silent.half", "Silent.empty"]
    assert undocumented("Spoken", Spoken, set()) == []
    assert undocumented("Heir", Heir, set()) == []
    assert undocumented("Colour", Colour, set()) == []
    assert undocumented("LONELY", LONELY, set()) == ["LONELY"]
    assert undocumented("LONELY", LONELY, {"LONELY"}) == []
    assert undocumented("members", lambda: None, set()) == ["members"]
    assert undocumented("empty", ModuleType("empty"), set()) == ["empty"]


def test_check_reads_comments_above_assignments(tmp_path: Path) -> None:
    """A constant counts as explained by a `#:` comment right above it and by nothing else."""
    (tmp_path / "a.py").write_text(
        "#: How many there are.\nA = 1\n# Not for readers at all.\nB: int = 2\nC = 3\n#:\nD = 4\n"
    )
    assert commented_names(tmp_path) == {"A"}
