"""What an empty store begins with: the memory of a DeerFlow folder, whole, once, and left as it is there."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import files
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.deerflow_folders import Damaged, Layout, places, read_folder, write_folder
from deerflow_backends.errors import BackendUnavailable, ConfigError
from deerflow_backends.files.checking import findings
from deerflow_backends.files.layout import Store, user_name
from deerflow_backends.memories import PutFact
from deerflow_backends.records import Part

Look = Callable[[Path], dict[str, tuple[bytes, int]]]

MOMENT = 1_700_000_000_000_000
FACTS = {"f1": StoredFact(1, b'{"content":"likes tea"}', MOMENT, MOMENT)}
BODY = StoredBody(1, b'{"user":{"workContext":{"summary":"x"}}}')


def _source(folder: Path, layout: Layout = "documents") -> Path:
    parts = [
        *(Part(None, None, 1, MOMENT, BODY, {}), Part(None, "researcher", 1, MOMENT, None, FACTS)),
        *(Part("bob", None, 1, MOMENT, BODY, {}), Part("bob", "researcher", 1, MOMENT, None, FACTS)),
    ]
    assert write_folder(folder, parts, layout=layout) == 4
    return folder


async def _exported(folder: Path, **settings: Any) -> tuple[list[Any], list[str]]:
    async with files.connect(path=folder, **settings) as connection, files.open_memory(connection) as store:
        found = [f"{finding.level}: {finding.message}" for finding in await findings(connection)]
        return [record async for record in store.export()], found


def _read(source: Path) -> list[Any]:
    """All that a store of what is in *source* exports, but for the order."""
    return [part.to_record() for part in read_folder(source) if not isinstance(part, Damaged)]


def _ordered(records: list[Any]) -> list[Any]:
    return sorted(records, key=lambda record: (record["user_id"] or "", record["agent_name"] or ""))


@pytest.mark.parametrize("layout", ["documents", "markdown"])
def test_a_store_begins_with_what_is_there(tmp_path: Path, look: Look, layout: Layout) -> None:
    """Either layout is imported whole, with its ids, revisions and times, and the folder is left untouched."""
    source = _source(tmp_path / "home", layout)
    before, wanted = look(source), _read(source)
    assert len(wanted) == 4
    records, found = asyncio.run(_exported(tmp_path / "data", import_from=source))
    assert _ordered(records) == _ordered(wanted)
    assert look(source) == before
    assert f"info: 4 parts were imported from {source}" in found


def test_once(tmp_path: Path) -> None:
    """What was imported and erased does not come back; later the folder may be gone."""
    source = _source(tmp_path / "home")

    async def main() -> None:
        async with files.connect(path=tmp_path / "data", import_from=source) as connection:
            async with files.open_memory(connection) as store:
                await store.erase("bob")
                await store.erase(None)
            async with files.open_memory(connection) as store:
                assert [record async for record in store.export()] == []

    asyncio.run(main())
    source.rename(tmp_path / "elsewhere")
    assert asyncio.run(_exported(tmp_path / "data", import_from=source))[0] == []


def test_never_into_a_store_that_is_in_use(tmp_path: Path) -> None:
    """A store with a memory of its own is left alone, which a finding tells."""
    source = _source(tmp_path / "home")

    async def main() -> None:
        async with files.connect(path=tmp_path / "data") as connection, files.open_memory(connection) as store:
            await store.apply("ann", [PutFact(None, "f", {})])

    asyncio.run(main())
    records, found = asyncio.run(_exported(tmp_path / "data", import_from=source))
    assert [record["user_id"] for record in records] == ["ann"]
    assert any(line.startswith("info: nothing was imported") and "already" in line for line in found)


def test_later(tmp_path: Path) -> None:
    """Where DeerFlow has no memory yet nothing is noted: it is imported when it has one, and the store is empty."""
    (tmp_path / "home").mkdir()
    records, found = asyncio.run(_exported(tmp_path / "data", import_from=tmp_path / "home"))
    assert records == []
    assert any("there is no DeerFlow memory in it" in line for line in found)
    source = _source(tmp_path / "home")
    assert len(asyncio.run(_exported(tmp_path / "data", import_from=source))[0]) == 4


def test_damage_is_told_and_left(tmp_path: Path, look: Look, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read is logged once, found by check ever after, and left; all else is imported."""
    source = _source(tmp_path / "home")
    damaged = source / "users/bob/memory.json"
    damaged.write_text("{")
    before = look(source)
    with caplog.at_level(logging.WARNING, "deerflow_backends"):
        for _ in range(2):
            records, found = asyncio.run(_exported(tmp_path / "data", import_from=source))
            assert [record["user_id"] for record in records].count(None) == 2
            (line,) = [line for line in found if line.startswith("warning")]
            assert str(damaged) in line
    (logged,) = [record for record in caplog.records if record.message == "files_import_damaged"]
    assert vars(logged)["file"] == str(damaged)
    assert vars(logged)["reason"] in line
    assert look(source) == before


