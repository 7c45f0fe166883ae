"""Tables are made in steps, by whom the configuration says."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from deerflow_backends import sqlite
from deerflow_backends.capabilities import CAPABILITIES
from deerflow_backends.errors import ConfigError
from deerflow_backends.sqlite import layout

BytesOf = Callable[[Path], dict[str, bytes]]

ALL_STEPS = [
    "deerflow-streams.sqlite3: 0001_streams",
    "deerflow.sqlite3: 0002_memory",
    "deerflow.sqlite3: 0003_threads",
    "deerflow.sqlite3: 0004_counters",
]


def _migrate(folder: Path, capabilities: set[str], *, apply: bool) -> list[str]:
    return asyncio.run(sqlite.migrate(folder, "deerflow", capabilities, apply=apply))


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """Without apply the steps are named and nothing is made, not even the folder."""
    assert _migrate(tmp_path / "data", set(CAPABILITIES), apply=False) == ALL_STEPS
    assert list(tmp_path.iterdir()) == []


def test_steps_are_taken_once(tmp_path: Path, bytes_of: BytesOf) -> None:
    """Applied steps are named, then nothing is due, and neither looking nor applying changes a byte."""
    assert _migrate(tmp_path, set(CAPABILITIES), apply=True) == ALL_STEPS
    before = bytes_of(tmp_path)
    assert set(before) == {"deerflow.sqlite3", "deerflow-streams.sqlite3"}
    assert _migrate(tmp_path, set(CAPABILITIES), apply=False) == []
    assert _migrate(tmp_path, set(CAPABILITIES), apply=True) == []
    assert bytes_of(tmp_path) == before


def test_only_the_chosen_capabilities(tmp_path: Path) -> None:
    """Steps of a capability that is chosen later are due later."""
    assert _migrate(tmp_path, {"thread_index"}, apply=True) == ["deerflow.sqlite3: 0003_threads"]
    assert _migrate(tmp_path, {"thread_index", "memory"}, apply=False) == ["deerflow.sqlite3: 0002_memory"]
    assert _migrate(tmp_path, {"thread_index", "memory"}, apply=True) == ["deerflow.sqlite3: 0002_memory"]
    assert not (tmp_path / "deerflow-streams.sqlite3").exists()


def test_a_step_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken together or not at all."""
    _migrate(tmp_path, {"memory"}, apply=True)
    script = "CREATE TABLE half (a);\nCREATE TABLE half (b);\n"
    monkeypatch.setattr("deerflow_backends.sqlite.migrating.step_sql", lambda step: script)
    with pytest.raises(sqlite3.OperationalError):
        _migrate(tmp_path, {"memory", "counters"}, apply=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'half'").fetchall() == []


@pytest.mark.parametrize("prepared", [False, True])
def test_opening_makes_nothing_where_it_may_not(tmp_path: Path, bytes_of: BytesOf, prepared: bool) -> None:
    """With migrate=False a capability without its tables is a ConfigError with the remedy, and nothing changes."""
    if prepared:
        _migrate(tmp_path, {"memory"}, apply=True)
    before = bytes_of(tmp_path)

    async def main() -> None:
        async with sqlite.connect(path=tmp_path, migrate=False) as connection:
            for opening in (sqlite.open_stream_bridge, sqlite.open_thread_index, sqlite.open_counters):
                with pytest.raises(ConfigError, match="run 'deerflow-backends migrate'"):
                    async with opening(connection):
                        pass

    asyncio.run(main())
    assert bytes_of(tmp_path) == before


def test_every_step_and_table_is_listed(tmp_path: Path) -> None:
    """layout.py names everything owned: steps, tables, and the version that the newest step has."""
    folder = Path(layout.__file__).parent / "migrations"
    steps = sorted(path.stem for path in folder.glob("*.sql"))
    assert steps == sorted(step for steps in layout.STEPS_OF.values() for step in steps)
    assert max(int(step[:4]) for step in steps) == layout.VERSION
    _migrate(tmp_path, set(CAPABILITIES), apply=True)
    for kind in (layout.STREAMS, layout.STATE):
        with contextlib.closing(sqlite3.connect(kind.path(tmp_path, "deerflow"))) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            assert connection.execute("PRAGMA application_id").fetchone() == (kind.application_id,)
            assert connection.execute("PRAGMA user_version").fetchone() == (layout.VERSION,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        ours = {table for c in CAPABILITIES if layout.KIND_OF[c] is kind for table in layout.TABLES_OF[c]}
        assert tables - {"sqlite_sequence"} == {layout.STEPS_TABLE, *ours}
