"""A file that cannot be used is refused clearly, and stays as it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deerflow_backends import local_folders, sqlite
from deerflow_backends.backends import plan
from deerflow_backends.configuration import load_configuration
from deerflow_backends.errors import BackendsError, ConfigError, Corrupt, PluginError
from deerflow_backends.sqlite import layout
from deerflow_backends.threads import NewThread

BytesOf = Callable[[Path], dict[str, bytes]]

#: Makes a file with some content and dies without closing it, so that a write-ahead log is left.
DIE = """
import asyncio, os, signal, sqlite3, sys
from deerflow_backends import local_folders, sqlite
from deerflow_backends.memories import PutFact
async def main(folder):
    async with sqlite.connect(path=folder) as connection, sqlite.open_memory(connection) as store:
        await store.apply("u", [PutFact(None, f"f{i}", {"content": "x" * 2000}) for i in range(50)])
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main(sys.argv[1]))
"""


async def _fill(folder: Path) -> None:
    async with sqlite.connect(path=folder) as connection, sqlite.open_thread_index(connection) as index:
        for number in range(50):
            await index.create(NewThread(f"t{number}", "u", metadata={"text": "x" * 2000}))


async def _open(folder: Path) -> None:
    async with sqlite.connect(path=folder) as connection, sqlite.open_memory(connection):
        pass


def _die(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIE, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a sound file of ours."""
    asyncio.run(_fill(tmp_path / "data"))
    return tmp_path / "data"


def _refused(folder: Path, bytes_of: BytesOf, kind: type[BackendsError], *words: str) -> None:
    """Opening and migrating are refused with *kind*, in words that say why, and change nothing."""
    before = bytes_of(folder)
    for attempt in (
        lambda: _open(folder),
        lambda: sqlite.migrate(folder, "deerflow", {"memory"}, apply=True),
        lambda: sqlite.migrate(folder, "deerflow", {"memory"}, apply=False),
    ):
        with pytest.raises(kind) as caught:
            asyncio.run(attempt())
        assert type(caught.value) is kind
        for word in (*words, str(folder)):
            assert word in str(caught.value)
        assert bytes_of(folder) == before


def test_damage(folder: Path, bytes_of: BytesOf) -> None:
    """A file with a page of garbage is Corrupt."""
    file = folder / "deerflow.sqlite3"
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 9] = b"\xa5" * 4096 * 6
    file.write_bytes(content)
    _refused(folder, bytes_of, Corrupt, "damaged", "backup")


def test_cut_off(folder: Path, bytes_of: BytesOf) -> None:
    """A file that lost its end is Corrupt."""
    file = folder / "deerflow.sqlite3"
    os.truncate(file, file.stat().st_size - 3 * 4096)
    _refused(folder, bytes_of, Corrupt, "damaged")


@pytest.mark.parametrize("content", [b"no database at all " * 300, b"short"])
def test_no_database(tmp_path: Path, bytes_of: BytesOf, content: bytes) -> None:
    """A file that is no database is Corrupt."""
    (tmp_path / "deerflow.sqlite3").write_bytes(content)
    _refused(tmp_path, bytes_of, Corrupt, "not a database")


def test_an_empty_file(tmp_path: Path, bytes_of: BytesOf) -> None:
    """An empty file is not ours, since nobody ever sees ours half made."""
    (tmp_path / "deerflow.sqlite3").touch()
    _refused(tmp_path, bytes_of, ConfigError, "is not a file of this backend")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_somebody_elses(tmp_path: Path, bytes_of: BytesOf, mode: str) -> None:
    """A database of another program is not ours."""
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
    _refused(tmp_path, bytes_of, ConfigError, "is not a file of this backend", "choose another path or namespace")


def test_somebody_elses_in_use(tmp_path: Path, bytes_of: BytesOf) -> None:
    """A database that another program has open, with its log, is not ours and is not disturbed."""
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow.sqlite3")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
        _refused(tmp_path, bytes_of, ConfigError, "is not a file of this backend")
        assert connection.execute("SELECT * FROM theirs").fetchall() == []


def test_the_other_file_of_ours(folder: Path, bytes_of: BytesOf) -> None:
    """The file of the streams under the name of the other one is not taken for it."""

    async def streams() -> None:
        async with sqlite.connect(path=folder) as connection, sqlite.open_stream_bridge(connection) as bridge:
            await bridge.publish("r", "e", 1)

    asyncio.run(streams())
    shutil.copy(folder / "deerflow-streams.sqlite3", folder / "deerflow.sqlite3")
    _refused(folder, bytes_of, ConfigError, "is not a file of this backend")


def test_a_newer_layout(folder: Path, bytes_of: BytesOf) -> None:
    """A file of a newer version asks for an upgrade."""
    with contextlib.closing(sqlite3.connect(folder / "deerflow.sqlite3")) as connection:
        connection.execute(f"PRAGMA user_version = {layout.VERSION + 1}")
    _refused(folder, bytes_of, PluginError, "upgrade deerflow-backends")


