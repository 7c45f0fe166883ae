"""Folders looked at byte by byte; no test leaves a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Names and contents of all that is in a folder, folders too, and when each was changed.
Look = Callable[[Path], dict[str, tuple[bytes, int]]]


@pytest.fixture
def look() -> Look:
    """Read everything in a folder."""

    def read(folder: Path) -> dict[str, tuple[bytes, int]]:
        return {
            str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
            for path in [folder, *folder.rglob("*")]
        }

    return read


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """No test leaves a thread behind (G9)."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
