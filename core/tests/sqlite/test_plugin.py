"""SQLite through configuration: what opening makes, what `check` finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import ConfigError, open_backends, sqlite
from deerflow_backends.capabilities import CAPABILITIES
from deerflow_backends.hookspecs import Finding
from deerflow_backends.sqlite import checking

BytesOf = Callable[[Path], dict[str, bytes]]


def configuration(folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(CAPABILITIES, "sqlite"),
        "connections": {"sqlite": {"path": str(folder), **settings}},
    }


async def _use(configured: dict[str, Any]) -> None:
    async with open_backends(configured) as backends:
        await backends.stream_bridge.publish("r", "e", 1)
        await backends.counters.record("m", calls=1)
        await backends.ping()
        assert backends.memory.reach == backends.thread_index.reach == "host"


def test_everything_in_one_folder(tmp_path: Path, unconfigured: Path) -> None:
    """All four capabilities over one connection; closing leaves the two files and nothing else."""
    for _ in range(2):
        asyncio.run(_use(configuration(tmp_path / "data")))
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {"deerflow.sqlite3", "deerflow-streams.sqlite3"}


@pytest.mark.parametrize("mode", ["check", "off"])
def test_nothing_is_made_where_migrating_is_not_wanted(tmp_path: Path, unconfigured: Path, mode: str) -> None:
    """With migrate check or off opening an empty folder fails, names the remedy, and makes nothing."""
    with pytest.raises(ConfigError, match="migrate"):
        asyncio.run(_use(configuration(tmp_path / "data", migrate=mode)))
    assert not (tmp_path / "data").exists()


def test_migrating_first(tmp_path: Path, unconfigured: Path) -> None:
    """What was migrated before opens in every mode."""
    asyncio.run(sqlite.migrate(tmp_path / "data", "deerflow", CAPABILITIES, apply=True))
    for mode in ("check", "off", "auto"):
        asyncio.run(_use(configuration(tmp_path / "data", migrate=mode)))


@pytest.mark.parametrize(
    ("key", "value"), [("path", None), ("synchronous", "OFF"), ("sweep_seconds", 0), ("sweep_seconds", "often")]
)
def test_bad_settings(tmp_path: Path, unconfigured: Path, key: str, value: Any) -> None:
    """A setting that is missing or wrong is named, and nothing is made."""
    configured = configuration(tmp_path / "data")
    if value is None:
        del configured["connections"]["sqlite"][key]
    else:
        configured["connections"]["sqlite"][key] = value
    with pytest.raises(ConfigError, match=key):
        asyncio.run(_use(configured))
    assert not (tmp_path / "data").exists()


def _findings(folder: Path, **settings: Any) -> list[Finding]:
    async def main() -> list[Finding]:
        async with sqlite.connect(path=folder, **settings) as connection, sqlite.open_memory(connection):
            return checking.findings(connection)

    return asyncio.run(main())


def test_what_check_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the versions where all is well; a warning with the remedy for each thing that is not."""
    monkeypatch.setattr(checking, "_LOW_BYTES", 0)
    assert [finding.level for finding in _findings(tmp_path)] == ["info"]
    (normal,) = [finding for finding in _findings(tmp_path, synchronous="NORMAL") if finding.level == "warning"]
    assert "power loss" in normal.message
    monkeypatch.setattr(checking, "_LOW_BYTES", 1 << 62)
    monkeypatch.setattr(checking, "_LONG_LOG_BYTES", -1)
    monkeypatch.setattr(checking, "file_system", lambda folder: None)
    found = _findings(tmp_path)
    assert [finding.level for finding in found] == ["info", "info", "warning", "warning"]
    for finding, word in zip(found, ("synchronous=FULL", "local", "make room", "-wal"), strict=True):
        assert word in finding.message
