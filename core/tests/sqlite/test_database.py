"""Two threads and a file: group commit, deadlines, failures, closing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import subprocess
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import sqlite
from deerflow_backends.blocking import in_thread
from deerflow_backends.errors import BackendUnavailable, Closed, ConfigError, Corrupt
from deerflow_backends.sqlite.database import Database, open_database
from deerflow_backends.sqlite.worker import Tuning

Child = Callable[[str], AbstractContextManager[subprocess.Popen[str]]]

#: Takes the write lock of the file and keeps it until its input ends.
LOCK = """
import sqlite3, sys
connection = sqlite3.connect({file!r}, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
connection.close()
"""

SECONDS = 30.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database with one table, in write-ahead mode."""
    path = tmp_path / "file.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    return path


@asynccontextmanager
async def opened(file: Path, tuning: Tuning = Tuning()) -> AsyncIterator[Database]:  # noqa: B008  # a frozen value
    async with open_database(file, tuning) as database:
        yield database


def put(a: int, b: Any = None) -> Callable[[sqlite3.Connection], int]:
    def job(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t (a, b) VALUES (:a, :b)", {"a": a, "b": b})
        return a

    return job


def stored(connection: sqlite3.Connection) -> list[int]:
    return [a for (a,) in connection.execute("SELECT a FROM t ORDER BY a")]


async def begun(database: Database, gate: threading.Event) -> asyncio.Task[None]:
    """Keep the writer busy until the gate opens; returns once it is."""
    busy = asyncio.Event()
    loop = asyncio.get_running_loop()

    def job(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(busy.set)
        gate.wait()

    task = asyncio.create_task(database.write(job, timeout_seconds=SECONDS))
    await busy.wait()
    return task


def test_what_waits_shares_one_transaction(file: Path) -> None:
    """Everything that gathered while the writer was busy is one commit."""

    async def main() -> None:
        commits: list[int] = []
        gate = threading.Event()

        def count(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(lambda statement: commits.append(1) if statement == "COMMIT" else None)

        async with opened(file) as database:
            await database.write(count, timeout_seconds=SECONDS)
            busy = await begun(database, gate)
            commits.clear()
            writes = [asyncio.create_task(database.write(put(a), timeout_seconds=SECONDS)) for a in range(100)]
            await asyncio.sleep(0)
            gate.set()
            await busy
            assert await asyncio.gather(*writes) == list(range(100))
            assert len(commits) == 2
            assert await database.read(stored, timeout_seconds=SECONDS) == list(range(100))

    asyncio.run(main())


def test_a_failure_undoes_only_itself(file: Path) -> None:
    """One call's exception is its caller's alone, and takes all of that call's changes back."""

    async def main() -> None:
        def half(connection: sqlite3.Connection) -> None:
            put(50)(connection)
            raise ValueError("half")

        async with opened(file) as database:
            results = await asyncio.gather(
                database.write(put(1), timeout_seconds=SECONDS),
                database.write(half, timeout_seconds=SECONDS),
                database.write(put(1), timeout_seconds=SECONDS),
                database.write(put(2), timeout_seconds=SECONDS),
                return_exceptions=True,
            )
            assert results[0] == 1
            assert isinstance(results[1], ValueError)
            assert isinstance(results[2], sqlite3.IntegrityError)
            assert results[3] == 2
            assert await database.read(stored, timeout_seconds=SECONDS) == [1, 2]

    asyncio.run(main())


def test_answers_come_after_the_commit(file: Path) -> None:
    """Who is answered finds the write through any connection, and the others' hooks were called in order."""

    async def main() -> None:
        order: list[int] = []

        async def one(database: Database, a: int) -> None:
            await database.write(put(a), timeout_seconds=SECONDS, on_commit=order.append)
            with contextlib.closing(sqlite3.connect(file)) as connection:
                assert a in stored(connection)

        async with opened(file) as database:
            await asyncio.gather(*(one(database, a) for a in range(50)))
        assert order == list(range(50))

    asyncio.run(main())


def test_reads_see_one_snapshot(file: Path) -> None:
    """What is committed while a read goes on is not seen by it (M11)."""

    async def main() -> None:
        async with opened(file) as database:
            looked, written = threading.Event(), threading.Event()

            def twice(connection: sqlite3.Connection) -> tuple[list[int], list[int]]:
                first = stored(connection)
                looked.set()
                written.wait()
                return first, stored(connection)

            reading = asyncio.create_task(database.read(twice, timeout_seconds=SECONDS))
            while not looked.is_set():
                await asyncio.sleep(0.001)
            await database.write(put(1), timeout_seconds=SECONDS)
            written.set()
            assert await reading == ([], [])
            assert await database.read(stored, timeout_seconds=SECONDS) == [1]

    asyncio.run(main())


def test_reads_cannot_write(file: Path) -> None:
    """The reader's connection refuses to write."""

    async def main() -> None:
        async with opened(file) as database:
            with pytest.raises(BackendUnavailable):
                await database.read(put(1), timeout_seconds=SECONDS)
            assert await database.read(stored, timeout_seconds=SECONDS) == []

    asyncio.run(main())


def test_another_process_holds_the_lock(file: Path, child: Child) -> None:
    """A write waits no longer than its timeout, says that nothing was written, and never happens afterwards (G7)."""

    async def main() -> None:
        async with opened(file) as database:
            with child(LOCK.format(file=str(file))) as locker:
                with pytest.raises(BackendUnavailable, match="nothing was written") as caught:
                    await database.write(put(1), timeout_seconds=0.2)
                assert not caught.value.maybe_written
                assert await database.read(stored, timeout_seconds=SECONDS) == []
                waiting = asyncio.create_task(database.write(put(2), timeout_seconds=SECONDS))
                await asyncio.sleep(0.1)
                assert not waiting.done()
                assert locker.stdin is not None
                locker.stdin.close()
                assert await waiting == 2
            assert await database.read(stored, timeout_seconds=SECONDS) == [2]

    asyncio.run(main())


def test_a_begun_write_may_happen(file: Path) -> None:
    """Who gives up while its write is being done is told that it may happen; those behind it, that theirs did not."""

    async def main() -> None:
        gate = threading.Event()

        def slow(connection: sqlite3.Connection) -> None:
            gate.wait()
            put(1)(connection)

        async with opened(file) as database:
            first = asyncio.create_task(database.write(slow, timeout_seconds=0.2))
            await asyncio.sleep(0.05)
            behind = asyncio.create_task(database.write(put(2), timeout_seconds=0.1))
            with pytest.raises(BackendUnavailable) as caught:
                await behind
            assert not caught.value.maybe_written
            with pytest.raises(BackendUnavailable, match="may still happen") as caught:
                await first
            assert caught.value.maybe_written
            gate.set()
            await database.write(put(3), timeout_seconds=SECONDS)
            assert await database.read(stored, timeout_seconds=SECONDS) == [1, 3]

    asyncio.run(main())


def test_a_cancelled_write_that_has_not_begun_never_does(file: Path) -> None:
    """Cancelling a queued write skips it; a begun one happens whole, and its hook is called (G8)."""

    async def main() -> None:
        gate = threading.Event()
        async with opened(file) as database:
            busy = await begun(database, gate)
            queued = asyncio.create_task(database.write(put(1), timeout_seconds=SECONDS))
            await asyncio.sleep(0)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            busy.cancel()
            with pytest.raises(asyncio.CancelledError):
                await busy
            gate.set()
            heard: list[int] = []
            late = asyncio.create_task(database.write(put(2), timeout_seconds=SECONDS, on_commit=heard.append))
            await late
            assert heard == [2]
            assert await database.read(stored, timeout_seconds=SECONDS) == [2]

    asyncio.run(main())


def test_closing_does_what_was_accepted(file: Path) -> None:
    """Leaving waits for the writes under way, and leaves no thread and no open file (G9)."""

    async def main() -> list[int]:
        async with opened(file) as database:
            await database.read(stored, timeout_seconds=SECONDS)
            writes = [asyncio.create_task(database.write(put(a), timeout_seconds=SECONDS)) for a in range(100)]
            await asyncio.sleep(0)
        return await asyncio.gather(*writes)

    gc.collect()
    threads, handles = threading.active_count(), len(os.listdir("/proc/self/fd"))
    assert asyncio.run(main()) == list(range(100))
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, handles)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert stored(connection) == list(range(100))


def test_closing_under_a_lock_ends(file: Path, child: Child) -> None:
    """While another process holds the lock, closing takes as long as the last deadline; cancelled, no longer."""

    async def main() -> None:
        with child(LOCK.format(file=str(file))):
            async with opened(file) as database:
                waiting = asyncio.create_task(database.write(put(1), timeout_seconds=0.2))
                await asyncio.sleep(0)
            with pytest.raises(BackendUnavailable):
                await waiting

            async def use() -> None:
                async with opened(file) as database:
                    await database.write(put(2), timeout_seconds=1_000.0)

            closing = asyncio.create_task(use())
            await asyncio.sleep(0.1)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert stored(connection) == []


def test_damage_under_our_feet(file: Path) -> None:
    """Damage found while reading is Corrupt, every time, and no thread dies of it."""

    async def main() -> None:
        async with opened(file) as database:
            await database.write(
                lambda connection: [put(a, "x" * 500)(connection) for a in range(200)], timeout_seconds=SECONDS
            )
        content = bytearray(file.read_bytes())
        content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
        file.write_bytes(content)
        async with opened(file) as database:
            for _ in range(3):
                with pytest.raises(Corrupt, match="damaged"):
                    await database.read(stored, timeout_seconds=SECONDS)
                with pytest.raises(Corrupt, match="damaged"):
                    await database.write(put(150), timeout_seconds=SECONDS)

    asyncio.run(main())


def test_a_full_disk(file: Path) -> None:
    """A write that does not fit fails as BackendUnavailable; smaller ones, and reads, go on."""

    async def main() -> None:
        def limit(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + 10}").fetchall()

        async with opened(file) as database:
            await database.write(limit, timeout_seconds=SECONDS)
            results = await asyncio.gather(
                database.write(put(1), timeout_seconds=SECONDS),
                database.write(put(2, "x" * 1_000_000), timeout_seconds=SECONDS),
                database.write(put(3), timeout_seconds=SECONDS),
                return_exceptions=True,
            )
            assert isinstance(results[1], BackendUnavailable)
            assert "full disk" in str(results[1])
            for result, a in ((results[0], 1), (results[2], 3)):
                if isinstance(result, BackendUnavailable):  # undone together with the one that failed
                    assert not result.maybe_written
                    await database.write(put(a), timeout_seconds=SECONDS)
            assert await database.read(stored, timeout_seconds=SECONDS) == [1, 3]

    asyncio.run(main())


def test_it_comes_back_by_itself(file: Path) -> None:
    """While the file is away calls fail; when it is back the same object works again (G7)."""

    async def main() -> None:
        away = file.with_name("away")
        async with opened(file) as database:
            file.rename(away)
            for _ in range(2):
                with pytest.raises(BackendUnavailable):
                    await database.write(put(1), timeout_seconds=SECONDS)
                with pytest.raises(BackendUnavailable):
                    await database.read(stored, timeout_seconds=SECONDS)
            away.rename(file)
            assert await database.write(put(1), timeout_seconds=SECONDS) == 1
            assert await database.read(stored, timeout_seconds=SECONDS) == [1]

    asyncio.run(main())


def test_missing_tables_are_a_matter_of_configuration(file: Path) -> None:
    """A file without the table asked for says how to make it."""

    async def main() -> None:
        async with opened(file) as database:
            with pytest.raises(ConfigError, match="migrate"):
                await database.read(lambda c: c.execute("SELECT * FROM missing").fetchall(), timeout_seconds=SECONDS)

    asyncio.run(main())


def test_work_is_counted(file: Path) -> None:
    """With count_work a scan costs as much as it reads."""

    async def main() -> None:
        async with opened(file, Tuning(count_work=True)) as database:
            await database.write(lambda c: [put(a)(c) for a in range(1_000)], timeout_seconds=SECONDS)
            before = database.work
            await database.read(stored, timeout_seconds=SECONDS)
            assert database.work - before >= 1_000
            before = database.work
            await database.read(lambda c: c.execute("SELECT b FROM t WHERE a = 7").fetchall(), timeout_seconds=SECONDS)
            assert database.work - before < 100

    asyncio.run(main())


def test_a_thread_for_a_moment() -> None:
    """What blocks is done aside, its outcome is the caller's, and the thread is gone, after a cancellation too."""

    async def main() -> None:
        before = threading.active_count()
        assert await in_thread("aside", threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await in_thread("aside", lambda: 1 // 0)
        assert threading.active_count() == before

        gate = threading.Event()
        task = asyncio.create_task(in_thread("aside", gate.wait))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threading.active_count() == before

    asyncio.run(main())


def test_each_object_belongs_to_its_loop_and_its_block(tmp_path: Path) -> None:
    """Used after its block, or from another loop, every capability raises Closed."""

    async def main() -> tuple[Any, ...]:
        async with (
            sqlite.connect(path=tmp_path) as connection,
            sqlite.open_stream_bridge(connection) as bridge,
            sqlite.open_memory(connection) as store,
            sqlite.open_thread_index(connection) as index,
            sqlite.open_counters(connection) as counters,
        ):
            opened = (bridge, store, index, counters)
            for capability in opened:
                await capability.ping()
                with pytest.raises(Closed):
                    await in_thread("other loop", partial(asyncio.run, capability.ping()))
        for capability in opened:
            with pytest.raises(Closed):
                await capability.ping()
        return opened

    asyncio.run(main())


def test_a_herd_of_reads_is_answered_in_portions(file: Path) -> None:
    """The first of very many reads has its answer before the last begins, so none holds up or keeps them all (G7)."""

    async def main() -> None:
        answered = threading.Event()
        waited: list[bool] = []
        async with opened(file) as database:
            first = asyncio.create_task(database.read(stored, timeout_seconds=SECONDS))
            first.add_done_callback(lambda _task: answered.set())
            more = [asyncio.create_task(database.read(stored, timeout_seconds=SECONDS)) for _ in range(200)]

            def look(_connection: sqlite3.Connection) -> None:
                waited.append(answered.wait(10))

            last = asyncio.create_task(database.read(look, timeout_seconds=SECONDS))
            await asyncio.gather(first, *more, last)
        assert waited == [True]

    asyncio.run(main())


def test_calls_that_gave_up_are_not_kept(file: Path, child: Child) -> None:
    """While another process holds the lock, what nobody waits for any more is freed, others waiting or not."""

    async def main() -> None:
        async with opened(file) as database:
            with child(LOCK.format(file=str(file))):
                waiting = asyncio.create_task(database.write(put(0), timeout_seconds=SECONDS))
                job = put(1)
                kept = weakref.ref(job)
                with pytest.raises(BackendUnavailable, match="nothing was written"):
                    await database.write(job, timeout_seconds=0.2)
                del job
                for _ in range(100):
                    gc.collect()
                    if kept() is None:
                        break
                    await asyncio.sleep(0.05)
                assert kept() is None
            assert await waiting == 0
            assert await database.read(stored, timeout_seconds=SECONDS) == [0]

    asyncio.run(main())


def test_a_long_read_does_not_take_the_answers_of_others(file: Path) -> None:
    """Each read is answered when it is done: one that takes too long fails alone (G7)."""

    async def main() -> None:
        gate = threading.Event()

        def stuck(_connection: sqlite3.Connection) -> None:
            gate.wait()

        async with opened(file) as database:
            quick = [asyncio.create_task(database.read(stored, timeout_seconds=SECONDS)) for _ in range(5)]
            late = asyncio.create_task(database.read(stuck, timeout_seconds=0.3))
            try:
                assert await asyncio.wait_for(asyncio.gather(*quick), 20) == [[]] * 5
                with pytest.raises(BackendUnavailable, match="nothing was written"):
                    await late
            finally:
                gate.set()

    asyncio.run(main())


def test_leaving_while_cancelled_stays_cancelled(tmp_path: Path) -> None:
    """A cancellation that waits when a connection is left is not swallowed by closing it (G8)."""

    async def use() -> None:
        async with sqlite.connect(path=tmp_path / "data") as connection, sqlite.open_stream_bridge(connection):
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
        raise AssertionError("the cancellation was swallowed")

    async def main() -> None:
        task = asyncio.create_task(use())
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
