"""The memory in files: what is in them, and what happens when they, the disk or another process fail."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import codec, files
from deerflow_backends.errors import BackendUnavailable, Closed, Corrupt
from deerflow_backends.files import journals
from deerflow_backends.files.layout import Store, part_file, user_name
from deerflow_backends.files.memories import FilesMemoryStore
from deerflow_backends.local_folders import write_file
from deerflow_backends.memories import DeleteFact, PutBody, PutFact


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[FilesMemoryStore]:
    async with files.connect(path=folder, **settings) as connection, files.open_memory(connection) as store:
        yield store


@pytest.fixture
def store_in(tmp_path: Path) -> Store:
    """Where the files of these tests are."""
    return Store.at(tmp_path / "deerflow")


def test_one_file_for_each_part(tmp_path: Path, store_in: Store) -> None:
    """A user's folder holds the user and one file a part, with the true ids inside; what is empty has no file."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.apply("Ann\0", [PutFact("a/b", "f", {"n": 1}), PutBody(None, {"n": 1})])
            folder = store_in.users / user_name("Ann\0")
            assert {path.name for path in folder.iterdir()} == {"user.json", part_file("a/b"), part_file(None)}
            assert codec.decode((folder / part_file("a/b")).read_bytes())["agent_name"] == "a/b"
            assert codec.decode((folder / "user.json").read_bytes())["user_id"] == "Ann\0"
            await store.apply("Ann\0", [DeleteFact("a/b", "f")])
            assert {path.name for path in folder.iterdir()} == {"user.json", part_file(None)}
            await store.erase("Ann\0")
            assert list(store_in.users.iterdir()) == list(store_in.journals.iterdir()) == []
            await store.erase("nobody")
            assert await store.clear("nobody") == 0
            await store.apply("nobody", [DeleteFact(None, "f")])
            assert list(store_in.users.iterdir()) == []

    asyncio.run(main())


def test_names_never_meet() -> None:
    """The shared user and the user-wide part have names that no identifier has, and neither case nor form folds."""
    odd = ["shared", "wide", "user", "imported", "store", "journals", "x" * 512, "\0", "/", "..", "A", "a"]
    odd += ["\u00c9", "E\u0301", "\u00e9"]
    for name in (user_name, part_file):
        found = {name(identifier) for identifier in [None, *odd]}
        assert len(found) == len(odd) + 1
        assert len({one.casefold() for one in found}) == len(found)
        assert not found & {"user.json", "imported.json"}


def test_a_file_in_the_wrong_place(tmp_path: Path, store_in: Store) -> None:
    """A file whose ids are not those of its place is Corrupt; other users and parts go on, and erase takes it away."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            for user_id in ("ann", "bob"):
                await store.apply(user_id, [PutFact("a", "f", {}), PutFact("b", "f", {})])
            ann, bob = (store_in.users / user_name(user_id) for user_id in ("ann", "bob"))
            (ann / part_file("b")).write_bytes((ann / part_file("a")).read_bytes())
            with pytest.raises(Corrupt, match="it is that of user 'ann', agent 'a'"):
                await store.load("ann", agent_name="b")
            assert len((await store.load("ann", agent_name="a")).facts) == 1
            (ann / "user.json").write_bytes((bob / "user.json").read_bytes())
            for call in (store.load("ann"), store.apply("ann", [PutBody(None, {"n": 1})]), store.clear("ann")):
                with pytest.raises(Corrupt, match="it is that of user 'bob'"):
                    await call
            assert (await store.load("bob", agent_name="a")).revision == 1
            await store.erase("ann")
            assert (await store.load("ann", agent_name="b")).revision == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (part_file("a"), lambda path: path.write_bytes(path.read_bytes()[:-9])),
        (part_file("a"), lambda path: path.write_bytes(b"")),
        (part_file("a"), lambda path: path.write_bytes(path.read_bytes().replace(b'"revision":1', b'"revision":"1"'))),
        (part_file("a"), lambda path: path.write_bytes(path.read_bytes().replace(b'"g"', b'"f"'))),
        (part_file("a"), Path.unlink),
        ("user.json", lambda path: path.write_bytes(b"[]")),
        ("user.json", Path.unlink),
    ],
)
def test_damage(tmp_path: Path, store_in: Store, name: str, damage: Callable[[Path], Any]) -> None:
    """A file that is damaged or gone is Corrupt and never read as a memory with less in it; nothing is changed."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.apply("ann", [PutFact("a", "f", {}), PutFact("a", "g", {})])
            damage(store_in.users / user_name("ann") / name)
            for call in (
                store.load("ann", agent_name="a"),
                store.get_fact("ann", "f", agent_name="a"),
                store.apply("ann", [PutFact("a", "f", {"n": 1})]),
            ):
                with pytest.raises(Corrupt, match="is damaged") as caught:
                    await call
                assert str(store_in.users / user_name("ann") / name) in str(caught.value)
            assert list(store_in.journals.iterdir()) == []

    asyncio.run(main())