def test_a_passing_error_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment without file handles fails the opening, and leaves nothing: the next one imports everything."""
    source, data = _source(tmp_path / "home"), tmp_path / "data"

    def refuse(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    with monkeypatch.context() as patch:
        patch.setattr(places, "_open_no_link", refuse)
        with pytest.raises(BackendUnavailable, match=r"memory\.json cannot be read just now"):
            asyncio.run(_exported(data, import_from=source))
    assert not [path for path in data.glob("*/*") if path.name.startswith("import")]
    records, _ = asyncio.run(_exported(data, import_from=source))
    assert _ordered(records) == _ordered(_read(source))


def test_only_damage_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While nothing at all can be read nothing counts as imported: each opening says so, until it is mended."""
    source, data = _source(tmp_path / "home"), tmp_path / "data"
    whole = {path: path.read_bytes() for path in source.rglob("memory.json")}
    for path in whole:
        path.write_bytes(b"{")
    for _ in range(2):
        caplog.clear()
        records, _ = asyncio.run(_exported(data, import_from=source))
        assert records == []
        assert [record.message for record in caplog.records] == ["files_import_damaged"] * 4
    for path, content in whole.items():
        path.write_bytes(content)
    records, _ = asyncio.run(_exported(data, import_from=source))
    assert len(records) == 4


def test_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    """Half an import goes with the next opening, and an empty folder of a user keeps no memory out."""
    source, data = _source(tmp_path / "home"), tmp_path / "data"
    asyncio.run(_exported(data))
    store = Store.at(data / "deerflow")
    (store.root / "import" / "somebody").mkdir(parents=True)
    (store.root / "import-journals").mkdir()
    asyncio.run(_exported(data))
    assert sorted(path.name for path in store.root.iterdir()) == ["journals", "store.json", "users"]
    (store.users / user_name("ann")).mkdir()
    store.new(user_name("ann"), "folder").touch()
    records, _ = asyncio.run(_exported(data, import_from=source))
    assert len(records) == 4


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A folder to import from that does not exist is a mistake, and nothing is made."""
    with pytest.raises(ConfigError, match=r"import_from .*hmoe' is no folder"):
        asyncio.run(_exported(tmp_path / "data", import_from=tmp_path / "hmoe"))
    assert list(tmp_path.iterdir()) == []


def test_only_where_it_is_wanted(tmp_path: Path) -> None:
    """Importing is a step: named and not taken without migrating, taken by migrating."""
    source, data = _source(tmp_path / "home"), tmp_path / "data"
    steps = ["deerflow: folder", f"deerflow: import from {source}"]
    assert asyncio.run(files.migrate(data, "deerflow", import_from=source, apply=False)) == steps
    with pytest.raises(ConfigError, match="import from"):
        asyncio.run(_exported(data, import_from=source, migrate=False))
    assert not data.exists()
    assert asyncio.run(files.migrate(data, "deerflow", import_from=source, apply=True)) == steps
    assert asyncio.run(files.migrate(data, "deerflow", import_from=source, apply=True)) == []
    assert len(asyncio.run(_exported(data, import_from=source, migrate=False))[0]) == 4


#: Opens one new folder in eight processes at once, each with a change of its own.
BEGIN = """
import asyncio, os, sys
from deerflow_backends import files
from deerflow_backends.memories import PutFact
async def use(number):
    async with files.connect(path=sys.argv[1], import_from=sys.argv[2], timeout_seconds=60) as connection:
        async with files.open_memory(connection) as store:
            await store.apply("u", [PutFact(None, str(number), {})])
children = []
for number in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        asyncio.run(use(number))
        os._exit(0)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_many_processes_begin_at_once(tmp_path: Path) -> None:
    """Processes that open the same new folder at the same moment all succeed, and share one import and one memory."""
    source = _source(tmp_path / "home")
    wanted = _read(source)
    subprocess.run([sys.executable, "-W", "error", "-c", BEGIN, str(tmp_path / "data"), str(source)], check=True)
    records, found = asyncio.run(_exported(tmp_path / "data", import_from=source))
    assert f"info: 4 parts were imported from {source}" in found
    assert _ordered([record for record in records if record["user_id"] != "u"]) == _ordered(wanted)
    (own,) = [record for record in records if record["user_id"] == "u"]
    assert (own["user_revision"], len(own["facts"])) == (8, 8)
