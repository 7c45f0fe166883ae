"""Folders looked at byte by byte, and other processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

Child = Callable[[str], AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture
def bytes_of() -> Callable[[Path], dict[str, bytes]]:
    """Read everything in a folder, names and contents."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture
def child() -> Child:
    """Run a program in another process, which prints a line when it is ready and ends when its input does."""

    @contextmanager
    def run(source: str) -> Iterator[subprocess.Popen[str]]:
        program = [sys.executable, "-W", "error", "-c", textwrap.dedent(source)]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield process
            finally:
                process.kill()

    return run


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """No test leaves a thread behind (G9)."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
