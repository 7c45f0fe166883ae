"""Memory in files through configuration: what is chosen where nothing is, what opening makes, what `check` finds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import ConfigError, load_configuration, open_backends
from deerflow_backends.changes import StoredBody
from deerflow_backends.cli.app import run
from deerflow_backends.deerflow_folders import write_folder
from deerflow_backends.files import checking
from deerflow_backends.memories import PutBody
from deerflow_backends.records import Part


@pytest.fixture
def home(unconfigured: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DeerFlow's own folder, with a memory of the user bob in it."""
    folder = unconfigured / "home"
    write_folder(folder, [Part("bob", None, 1, 1_700_000_000_000_000, StoredBody(1, b'{"a":1}'), {})])
    monkeypatch.setenv("DEER_FLOW_HOME", str(folder))
    return folder


def _chosen(arguments: Mapping[str, Any] | None = None) -> tuple[str, str]:
    choice = load_configuration(arguments).choices["memory"]
    return choice.backend, choice.connection


def _a_of_bob(arguments: Mapping[str, Any] | None = None) -> Any:
    async def body() -> Any:
        async with open_backends(arguments) as backends:
            return (await backends.memory.load("bob")).body.get("a")

    return asyncio.run(body())


def test_with_nothing_configured_memory_is_with_deerflow(home: Path) -> None:
    """Where DEER_FLOW_HOME is set, memory is in files in a folder of its own there, beginning with what is there."""
    assert _a_of_bob() == 1
    assert sorted(path.name for path in (home / "deerflow-backends/deerflow").iterdir()) == [
        *("journals", "store.json", "users"),
    ]
    assert {choice.backend for choice in load_configuration().choices.values()} == {"files", "inprocess"}

    async def change() -> None:
        async with open_backends() as backends:
            await backends.memory.apply("bob", [PutBody(None, {"a": 2})])

    asyncio.run(change())
    assert _a_of_bob() == 2


def test_a_home_that_is_not_there_yet(unconfigured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new DeerFlow need not have made its folder before."""
    monkeypatch.setenv("DEER_FLOW_HOME", str(unconfigured / "new/home"))
    assert _a_of_bob() is None
    assert (unconfigured / "new/home/deerflow-backends/deerflow/store.json").is_file()


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_home_memory_is_in_process(
    unconfigured: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """DEER_FLOW_HOME unset, or empty: nothing is written anywhere."""
    if value is not None:
        monkeypatch.setenv("DEER_FLOW_HOME", value)
    assert _chosen() == ("inprocess", "inprocess")
    assert _a_of_bob() is None
    assert list(unconfigured.iterdir()) == []


def test_what_is_configured_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, environment or file that choose a memory, or a connection for it, are followed to the letter."""
    assert _chosen({"memory": "inprocess"}) == ("inprocess", "inprocess")
    archive = {"connections": {"archive": {"backend": "sqlite", "path": "."}}, "memory": {"connection": "archive"}}
    assert _chosen(archive) == ("sqlite", "archive")
    assert _chosen({"stream_bridge": "sqlite", "connections": {"sqlite": {"path": "."}}}) == ("files", "files")
    elsewhere = {"connections": {"files": {"path": str(home.with_name("elsewhere"))}}}
    assert _a_of_bob(elsewhere) == 1
    assert (home.with_name("elsewhere") / "deerflow").is_dir()
    monkeypatch.setenv("DEERFLOW_BACKENDS_MEMORY", "inprocess")
    assert _chosen() == ("inprocess", "inprocess")
    assert load_configuration().connections.keys() == {"files"}  # named, so that it can be copied from; not opened
    monkeypatch.delenv("DEERFLOW_BACKENDS_MEMORY")
    Path("deerflow-backends.yaml").write_text("memory: inprocess\n")
    assert _chosen() == ("inprocess", "inprocess")
    assert not (home / "deerflow-backends").exists()


def test_mistakes_name_where_they_come_from(unconfigured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with the default is told with its variable; what is chosen needs a path."""
    monkeypatch.setenv("DEER_FLOW_HOME", "~/deerflow")
    with pytest.raises(ConfigError) as caught:
        _a_of_bob()
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[:2] for line in lines] == [
        ["connections.files.path", "(DEER_FLOW_HOME):"],
        ["connections.files.import_from", "(DEER_FLOW_HOME):"],
    ]
    monkeypatch.delenv("DEER_FLOW_HOME")
    with pytest.raises(ConfigError, match=r"connections\.files\.path .*is required"):
        _a_of_bob({"memory": "files"})
    with pytest.raises(ConfigError, match="the backend 'files' does not offer counters"):
        _a_of_bob({"counters": "files"})


def test_the_command_shows_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`list` names the backend, `check` says that memory is in files, where, and what was imported."""
    assert run(["list", "--json"]) == 0
    (listed,) = [one for one in json.loads(capsys.readouterr().out)["plugins"] if one["name"] == "files"]
    assert (listed["capabilities"], listed["error"]) == (["memory"], None)
    assert run(["check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (memory,) = [one for one in told["capabilities"] if one["capability"] == "memory"]
    assert (memory["backend"], memory["connection"], memory["reach"], memory["problem"]) == ("files",) * 2 + (
        "host",
        None,
    )
    assert told["configuration"] == {"file": None, "variables": 1}
    messages = [finding["message"] for finding in told["findings"]["files"]]
    assert any(str(home / "deerflow-backends/deerflow") in message for message in messages)
    assert f"1 parts were imported from {home}" in messages


def test_the_default_can_be_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is kept there with nothing configured can be looked at and copied by the name of its connection."""
    assert run(["memory", "bob", "--backend", "files", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["body"]["a"] == 1
    assert run(["copy", "memory", "--from", "files", "--to", f"deerflow:{home.with_name('copied')}"]) == 0
    assert (home.with_name("copied") / "users/bob/memory.json").is_file()


def test_what_is_logged_is_shown_with_its_facts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be imported is told by any command, with its name and the reason."""
    damaged = home / "users/ann/memory.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert run(["memory", "bob"]) == 0
    told = capsys.readouterr().err
    assert f"warning: files_import_damaged file={damaged} reason=" in told


def test_what_check_finds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full and a file system that is not told are told, with the remedy."""

    async def levels() -> list[tuple[str, str]]:
        async with open_backends() as backends:
            return [(finding.level, finding.message) for finding in (await backends.findings())["files"]]

    monkeypatch.setattr(checking, "_LOW_BYTES", 0)
    assert {level for level, _ in asyncio.run(levels())} == {"info"}
    monkeypatch.setattr(checking, "_LOW_BYTES", 1 << 62)
    monkeypatch.setattr(checking, "file_system", lambda folder: None)
    found = asyncio.run(levels())
    assert [level for level, _ in found] == ["info", "info", "warning", "info"]
    assert "make room" in found[2][1]
    assert "local" in found[1][1]
