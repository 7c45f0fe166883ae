"""What a stranger writes in a repository of their own works with what we publish: the example over LMDB.

The session has our wheels and what the example asks for, but not the example: its wheel is built and installed here,
and all that follows runs outside of this repository.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/third-party-backend"
#: The kit draws this share of its programs: all of them are drawn where its own backends are tested.
BUDGET = "0.3"

WRITE = """
import asyncio
from deerflow_backends import PutFact, open_backends
async def main():
    async with open_backends() as backends:
        await backends.memory.apply("ada", [PutFact("coder", "fact", {"content": "Prefers tea"})])
        await backends.counters.record("gpt-x", calls=1, successes=1)
asyncio.run(main())
"""

READ = """
import asyncio, json
from deerflow_backends import open_backends
async def main():
    async with open_backends() as backends:
        (found,) = await backends.memory.search("ada", "tea", agent_name="coder")
        totals = await backends.counters.totals("gpt-x")
        print(json.dumps([type(backends.memory).__module__, found.fact.fact_id, totals.calls]))
asyncio.run(main())
"""


@dataclass(frozen=True)
class Stranger:
    """Somebody with a copy of the example, which is installed from its wheel.

    Attributes:
        folder: The copy.
        site: Where the wheel is installed, beside what the session has.
    """

    folder: Path
    site: Path

    def run(self, *command: str | Path, folder: Path) -> str:
        """Run *command* in *folder*; return what it printed, or fail with it."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("DEERFLOW", "DEER_FLOW"))}
        done = subprocess.run(
            command,
            cwd=folder,
            env={**clean, "PYTHONPATH": str(self.site)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def python(self, *arguments: str | Path, folder: Path) -> str:
        return self.run(sys.executable, "-W", "error", *arguments, folder=folder)

    def command(self, name: str, *arguments: str | Path, folder: Path) -> str:
        return self.run(Path(sys.executable).with_name(name), *arguments, folder=folder)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A copy of the example outside of the repository, built and installed."""
    place = tmp_path_factory.mktemp("stranger")
    somebody = Stranger(place / "repository", place / "site")
    shutil.copytree(EXAMPLE, somebody.folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "dist", "*.egg-info"))
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", place / "dist")
    somebody.run(sys.executable, *build, somebody.folder, folder=place)
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", somebody.site)
    somebody.run(sys.executable, *install, *(place / "dist").iterdir(), folder=place)
    return somebody


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """A folder whose configuration chooses the backend by its name."""
    (tmp_path / "deerflow-backends.yaml").write_text(
        "memory: lmdb\ncounters: lmdb\nconnections:\n  lmdb: {path: data, map_bytes: 67108864}\n"
    )
    return tmp_path


def test_it_is_not_here_already(stranger: Stranger, tmp_path: Path) -> None:
    """Our wheels are installed, not our sources, and the example comes from its own wheel alone."""
    ask = "import deerflow_backends, deerflow_conformance, deerflow_lmdb\n"
    ask += "print(deerflow_backends.__file__, deerflow_conformance.__file__, deerflow_lmdb.__file__, sep='\\n')"
    core, kit, example = map(Path, stranger.python("-c", ask, folder=tmp_path).splitlines())
    assert not any(path.is_relative_to(ROOT / part) for path in (core, kit) for part in ("core", "conformance"))
    assert example.is_relative_to(stranger.site)


def test_it_is_listed(stranger: Stranger, tmp_path: Path) -> None:
    """`deerflow-backends list` names it, whose it is and what it offers, without a fault."""
    plugins = json.loads(stranger.command("deerflow-backends", "list", "--json", folder=tmp_path))["plugins"]
    (found,) = (plugin for plugin in plugins if plugin["name"] == "lmdb")
    assert found["distribution"] == "deerflow-lmdb-example"
    assert found["capabilities"] == ["memory", "counters"]
    assert found["error"] is None


def test_it_is_chosen_by_its_name(stranger: Stranger, configured: Path) -> None:
    """A configuration that names it gives it to a program, and another process finds what that wrote."""
    stranger.python("-c", WRITE, folder=configured)
    assert json.loads(stranger.python("-c", READ, folder=configured)) == ["deerflow_lmdb.memories", "fact", 1]
    assert (configured / "data/deerflow/data.mdb").is_file()


def test_it_is_checked(stranger: Stranger, configured: Path) -> None:
    """`deerflow-backends check` goes there and back, and tells what the plugin found."""
    assert "LMDB 0.9" in stranger.command("deerflow-backends", "check", folder=configured)


def test_the_kit_passes_it_by_name(stranger: Stranger, tmp_path: Path) -> None:
    """`deerflow-conformance run` finds it conformant at every level that its reach allows."""
    told = stranger.command(
        "deerflow-conformance", "run", "lmdb", "--set", f"path={tmp_path}", "--budget", BUDGET, folder=tmp_path
    )
    assert "memory/1.0 L3 + load" in told
    assert "counters/1.0 L3 + load" in told


def test_its_own_tests_pass(stranger: Stranger) -> None:
    """In the stranger's repository `pytest` runs the kit, and passes."""
    told = stranger.python(
        "-m", "pytest", "-p", "no:cacheprovider", f"--conformance-budget={BUDGET}", "tests", folder=stranger.folder
    )
    assert "memory/1.0 L3 + load" in told
    assert "counters/1.0 L3 + load" in told