def test_a_newer_layout_in_the_log(tmp_path: Path, bytes_of: BytesOf) -> None:
    """The newer version's mark is found in the log of a process that died, too."""
    _die(tmp_path)
    source = (
        "import os, signal, sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "connection.execute(sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    pragma = f"PRAGMA user_version = {layout.VERSION + 1}"
    subprocess.run([sys.executable, "-c", source, str(tmp_path / "deerflow.sqlite3"), pragma], check=False)
    assert (tmp_path / "deerflow.sqlite3-wal").stat().st_size > 0
    _refused(tmp_path, bytes_of, PluginError, "upgrade deerflow-backends")


def test_damage_under_a_log(tmp_path: Path, bytes_of: BytesOf) -> None:
    """Damage is found where a process died, too, and file, log and shared memory stay as they were."""
    asyncio.run(_fill(tmp_path))
    _die(tmp_path)
    file = tmp_path / "deerflow.sqlite3"
    content = bytearray(file.read_bytes())
    content[4096 * 8 : 4096 * 20] = b"\xa5" * 4096 * 12
    file.write_bytes(content)
    assert set(bytes_of(tmp_path)) == {f"deerflow.sqlite3{suffix}" for suffix in ("", "-wal", "-shm")}
    _refused(tmp_path, bytes_of, Corrupt, "damaged")


def test_what_a_death_left_is_fine(tmp_path: Path) -> None:
    """A file whose last user died opens, with everything acknowledged."""

    async def load() -> int:
        async with sqlite.connect(path=tmp_path) as connection, sqlite.open_memory(connection) as store:
            return len((await store.load("u")).facts)

    _die(tmp_path)
    assert asyncio.run(load()) == 50


def test_read_only_file(folder: Path, bytes_of: BytesOf) -> None:
    """A file that nobody may write is refused, to the superuser as well."""
    (folder / "deerflow.sqlite3").chmod(0o444)
    _refused(folder, bytes_of, ConfigError, "read-only", "make it writable")


def test_read_only_folder(folder: Path, bytes_of: BytesOf) -> None:
    """A folder that nobody may write is refused, to the superuser as well."""
    folder.chmod(0o555)
    try:
        _refused(folder, bytes_of, ConfigError, "read-only", "make it writable")
    finally:
        folder.chmod(0o755)


def test_a_folder_in_its_place(tmp_path: Path, bytes_of: BytesOf) -> None:
    """A folder of the file's name is refused."""
    (tmp_path / "deerflow.sqlite3").mkdir()
    _refused(tmp_path, bytes_of, ConfigError, "is no file")


def test_a_file_in_the_folders_place(tmp_path: Path, bytes_of: BytesOf) -> None:
    """A path that is a file is refused."""
    (tmp_path / "data").write_bytes(b"something")
    _refused(tmp_path / "data", bytes_of, ConfigError, "is no folder")
    assert (tmp_path / "data").read_bytes() == b"something"


def test_no_such_folder(tmp_path: Path, bytes_of: BytesOf) -> None:
    """A path whose parent is missing is refused; nothing is made."""
    _refused(tmp_path / "missing" / "data", bytes_of, ConfigError, "does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("namespace", ["", "A", "a-streams", "../a", "a/b", "a.b", "1a", "ä", "a" * 49])
def test_bad_namespace(tmp_path: Path, namespace: str) -> None:
    """A namespace that could name another's file, or lead elsewhere, is refused; nothing is made."""

    async def open_it() -> None:
        async with sqlite.connect(path=tmp_path, namespace=namespace) as connection, sqlite.open_memory(connection):
            pass

    with pytest.raises(ConfigError, match="namespace"):
        asyncio.run(open_it())
    assert list(tmp_path.iterdir()) == []


def test_network_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on a network file system that can be recognised is refused; nothing is made."""
    share = tmp_path / "a share"
    (share / "local").mkdir(parents=True)
    mounts = tmp_path / "mounts"
    escaped = str(share).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/x {escaped} nfs4 rw 0 0\ntmpfs {escaped}/local tmpfs rw 0 0\n")
    assert local_folders.file_system(tmp_path, mounts) == "ext4"
    assert local_folders.file_system(share / "local", mounts) == "tmpfs"
    assert local_folders.file_system(share, tmp_path / "none") is None
    monkeypatch.setattr(local_folders, "file_system", lambda folder: "nfs4")
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\)"):
        asyncio.run(_open(share))
    assert list(share.iterdir()) == [share / "local"]


def test_old_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python with a SQLite that is too old is told so before anything is made."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(PluginError, match="or newer"):
        asyncio.run(_open(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_chosen_is_made(tmp_path: Path) -> None:
    """A capability makes its own file and tables, no others; the folder holds nothing else after closing."""
    asyncio.run(_open(tmp_path / "data"))
    file = tmp_path / "data" / "deerflow.sqlite3"
    assert list((tmp_path / "data").iterdir()) == [file]
    with contextlib.closing(sqlite3.connect(file)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {layout.STEPS_TABLE, *layout.TABLES_OF["memory"]}


def test_two_namespaces_share_nothing(tmp_path: Path) -> None:
    """What is written in one namespace is not seen in another (G4)."""

    async def main() -> None:
        async with (
            sqlite.connect(path=tmp_path, namespace="a") as one,
            sqlite.connect(path=tmp_path, namespace="a_streams") as other,
            sqlite.open_stream_bridge(one) as here,
            sqlite.open_stream_bridge(other) as there,
        ):
            await here.publish("r", "e", 1)
            assert not await there.stream_exists("r")

    asyncio.run(main())


def test_twenty_at_once(tmp_path: Path) -> None:
    """Twenty processes that open an empty folder at once all succeed, and nothing is made twice or left half."""
    source = """
import asyncio, os, sys
from contextlib import AsyncExitStack
from deerflow_backends import local_folders, sqlite
async def main(folder):
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(sqlite.connect(path=folder, timeout_seconds=60))
        bridge = await stack.enter_async_context(sqlite.open_stream_bridge(connection))
        counters = await stack.enter_async_context(sqlite.open_counters(connection))
        await bridge.publish("r", "e", 1)
        await counters.record("m", calls=1)
reading, writing = os.pipe()
for _ in range(20):
    if os.fork() == 0:
        os.close(writing)
        os.read(reading, 1)  # returns when the parent closes its end: all begin together
        asyncio.run(main(sys.argv[1]))
        sys.exit()
os.close(writing)
sys.exit(any(os.wait()[1] for _ in range(20)))
"""
    program = [sys.executable, "-W", "error", "-c", source, str(tmp_path / "data")]
    assert subprocess.run(program, check=False).returncode == 0

    async def look() -> None:
        async with (
            sqlite.connect(path=tmp_path / "data", migrate=False) as connection,
            sqlite.open_stream_bridge(connection) as bridge,
            sqlite.open_counters(connection) as counters,
        ):
            status = await bridge.status("r")
            assert status is not None
            assert status.length == 20
            assert (await counters.totals("m")).calls == 20

    asyncio.run(look())
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "deerflow-streams.sqlite3",
        "deerflow.sqlite3",
    ]


def test_what_the_dead_left_while_opening_is_removed(tmp_path: Path) -> None:
    """The temporary folder of a process that died while opening does not stay; that of a living one does."""
    for name, age_seconds in (("old", 3600), ("new", 0)):
        left = tmp_path / f".deerflow.sqlite3-{name}"
        left.mkdir()
        (left / "deerflow.sqlite3").write_bytes(b"half")
        os.utime(left, (left.stat().st_mtime - age_seconds,) * 2)
    asyncio.run(_open(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"deerflow.sqlite3", ".deerflow.sqlite3-new"}


def test_a_death_in_the_middle_of_a_checkpoint_is_fine(tmp_path: Path) -> None:
    """A file whose first page is already that of the log, and the rest is not, opens with all that was acknowledged."""
    _die(tmp_path / "data")
    dead, whole = tmp_path / "data" / "deerflow.sqlite3", tmp_path / "whole.sqlite3"
    shutil.copy(dead, whole)
    shutil.copy(f"{dead}-wal", f"{whole}-wal")
    with contextlib.closing(sqlite3.connect(whole)) as connection:
        connection.execute("PRAGMA wal_checkpoint(FULL)")
    with whole.open("rb") as checkpointed, dead.open("r+b") as stopped:
        stopped.write(checkpointed.read(4096))  # what a checkpoint writes first: it names more pages than there are

    async def count() -> int:
        async with sqlite.connect(path=tmp_path / "data") as connection, sqlite.open_memory(connection) as store:
            return len((await store.load("u")).facts)

    assert asyncio.run(count()) == 50


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    """What users said is not readable by every account of the host, whatever the umask; its log neither."""
    before = os.umask(0o022)
    try:
        _die(tmp_path / "data")
    finally:
        os.umask(before)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o600}


@pytest.mark.parametrize("path", ["", "  ", "~/data", "${DATA}", "$DATA/x", "redis://user:secret@host"])
def test_paths_that_would_be_another_folder(path: str) -> None:
    """No empty text, no unexpanded variable or home, no URL: each would silently be a folder nobody meant."""
    with pytest.raises(ConfigError, match=r"connections\.sqlite\.path.*must name a folder") as caught:
        plan(load_configuration({"memory": "sqlite", "connections": {"sqlite": {"path": path}}}))
    assert "secret" not in str(caught.value)