def test_a_damaged_journal(tmp_path: Path, store_in: Store) -> None:
    """A journal that cannot be read is its user's trouble: the store opens, and all others go on."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.apply("ann", [PutFact(None, "f", {})])
        store_in.journal(user_name("ann")).write_text("{")
        async with opened(tmp_path) as store:
            for call in (store.load("ann"), store.apply("ann", [PutBody(None, {"n": 1})])):
                with pytest.raises(Corrupt, match=r"\.journal is damaged"):
                    await call
            assert (await store.apply("bob", [PutFact(None, "f", {})])).revision == 1

    asyncio.run(main())


def test_large(tmp_path: Path) -> None:
    """A value of 8 MiB and a memory of 10,000 facts are read as they were written, and changed."""

    async def main() -> None:
        async with opened(tmp_path, timeout_seconds=60) as store:
            value = {"content": "x" * (codec.MAX_BYTES - len('{"content":""}'))}
            await store.apply("ann", [PutFact("large", "f", value)])
            (fact,) = (await store.load("ann", agent_name="large")).facts
            assert fact.value == value
            await store.apply("ann", [PutFact(None, f"f{n:05}", {"content": f"fact {n}"}) for n in range(10_000)])
            await store.apply("ann", [PutFact(None, "f05000", {"content": "other"}), DeleteFact(None, "f00000")])
            memory = await store.load("ann")
            assert [fact.fact_id for fact in memory.facts] == [f"f{n:05}" for n in range(1, 10_000)]
            assert memory.facts[4_999].value == {"content": "other"}
            assert (await store.search("ann", "fact 9999", agent_name=None))[0].fact.fact_id == "f09999"

    asyncio.run(main())


@contextmanager
def _lock_held(folder: Path) -> Iterator[None]:
    """Another process locks a user's folder, as a writer does that is stopped."""
    program = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(handle, fcntl.LOCK_EX);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def test_a_lock_that_is_held(tmp_path: Path, store_in: Store) -> None:
    """While another process holds a user's lock, that user's calls fail in time, nothing written; others' go on."""

    async def main() -> None:
        async with opened(tmp_path, timeout_seconds=0.3) as store:
            for user_id in ("ann", "bob"):
                await store.apply(user_id, [PutFact(None, "f", {})])
            with _lock_held(store_in.users / user_name("ann")):
                writes = [store.apply("ann", [PutFact(None, str(n), {})]) for n in range(20)]
                late = asyncio.gather(*writes, store.load("ann"), store.erase("ann"), return_exceptions=True)
                await store.apply("bob", [PutFact(None, "f", {"n": 1})])
                for error in await late:
                    assert isinstance(error, BackendUnavailable)
                    assert not error.maybe_written
                    assert "nothing was written" in str(error)
                waiting = asyncio.create_task(store.apply("ann", [PutFact(None, "late", {})]))
                await asyncio.sleep(0.05)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert (await store.apply("ann", [PutFact(None, "g", {})])).revision == 2
            assert [fact.fact_id for fact in (await store.load("ann")).facts] == ["f", "g"]

    asyncio.run(main())


