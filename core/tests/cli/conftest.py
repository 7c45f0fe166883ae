"""What the tests of the command share: a clean environment, the command as a process, and plugins made for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from deerflow_backends.cli.app import run as run_command


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests configures backends."""
    for variable in [name for name in os.environ if name.upper().startswith(("DEERFLOW", "DEER_FLOW"))]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def program() -> str:
    """The installed command."""
    found = shutil.which("deerflow-backends", path=sysconfig.get_path("scripts"))
    assert found is not None, "the command deerflow-backends is not installed beside this Python"
    return found


@pytest.fixture
def run(program: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a process of its own."""

    def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return command


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, whose in-process backend it then shares: exit code, stdout and stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(arguments)
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a distribution that offers one backend, and return the folder to put on PYTHONPATH."""

    def write(name: str, source: str) -> str:
        folder = tmp_path / "site"
        metadata = folder / f"acme_{name}-0.3.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"acme_{name}.py").write_text(dedent(source), encoding="utf-8")
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 0.3\nRequires-Dist: deerflow-backends>=1.0,<2\n",
            encoding="utf-8",
        )
        (metadata / "entry_points.txt").write_text(
            f"[deerflow_backends]\n{name} = acme_{name}\n",
            encoding="utf-8",
        )
        return str(folder)

    return write
