"""Who may import what: the walls between the distributions, held by reading the sources."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
DISTRIBUTIONS = [ROOT / "core", ROOT / "conformance", *PLUGINS]
DRIVERS = {"aiosqlite", "asyncpg", "bson", "coredis", "hiredis", "motor", "psycopg", "psycopg2", "psycopg_pool"}
DRIVERS |= {"pymongo", "redis", "sqlalchemy", "valkey"}


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of all that *source*, a module in *package*, imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            start = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def imported(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield file, place and full dotted name of each import in the sources of *folder*."""
    for path in sorted(folder.glob("src/**/*.py")):
        package = ".".join(path.parent.relative_to(folder / "src").parts)
        for line, name in imports(path.read_text(encoding="utf-8"), package):
            yield path, f"{path.relative_to(folder)}:{line} imports {name}", name


def project(folder: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return metadata


def installs(lines: list[str]) -> set[str]:
    """Return the distributions that the requirements *lines* name, those behind their extras included."""
    found: set[str] = set()
    for requirement in map(Requirement, lines):
        found.add(canonicalize_name(requirement.name))
        for extra in requirement.extras:
            for wanted in map(Requirement, requires(requirement.name) or []):
                marker = wanted.marker
                if marker and "extra" in str(marker) and marker.evaluate({"extra": extra}):
                    found.add(canonicalize_name(wanted.name))
    return found


@cache
def owners() -> dict[str, set[str]]:
    """Return which distributions bring each top-level import name: those installed, and our own."""
    found: dict[str, set[str]] = {name: {canonicalize_name(name)} for name in packages(DISTRIBUTIONS)}
    for name, distributions in packages_distributions().items():
        found.setdefault(name, set()).update(map(canonicalize_name, distributions))
    return found


def undeclared(folder: Path) -> list[str]:
    """Return the imports that *folder* does not declare; what an extra declares is for its ``cli`` alone."""
    metadata = project(folder)
    always = installs(metadata.get("dependencies", []))
    extras = installs([line for lines in metadata.get("optional-dependencies", {}).values() for line in lines])
    own = {path.name for path in (folder / "src").iterdir()}
    faults = []
    for path, place, name in imported(folder):
        top = name.partition(".")[0]
        allowed = always | extras if "cli" in path.parts else always
        if top not in own | sys.stdlib_module_names and not owners().get(top, set()) & allowed:
            faults.append(place)
    return faults


def crossing(folder: Path, forbidden: set[str]) -> list[str]:
    """Return the imports of *folder* whose top-level name is in *forbidden*."""
    return [place for _, place, name in imported(folder) if name.partition(".")[0] in forbidden]


def managing(folder: Path) -> list[str]:
    """Return the places that use more of pluggy than its markers, outside ``plugins.py``."""
    allowed = {"pluggy", "pluggy.HookimplMarker", "pluggy.HookspecMarker"}
    faults = []
    for path in sorted(folder.glob("src/**/*.py")):
        source = path.read_text(encoding="utf-8")
        uses = {(line, name) for line, name in imports(source, "") if name.partition(".")[0] == "pluggy"}
        uses |= {
            (node.lineno, f"pluggy.{node.attr}")
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pluggy"
        }
        places = [
            f"{path.relative_to(folder)}:{line} uses {name}" for line, name in sorted(uses) if name not in allowed
        ]
        faults += [] if path.name == "plugins.py" else places
    return faults


#: Modules of core that any file of the kit may name: the contract itself speaks of what is in them. A capability has
#: options, an embedded backend takes a clock, and a size is what the codec encodes.
VOCABULARY = {"capabilities", "clocks", "codec"}
#: Files of the kit that may name any part of core: one opens a plugin by its hooks, one gives core's own backends a
#: clock and a scheduler, and a mutant is a deliberate fault inside such a backend.
INSIDERS = {"plugin_opening.py", "reference.py", "mutants"}


def unpublished(folder: Path, public: set[str]) -> list[str]:
    """Return the imports of *folder* that reach past core's *public* names, whichever module they are taken from."""
    return [
        place
        for path, place, name in imported(folder)
        if name.startswith("deerflow_backends.")
        and name.split(".")[-1] not in public
        and name.split(".")[1] not in VOCABULARY
        and not INSIDERS & set(path.parts)
    ]


def asserting(folder: Path) -> list[str]:
    """Return the places of ``assert`` statements in *folder*: python -O removes them."""
    return [
        f"{path.relative_to(folder)}:{node.lineno}"
        for path in sorted(folder.glob("src/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]


def packages(folders: list[Path]) -> set[str]:
    return {path.name for folder in folders for path in (folder / "src").iterdir() if path.is_dir()}


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_imports_are_declared(folder: Path) -> None:
    """A distribution imports only what it declares, and what an extra adds only in its `cli`."""
    assert undeclared(folder) == []


def test_core_imports_no_driver_and_no_sibling() -> None:
    """Core never talks to a server itself, and never knows the kit or a plugin."""
    assert crossing(ROOT / "core", DRIVERS | packages([ROOT / "conformance", *PLUGINS])) == []
    assert not installs(project(ROOT / "core")["dependencies"]) & {canonicalize_name(driver) for driver in DRIVERS}


def test_plugins_import_neither_each_other_nor_the_kit() -> None:
    """A plugin stands on core alone."""
    for folder in PLUGINS:
        siblings = [other for other in (*PLUGINS, ROOT / "conformance") if other != folder]
        assert crossing(folder, packages(siblings)) == []


def test_kit_imports_public_names_of_core() -> None:
    """What the kit needs of core to test a backend, any third party can have: core's public names."""
    public = set(import_module("deerflow_backends").__all__)
    assert unpublished(ROOT / "conformance", public) == []
    assert crossing(ROOT / "conformance", DRIVERS | packages(PLUGINS)) == []


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_pluggy_is_called_in_one_module(folder: Path) -> None:
    """Anybody may use pluggy's two markers; managing plugins is the business of `plugins.py`."""
    assert managing(folder) == []


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_sources_do_not_assert(folder: Path) -> None:
    """No check in a source depends on a statement that `python -O` removes."""
    assert asserting(folder) == []


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A distribution that breaks every rule above once."""
    (tmp_path / "src/sample/cli").mkdir(parents=True)
    metadata = {"dependencies": ["pluggy", "pydantic-settings[yaml]"], "optional-dependencies.cli": ["packaging"]}
    lines = ["[project]", *(f"{key} = {value}" for key, value in metadata.items())]
    (tmp_path / "pyproject.toml").write_text("\n".join(lines))
    (tmp_path / "src/sample/__init__.py").write_text(
        "import json, yaml, pluggy\nfrom . import cli\npluggy.PluginManager\n"
    )
    (tmp_path / "src/sample/cli/app.py").write_text("from packaging.version import Version\nfrom ..deep import x\n")
    (tmp_path / "src/sample/deep.py").write_text(
        "def late():\n    import packaging.version\n    from redis import Redis\n    assert Redis\n"
        "from pluggy import HookspecMarker, PluginManager\n"
        "from deerflow_backends import open_backends, hidden\nfrom deerflow_backends.hub import Hub\n"
    )
    return tmp_path


def test_rules_find_what_breaks_them(sample: Path) -> None:
    """Each rule finds its breach, late and relative imports included, and nothing beside it."""
    deep = "src/sample/deep.py"
    redis = f"{deep}:3 imports redis.Redis"
    past = [f"{deep}:6 imports deerflow_backends.hidden", f"{deep}:7 imports deerflow_backends.hub.Hub"]
    opening = f"{deep}:6 imports deerflow_backends.open_backends"
    assert set(undeclared(sample)) == {f"{deep}:2 imports packaging.version", redis, opening, *past}
    assert crossing(sample, DRIVERS) == [redis]
    assert set(crossing(sample, {"sample"})) == {
        "src/sample/__init__.py:2 imports sample.cli",
        "src/sample/cli/app.py:2 imports sample.deep.x",
    }
    assert set(managing(sample)) == {
        "src/sample/__init__.py:3 uses pluggy.PluginManager",
        f"{deep}:5 uses pluggy.PluginManager",
    }
    assert unpublished(sample, {"open_backends"}) == past
    assert asserting(sample) == [f"{deep}:4"]
