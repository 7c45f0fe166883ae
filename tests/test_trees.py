"""Who knows one distribution knows all: the same folders, files and names everywhere."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path for path in ROOT.glob("plugins/*") if path.is_dir())
DISTRIBUTIONS = [ROOT / "core", ROOT / "conformance", *PLUGINS]

CAPABILITIES = {"streams.py", "memories.py", "threads.py", "counters.py"}
PLUGIN_FILES = CAPABILITIES | {"__init__.py", "connection.py", "layout.py", "plugin.py", "py.typed", "settings.py"}
#: What a plugin's package may hold besides, under these names alone; plugins/README.md says what each is.
OPTIONAL_FILES = {
    "checking.py",
    "commands.py",
    "failures.py",
    "memory_records.py",
    "pipes.py",
    "publishing.py",
    "pubsub.py",
    "scripts.py",
    "tails.py",
    "thread_hashes.py",
    "topologies.py",
    "transport.py",
    "urls.py",
    "wire.py",
    "wires.py",
    "xread.py",
}
#: And folders of files in the server's own language.
PLUGIN_FOLDERS = {"lua": ".lua", "migrations": ".sql"}
CORE_FILES = CAPABILITIES | {
    "__init__.py",
    "backends.py",
    "codec.py",
    "cursors.py",
    "errors.py",
    "hookspecs.py",
    "hub.py",
    "plugins.py",
    "py.typed",
    "settings.py",
    "verdicts.py",
}


def released(changelog: str) -> str | None:
    """Return the newest version that *changelog* heads a section with, or None."""
    found = re.search(r"^## \[?(\d[^\]\s]*)", changelog, re.MULTILINE)
    return found[1] if found else None


def distribution_faults(folder: Path, license_text: str) -> list[str]:
    """Return in what *folder* differs from the shape that every distribution has."""
    wanted = ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "src", "tests")
    missing = [f"{name} is missing" for name in wanted if not (folder / name).exists()]
    if missing:
        return missing
    document = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    package = canonicalize_name(project["name"]).replace("-", "_")
    faults = []
    if [path.name for path in sorted((folder / "src").iterdir()) if path.suffix != ".egg-info"] != [package]:
        faults.append(f"src holds something else than the one package {package}")
    if not (folder / "src" / package / "py.typed").is_file():
        faults.append("py.typed is missing")
    if not list((folder / "tests").rglob("test_*.py")):
        faults.append("tests holds no test_*.py")
    if (folder / "LICENSE").read_text(encoding="utf-8") != license_text:
        faults.append("LICENSE differs from the repository's")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    if not readme.startswith("# "):
        faults.append("README.md begins with no title")
    # An index shows the page alone: there only an address, or a place on the same page, leads anywhere.
    links = re.findall(r"\]\(([^)\s]+)", readme)
    faults += [f"README.md links to {one}" for one in links if not one.startswith(("https://", "#"))]
    if (newest := released((folder / "CHANGELOG.md").read_text(encoding="utf-8"))) != project["version"]:
        faults.append(f"pyproject.toml says version {project['version']}, CHANGELOG.md {newest}")
    if "test" not in document.get("dependency-groups", {}):
        faults.append("the dependency group test is missing")
    required = {
        "readme": "README.md",
        "license": "Apache-2.0",
        "license-files": ["LICENSE"],
        "requires-python": ">=3.11",
    }
    faults += [f"project.{key} is not {value!r}" for key, value in required.items() if project.get(key) != value]
    return faults


def plugin_faults(folder: Path, license_text: str) -> list[str]:
    """Return in what *folder* differs from the shape that every plugin has."""
    if faults := distribution_faults(folder, license_text):
        return faults
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if project["name"] != folder.name or not re.fullmatch(r"deerflow-[a-z][a-z0-9]*", folder.name):
        return [f"the folder {folder.name} and the distribution {project['name']} are not both deerflow-NAME"]
    package = folder.name.replace("-", "_")
    found = {path.name for path in (folder / "src" / package).iterdir() if path.name != "__pycache__"}
    faults = [f"{name} is missing" for name in sorted(PLUGIN_FILES - found)]
    faults += [
        f"{name} is not of a plugin's shape"
        for name in sorted(found - PLUGIN_FILES - OPTIONAL_FILES - set(PLUGIN_FOLDERS))
    ]
    for name in sorted(found & set(PLUGIN_FOLDERS)):
        strange = [
            path.name for path in (folder / "src" / package / name).iterdir() if path.suffix != PLUGIN_FOLDERS[name]
        ]
        faults += [f"{name} holds {other}, which is no {PLUGIN_FOLDERS[name]} file" for other in sorted(strange)]
    offered = project.get("entry-points", {}).get("deerflow_backends")
    wanted = {folder.name.removeprefix("deerflow-"): f"{package}.plugin"}
    if offered != wanted:
        faults.append(f"the entry points deerflow_backends are {offered}, not {wanted}")
    return faults + requirement_faults(project)


def requirement_faults(project: dict[str, Any]) -> list[str]:
    """Return what is wrong with the requirements of a plugin's *project* table."""
    requirements = [Requirement(line) for line in project.get("dependencies", [])]
    names = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    faults = ["it requires deerflow-conformance"] if canonicalize_name("deerflow-conformance") in names else []
    core = names.get(canonicalize_name("deerflow-backends"))
    bounds = {} if core is None else {bound.operator: Version(bound.version) for bound in core.specifier}
    if set(bounds) != {">=", "<"} or bounds["<"] != Version(str(bounds[">="].major + 1)):
        faults.append(f"it requires {core or 'no deerflow-backends'}, not deerflow-backends>=X.Y,<X+1")
    return faults


