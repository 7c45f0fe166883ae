"""What the pages about the kit tell a reader to run is run, in the order of the page, and says what the page shows."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What is not run: it would take the package from an index, where it stands for the one that is tested here.
INSTALLS = "pip install deerflow-conformance"


@dataclass(frozen=True)
class Command:
    """One command of a page, and the patterns of lines that must be among what it prints."""

    line: str
    wanted: tuple[str, ...]


def commands(page: str) -> Iterator[Command]:
    """Give the commands of a page's console blocks in order."""
    for block in CONSOLE.findall(page):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, wanted = part.partition("\n")
            yield Command(line, tuple(wanted.splitlines()))


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page with the programs of this environment, on few programs where it does not say."""
    words = shlex.split(line)
    if words[0] == "pytest" and "--conformance-budget" not in words:
        words.append("--conformance-budget=0.2")
    if words[:2] == ["deerflow-conformance", "run"]:
        words.append("--budget=0.2")
    bin_folder = Path(sys.executable).parent
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DEERFLOW", "DEER_FLOW"))}
    return subprocess.run(
        words,
        cwd=folder,
        env={**clean, "PATH": f"{bin_folder}{os.pathsep}{clean['PATH']}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of a reader who has written the files that the pages show."""
    for example in ROOT.glob("examples/test_acme*.py"):
        shutil.copy(example, tmp_path)
    return tmp_path


def shown(result: subprocess.CompletedProcess[str], wanted: str) -> bool:
    """Say whether a line of the output is as the page shows it, whatever stands before."""
    return any(fnmatch.fnmatchcase(line.strip(), f"*{wanted.strip()}") for line in result.stdout.splitlines())


def test_testing_a_backend(folder: Path) -> None:
    """Each step of "Test your own backend" works from the one before, and prints what the page shows."""
    found = list(commands((ROOT / "docs/testing-a-backend.md").read_text(encoding="utf-8")))
    assert found[0].line == INSTALLS
    assert len(found) > 5
    for command in found[1:]:
        result = run(command.line, folder)
        assert result.returncode == 0, f"{command.line}\n{result.stdout}{result.stderr}"
        for wanted in command.wanted:
            assert shown(result, wanted), f"{command.line} does not print {wanted!r}:\n{result.stdout}"


def test_reading_a_failure(folder: Path) -> None:
    """The failure that the page explains is what its command prints, line by line, and its program fails the same."""
    page = (ROOT / "docs/reading-a-failure.md").read_text(encoding="utf-8")
    (command,) = commands(page)
    result = run(command.line, folder)
    assert result.returncode == 1, result.stdout + result.stderr
    shown_failure = re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    lines = iter(result.stdout.splitlines())
    for wanted in shown_failure.splitlines():
        assert any(fnmatch.fnmatchcase(line, f"{wanted}*") for line in lines), f"{wanted!r}:\n{result.stdout}"
    program = re.search(r"^  or run\n(.*?^    \)$)", result.stdout, re.MULTILINE | re.DOTALL)
    assert program is not None, result.stdout
    (folder / "program.py").write_text(program[1].replace("\n    ", "\n").lstrip(), encoding="utf-8")
    again = run("python program.py", folder)
    assert again.returncode == 1
    assert "Unkept: wanted" in again.stderr, again.stderr


def test_the_page_of_checks_is_what_the_kit_has() -> None:
    """docs/checks.md names exactly the checks that decide each promise."""
    result = run("python docs/checks.py", ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