def test_closed_while_a_call_waits(tmp_path: Path, store_in: Store) -> None:
    """A call that still waits for a lock when the store is closed raises Closed, and nothing goes on."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.apply("ann", [PutFact(None, "f", {})])
        with _lock_held(store_in.users / user_name("ann")):
            async with opened(tmp_path) as store:
                waiting = asyncio.create_task(store.apply("ann", [PutFact(None, "g", {})]))
                await asyncio.sleep(0.05)
            with pytest.raises(Closed):
                await waiting
        async with opened(tmp_path) as store:
            assert (await store.load("ann")).revision == 1

    asyncio.run(main())


def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that has begun and does not end is reported in time as one that may happen; then it does, once.

    So with a cancelled one: it happens whole.
    """
    gate, fsync = threading.Event(), os.fsync

    def hanging(handle: int) -> None:
        gate.wait(20)
        fsync(handle)

    async def main() -> None:
        async with opened(tmp_path, timeout_seconds=0.2) as store:
            monkeypatch.setattr(os, "fsync", hanging)
            with pytest.raises(BackendUnavailable, match="may still happen") as caught:
                await store.apply("ann", [PutFact(None, "f", {}), PutFact("a", "f", {})])
            assert caught.value.maybe_written
            with pytest.raises(BackendUnavailable) as caught:
                await store.load("ann")
            assert not caught.value.maybe_written
            cancelled = asyncio.create_task(store.apply("bob", [PutFact(None, "f", {}), PutFact("a", "f", {})]))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            gate.set()
            monkeypatch.setattr(os, "fsync", fsync)
        async with opened(tmp_path) as store:
            for user_id in ("ann", "bob"):
                assert [(await store.load(user_id, agent_name=name)).revision for name in (None, "a")] == [1, 1]

    asyncio.run(main())


