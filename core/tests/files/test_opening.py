"""A folder that cannot be used is refused clearly, and stays as it is."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deerflow_backends import files, local_folders
from deerflow_backends.changes import StoredBody
from deerflow_backends.deerflow_folders import Layout, write_folder
from deerflow_backends.errors import BackendsError, ConfigError, Corrupt, PluginError
from deerflow_backends.memories import PutFact
from deerflow_backends.records import Part

Look = Callable[[Path], dict[str, tuple[bytes, int]]]


async def _use(folder: Path, namespace: str = "deerflow", *, migrate: bool = True) -> int:
    async with (
        files.connect(path=folder, namespace=namespace, migrate=migrate) as connection,
        files.open_memory(connection) as store,
    ):
        return (await store.apply("u", [PutFact("a", "f", {"n": os.urandom(8).hex()})])).revision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a memory in it."""
    asyncio.run(_use(tmp_path / "data"))
    return tmp_path / "data"


def _refused(folder: Path, look: Look, kind: type[BackendsError], *words: str) -> None:
    """Opening and migrating are refused with *kind*, in words that say why, and change nothing."""
    before = look(folder) if folder.is_dir() else {}
    for attempt in (
        lambda: _use(folder),
        lambda: files.migrate(folder, "deerflow", apply=True),
        lambda: files.migrate(folder, "deerflow", apply=False),
    ):
        with pytest.raises(kind) as caught:
            asyncio.run(attempt())
        assert type(caught.value) is kind
        for word in (*words, str(folder)):
            assert word in str(caught.value)
        assert (look(folder) if folder.is_dir() else {}) == before


def test_only_the_owner_may_read(folder: Path) -> None:
    """Folders have mode 0700 and files 0600, whatever the umask allows; a second opening goes on with what is there."""
    before = os.umask(0)
    try:
        assert asyncio.run(_use(folder)) == 2
        assert asyncio.run(_use(folder.parent / "new/parents/too")) == 1
    finally:
        os.umask(before)
    for top in (folder, folder.parent / "new"):
        modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in [top, *top.rglob("*")]}
        assert modes == {(True, 0o700), (False, 0o600)}


@pytest.mark.parametrize("layout", ["documents", "markdown"])
def test_a_folder_of_deerflow(tmp_path: Path, look: Look, layout: Layout) -> None:
    """A folder that a DeerFlow store uses is not ours to write in; the message says how to begin with its memory."""
    write_folder(tmp_path, [Part("bob", None, 1, 1_700_000_000_000_000, StoredBody(1, b'{"a":1}'), {})], layout=layout)
    _refused(tmp_path, look, ConfigError, "DeerFlow", "import_from")


@pytest.mark.parametrize("name", ["notes.txt", "users/bob/notes.txt", "store"])
def test_a_folder_with_something_else(tmp_path: Path, look: Look, name: str) -> None:
    """A namespace's folder that holds anything we did not put there is not ours."""
    (tmp_path / "deerflow" / name).parent.mkdir(parents=True)
    (tmp_path / "deerflow" / name).write_text("mine")
    _refused(tmp_path, look, ConfigError, "not of this backend", "choose another path or namespace")


def test_a_file_in_its_place(tmp_path: Path, look: Look) -> None:
    """Neither path nor namespace may be a file."""
    (tmp_path / "deerflow").touch()
    _refused(tmp_path, look, ConfigError, "no folder")
    _refused(tmp_path / "deerflow", look, ConfigError, "no folder")


def test_a_newer_version(folder: Path, look: Look) -> None:
    """A folder that newer code wrote asks for newer code; one of another program is not ours."""
    marker = folder / "deerflow/store.json"
    marker.write_text(marker.read_text().replace('"version":1', '"version":2'))
    _refused(folder, look, PluginError, "layout 2", "upgrade")
    marker.write_text('{"format":"theirs","version":1}')
    _refused(folder, look, ConfigError, "not of this backend")


def test_damage(folder: Path, look: Look) -> None:
    """A folder whose own file cannot be read, or that lost a part, is Corrupt."""
    shutil.rmtree(folder / "deerflow/journals")
    _refused(folder, look, Corrupt, "journals", "backup")
    (folder / "deerflow/store.json").write_text("{")
    _refused(folder, look, Corrupt, "damaged", "store.json")


@pytest.mark.parametrize("name", [".", "deerflow", "deerflow/users", "deerflow/journals"])
def test_a_folder_that_is_read_only(folder: Path, look: Look, name: str) -> None:
    """A folder that may not be written is found when opening, not at the first write."""
    (folder / name).chmod(0o500)
    try:
        _refused(folder, look, ConfigError, "read-only")
    finally:
        (folder / name).chmod(0o700)


def test_a_network_file_system(tmp_path: Path, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks do not hold between hosts nothing is made, parents neither."""
    monkeypatch.setattr(local_folders, "file_system", lambda folder: "nfs4")
    _refused(tmp_path / "a/b", look, ConfigError, "network file system (nfs4)")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_where_that_is_not_wanted(tmp_path: Path) -> None:
    """Without migrating an empty folder is refused, the remedy named, nothing made; a folder made before opens."""
    with pytest.raises(ConfigError, match=r"deerflow: folder.*deerflow-backends migrate"):
        asyncio.run(_use(tmp_path / "data", migrate=False))
    assert list(tmp_path.iterdir()) == []
    assert asyncio.run(files.migrate(tmp_path / "data", "deerflow", apply=False)) == ["deerflow: folder"]
    assert list(tmp_path.iterdir()) == []
    assert asyncio.run(files.migrate(tmp_path / "data", "deerflow", apply=True)) == ["deerflow: folder"]
    assert asyncio.run(files.migrate(tmp_path / "data", "deerflow", apply=True)) == []
    assert asyncio.run(_use(tmp_path / "data", migrate=False)) == 1


def test_a_folder_half_made(tmp_path: Path) -> None:
    """Whoever died while making the folder left nothing that keeps the next one from making it."""
    for name in ("users", "journals"):
        (tmp_path / "data/deerflow" / name).mkdir(parents=True)
    (tmp_path / "data/deerflow/journals/store.json.new").write_text("{")
    assert asyncio.run(_use(tmp_path / "data")) == 1


def test_namespaces_share_nothing(folder: Path) -> None:
    """Two namespaces in one folder are two memories, also where one's name begins with the other's."""
    assert asyncio.run(_use(folder, "deerflow_2")) == 1
    assert asyncio.run(_use(folder)) == 2
    with pytest.raises(ConfigError, match="namespace must match"):
        asyncio.run(_use(folder, "../users"))


def test_the_folder_vanishes(folder: Path) -> None:
    """A folder that is gone while in use is an outage, not an empty memory; back again, the same object goes on."""

    async def main() -> None:
        async with files.connect(path=folder) as connection, files.open_memory(connection) as store:
            folder.rename(folder.with_name("away"))
            for call in (store.load("u"), store.load("nobody"), store.ping(), store.apply("u", []), store.erase("u")):
                with pytest.raises(BackendsError, match="cannot be read or written") as caught:
                    await call
                assert not caught.value.maybe_written  # type: ignore[attr-defined]  # it is a BackendUnavailable
            folder.with_name("away").rename(folder)
            await store.ping()
            assert (await store.load("u")).revision == 1

    asyncio.run(main())