def license_text() -> str:
    return (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_distribution_has_its_shape(folder: Path) -> None:
    """Each distribution has a README, a changelog up to its version, the licence, tests and one typed package."""
    assert distribution_faults(folder, license_text()) == []


def test_plugins_have_one_shape() -> None:
    """Each folder in plugins/ is a whole plugin, named alike and with the same modules as every other."""
    assert {folder.name: plugin_faults(folder, license_text()) for folder in PLUGINS} == {
        folder.name: [] for folder in PLUGINS
    }


def test_core_holds_what_its_map_names() -> None:
    """Core has a module for each part that readers look for, and each embedded backend a plugin's modules."""
    package = ROOT / "core/src/deerflow_backends"
    offered = {"inprocess": CAPABILITIES, "sqlite": CAPABILITIES, "files": {"memories.py"}}
    shape = PLUGIN_FILES - CAPABILITIES - {"py.typed"}
    embedded = {f"{name}/{part}" for name, capabilities in offered.items() for part in shape | capabilities}
    assert sorted(name for name in CORE_FILES | embedded if not (package / name).is_file()) == []
    assert (package / "cli").is_dir()


def test_kit_has_a_module_for_each_capability() -> None:
    """The kit keeps the promises of a capability where core keeps its contract: under the same name."""
    package = ROOT / "conformance/src/deerflow_conformance"
    wanted = CAPABILITIES | {"__init__.py", "py.typed", "pytest_plugin.py"}
    assert sorted(name for name in wanted if not (package / name).is_file()) == []
    assert all((package / name).is_dir() for name in ("cli", "mutants", "reports"))


LICENSE = "The licence\n"
PYPROJECT = """[project]
name = "deerflow-acme"
version = "0.2.0"
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
requires-python = ">=3.11"
dependencies = ["deerflow-backends>=1.0,<2", "acme"]
entry-points.deerflow_backends = { acme = "deerflow_acme.plugin" }

[dependency-groups]
test = ["deerflow-conformance"]
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin with the shape that all have."""
    folder = tmp_path / "deerflow-acme"
    package = folder / "src/deerflow_acme"
    (package / "migrations").mkdir(parents=True)
    (package / "migrations/0001.sql").touch()
    (folder / "tests").mkdir()
    (folder / "tests/test_conformance.py").touch()
    for name in PLUGIN_FILES:
        (package / name).touch()
    (folder / "LICENSE").write_text(LICENSE)
    (folder / "README.md").write_text("# deerflow-acme\n")
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-01-31\n\n## [0.1.0]\n")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def test_shape_accepts_a_whole_plugin(plugin: Path) -> None:
    """A plugin with every part has no fault, with none or all of those that it may do without."""
    assert plugin_faults(plugin, LICENSE) == []
    for name in OPTIONAL_FILES:
        (plugin / "src/deerflow_acme" / name).touch()
    assert plugin_faults(plugin, LICENSE) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("README.md", "README.md is missing"),
        ("CHANGELOG.md", "CHANGELOG.md is missing"),
        ("LICENSE", "LICENSE is missing"),
        ("pyproject.toml", "pyproject.toml is missing"),
        ("tests/test_conformance.py", "tests holds no test_*.py"),
        ("src/deerflow_acme/py.typed", "py.typed is missing"),
        ("src/deerflow_acme/layout.py", "layout.py is missing"),
        ("src/deerflow_acme/threads.py", "threads.py is missing"),
    ],
)
def test_shape_names_what_is_missing(plugin: Path, name: str, fault: str) -> None:
    """A plugin that lacks one file has one fault, which names it."""
    (plugin / name).unlink()
    assert plugin_faults(plugin, LICENSE) == [fault]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("src/other/__init__.py", "src holds something else than the one package deerflow_acme"),
        ("src/deerflow_acme/utils.py", "utils.py is not of a plugin's shape"),
        ("src/deerflow_acme/redis/x.py", "redis is not of a plugin's shape"),
        ("src/deerflow_acme/lua/x.py", "lua holds x.py, which is no .lua file"),
    ],
)
def test_shape_names_what_is_too_much(plugin: Path, name: str, fault: str) -> None:
    """A plugin with a module or folder that no other has is not of the shape."""
    (plugin / name).parent.mkdir(exist_ok=True)
    (plugin / name).touch()
    assert plugin_faults(plugin, LICENSE) == [fault]


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("LICENSE", "The", "Another", "LICENSE differs from the repository's"),
        ("README.md", "# ", "", "README.md begins with no title"),
        (
            "README.md",
            "acme",
            "[acme](https://acme.example), [docs](../docs/acme.md)",
            "README.md links to ../docs",
        ),
        ("CHANGELOG.md", "[0.2.0]", "[0.3.0]", "pyproject.toml says version 0.2.0, CHANGELOG.md 0.3.0"),
        ("CHANGELOG.md", "## [0.2", "[0.2", "pyproject.toml says version 0.2.0, CHANGELOG.md 0.1.0"),
        ("pyproject.toml", "Apache-2.0", "MIT", "project.license is not 'Apache-2.0'"),
        ("pyproject.toml", ">=3.11", ">=3.12", "project.requires-python is not '>=3.11'"),
        ("pyproject.toml", '["LICENSE"]', "[]", "project.license-files is not ['LICENSE']"),
        ("pyproject.toml", "<2", "<3", "it requires deerflow-backends<3,>=1.0, not deerflow-backends>=X.Y,<X+1"),
        ("pyproject.toml", ",<2", "", "it requires deerflow-backends>=1.0, not deerflow-backends>=X.Y,<X+1"),
        ("pyproject.toml", "deerflow-backends>=", "other>=", "it requires no deerflow-backends, not"),
        ("pyproject.toml", '"acme"]', '"deerflow-conformance"]', "it requires deerflow-conformance"),
        ("pyproject.toml", "test =", "tests =", "the dependency group test is missing"),
        ("pyproject.toml", "acme.plugin", "acme", "the entry points deerflow_backends are {'acme': 'deerflow_acme'}"),
        ("pyproject.toml", "{ acme", "{ other", "the entry points deerflow_backends are {'other':"),
    ],
)
def test_shape_names_what_differs(plugin: Path, name: str, old: str, new: str, fault: str) -> None:
    """A plugin in which one text is not as agreed has one fault, which says what is wanted."""
    text = (plugin / name).read_text()
    (plugin / name).write_text(text.replace(old, new, 1))
    (found,) = plugin_faults(plugin, LICENSE)
    assert found.startswith(fault)


def test_shape_wants_one_name_for_folder_and_distribution(plugin: Path) -> None:
    """A plugin's folder bears its distribution's name."""
    (found,) = plugin_faults(plugin.rename(plugin.with_name("deerflow-other")), LICENSE)
    assert found.startswith("the folder deerflow-other and the distribution deerflow-acme are not both")