def test_a_disk_that_refuses(tmp_path: Path, store_in: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever sync or rename of a write fails: said to have written nothing, nothing is; else it is there whole."""

    async def main() -> None:
        outcomes: list[bool | None] = []
        for name in ("fsync", "rename"):
            for number in range(1, 20):
                user_id = f"{name} {number}"
                async with opened(tmp_path) as store:
                    await store.apply(user_id, [PutFact(None, "f", {"n": 0})])
                    with monkeypatch.context() as patch:
                        patch.setattr(os, name, _failing_at(number, getattr(os, name)))
                        changes = [PutFact(None, "f", {"n": 1}), PutFact("a", "f", {"n": 1})]
                        (error,) = await asyncio.gather(store.apply(user_id, changes), return_exceptions=True)
                    if isinstance(error, BackendUnavailable):
                        assert "No space left" in str(error)
                        outcomes.append(error.maybe_written)
                    else:
                        outcomes.append(None)
                    memory = await store.load(user_id)
                    both = [memory.facts[0].value["n"], len((await store.load(user_id, agent_name="a")).facts)]
                    assert both == ([0, 0] if outcomes[-1] is False else [1, 1])
                    assert memory.revision == both[0] + 1
                    if outcomes[-1] is None:
                        break
        assert {True, False, None} == set(outcomes)
        assert list(store_in.journals.iterdir()) == []

    asyncio.run(main())


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_disk_that_refuses_a_first_write(
    tmp_path: Path, store_in: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """So it is with a user's first write: what may have been written is seen at once, or never."""

    async def main() -> None:
        outcomes: list[bool | None] = []
        for number in range(1, 20):
            user_id = f"user {number}"
            async with opened(tmp_path) as store:
                with monkeypatch.context() as patch:
                    patch.setattr(os, name, _failing_at(number, getattr(os, name)))
                    change = PutFact(None, "f", {"n": 1})
                    (error,) = await asyncio.gather(store.apply(user_id, [change]), return_exceptions=True)
                outcomes.append(error.maybe_written if isinstance(error, BackendUnavailable) else None)
                assert (await store.load(user_id)).revision == (0 if outcomes[-1] is False else 1)
                assert (await store.apply(user_id, [change])).revision == 1
                if outcomes[-1] is None:
                    break
        assert {True, False, None} == set(outcomes)
        assert list(store_in.journals.iterdir()) == []

    asyncio.run(main())


def test_a_journal_that_comes_back(tmp_path: Path, store_in: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power loss the last journal may be there again: it touches nothing of a later write that never was."""
    path = store_in.journal(user_name("ann"))
    kept: list[bytes] = []
    finish = journals._finish

    class PowerLoss(BaseException):
        pass

    def kept_first(store: Store, user: str) -> None:
        kept.append(path.read_bytes())
        finish(store, user)

    def lost(target: Path, content: bytes) -> None:
        if target.name.endswith(".journal.new"):
            raise PowerLoss
        write_file(target, content)

    async def main() -> None:
        async with opened(tmp_path) as store:
            monkeypatch.setattr(journals, "_finish", kept_first)
            await store.apply("ann", [PutFact(None, "f", {"n": 1})])
            monkeypatch.setattr(journals, "write_file", lost)
            with pytest.raises(PowerLoss):
                await store.apply("ann", [PutFact("a", "g", {"n": 2})])
        monkeypatch.undo()
        path.write_bytes(kept[0])
        async with opened(tmp_path) as store:
            assert (await store.load("ann")).revision == 1
            assert await store.agents("ann") == []
        assert list(store_in.journals.iterdir()) == []

    asyncio.run(main())


def test_what_is_not_ours_locks_nobody_out(tmp_path: Path, store_in: Store) -> None:
    """A strange folder at a user's files: erasing says so and removes nothing, and everybody is served as before."""

    async def main() -> None:
        async with opened(tmp_path) as store:
            for user_id in ("ann", "bob"):
                await store.apply(user_id, [PutFact(None, "f", {})])
            strange = store_in.users / user_name("ann") / "old"
            strange.mkdir()
            with pytest.raises(Corrupt, match="old' is not of this backend; move it away"):
                await store.erase("ann")
        async with opened(tmp_path) as store:
            assert [(await store.load(user_id)).revision for user_id in ("ann", "bob")] == [1, 1]
            strange.rmdir()
            await store.erase("ann")
            assert (await store.load("ann")).revision == 0

    asyncio.run(main())


def _failing_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1, 1_000))

    def call(*arguments: Any) -> Any:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments)

    return call


def test_what_a_step_stands_on_is_synced_before_it(
    tmp_path: Path, store_in: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are synced before the journal counts, it before files move, and they before it goes (M10)."""
    events: list[tuple[str, str]] = []
    fsync, rename, unlink = os.fsync, os.rename, os.unlink
    journal = store_in.journal(user_name("ann"))
    folder = store_in.users / user_name("ann")

    def synced(handle: int) -> None:
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        events.append(("rename", str(source)))
        rename(source, target)

    def unlinked(path: Path) -> None:
        events.append(("unlink", str(path)))
        unlink(path)

    async def main() -> None:
        async with opened(tmp_path) as store:
            monkeypatch.setattr(os, "fsync", synced)
            monkeypatch.setattr(os, "rename", renamed)
            monkeypatch.setattr(os, "unlink", unlinked)
            await store.apply("ann", [PutFact(None, "f", {}), PutFact("a", "f", {})])

    asyncio.run(main())
    prepared = [place for event, place in events if event == "rename"]
    assert len(prepared) == 4
    decided = events.index(("rename", f"{journal}.new"))
    for place in prepared:
        assert ("sync", place) in events[:decided]
    assert ("sync", str(store_in.users)) in events[:decided]
    moved = [number for number, (event, place) in enumerate(events) if event == "rename" and number != decided]
    assert ("sync", str(store_in.journals)) in events[decided : min(moved)]
    assert ("sync", str(folder)) in events[max(moved) : events.index(("unlink", str(journal)))]
