"""What is particular to streams in SQLite: incarnations, other processes, lazily judged time, bounded sweeping."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import sqlite
from deerflow_backends.cursors import EventId, parse_cursor
from deerflow_backends.errors import Closed, StreamEnded
from deerflow_backends.sqlite import stream_tables, watching
from deerflow_backends.sqlite.checking import owned
from deerflow_backends.sqlite.connection import SPARE_PAGES
from deerflow_backends.sqlite.streams import SqliteStreamBridge
from deerflow_backends.streams import END_SENTINEL, StreamEvent, StreamGap, StreamItem, StreamOptions

Child = Callable[[str], AbstractContextManager[subprocess.Popen[str]]]

SECOND = 1_000_000


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def opened(
    folder: Path, options: StreamOptions | None = None, **connection: Any
) -> AsyncIterator[SqliteStreamBridge]:
    async with (
        sqlite.connect(path=folder, **connection) as connected,
        sqlite.open_stream_bridge(connected, options) as bridge,
    ):
        yield bridge


async def everything(bridge: SqliteStreamBridge, run_id: str, cursor: str | None = None) -> list[StreamItem]:
    """Read until the stream says that it is over, or has nothing more."""
    found: list[StreamItem] = []
    subscription = bridge.hub.subscribe(run_id, last_event_id=cursor, heartbeat_interval=0.3)
    async for item in subscription:
        if isinstance(item, StreamEvent) and item.event == "__heartbeat__":
            break
        found.append(item)
    await subscription.aclose()
    return found


def identity(text: str) -> EventId:
    found = parse_cursor(text)
    assert isinstance(found, EventId)
    return found


def test_another_incarnation_raises_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart of the host seq goes on in a higher epoch, and every id, old and new, still resumes (S2)."""

    async def main() -> None:
        monkeypatch.setattr("deerflow_backends.sqlite.streams.incarnation", lambda: "before")
        clock = Clock()
        async with opened(tmp_path, clock=clock) as bridge:
            ids = [await bridge.publish("r", "e", number) for number in range(2)]
        monkeypatch.setattr("deerflow_backends.sqlite.streams.incarnation", lambda: "after")
        async with opened(tmp_path, clock=clock) as bridge:
            ids += [await bridge.publish("r", "e", number) for number in range(2, 4)]
            assert [identity(i).seq for i in ids] == [1, 2, 3, 4]
            epochs = [identity(i).epoch for i in ids]
            assert epochs[0] == epochs[1] < epochs[2] == epochs[3]
            for place, cursor in enumerate(ids):
                rest = await everything(bridge, "r", cursor)
                assert [item.id for item in rest if isinstance(item, StreamEvent)] == ids[place + 1 :]
            assert await everything(bridge, "r", f"{epochs[0]}-3") == [StreamGap(f"{epochs[0]}-3", ids[0], ids[3])]
            status = await bridge.status("r")
            assert status is not None
            assert (status.earliest_id, status.latest_id, status.length) == (ids[0], ids[3], 4)

    asyncio.run(main())


def test_the_incarnation_is_the_hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the kernel's boot id, and constant where there is none."""
    assert stream_tables.incarnation() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    monkeypatch.setattr(stream_tables, "_BOOT_ID", tmp_path / "none")
    assert stream_tables.incarnation() == "unknown"


ODD = ["a\0b", "\0", "a\0", "A", "Ä", "A\u0308", "%", "_", "'; DROP TABLE heads; --", "🦌"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_names(tmp_path: Path, odd: str) -> None:
    """Names with U+0000 and other odd ones are told apart and come back as they were (G1)."""

    async def main() -> None:
        async with opened(tmp_path) as bridge:
            for run_id in ("a", "b", odd, odd + "\0", odd + "a"):
                await bridge.publish(run_id, odd, {"odd": run_id})
                await bridge.publish_end(run_id)
        async with opened(tmp_path) as bridge:
            for run_id in ("b", odd, odd + "\0", odd + "a"):
                *events, end = await everything(bridge, run_id)
                assert end is END_SENTINEL
                data = [(item.event, item.data) for item in events if isinstance(item, StreamEvent)]
                assert data[-1] == (odd, {"odd": run_id})
                await bridge.cleanup(run_id)
                assert not await bridge.stream_exists(run_id)

    asyncio.run(main())


def test_another_process_wakes_us(tmp_path: Path, child: Child) -> None:
    """Events, END and cleanup by another process reach waiting subscribers, in order, none twice (S3, S14)."""
    source = f"""
import asyncio, sys
from deerflow_backends import sqlite
async def main():
    async with sqlite.connect(path={str(tmp_path)!r}) as connection, sqlite.open_stream_bridge(connection) as bridge:
        print("ready", flush=True)
        for line in sys.stdin:
            what, run_id, number = line.split()
            if what == "publish":
                await bridge.publish(run_id, "theirs", int(number))
            elif what == "end":
                await bridge.publish_end(run_id)
            else:
                await bridge.cleanup(run_id)
            print("done", flush=True)
asyncio.run(main())
"""

    async def main() -> None:
        async with opened(tmp_path) as bridge:
            with child(source) as process:

                async def tell(line: str) -> None:
                    assert process.stdin is not None
                    assert process.stdout is not None
                    process.stdin.write(line + "\n")
                    process.stdin.flush()
                    assert await asyncio.to_thread(process.stdout.readline) == "done\n"

                subscription = bridge.subscribe("r")
                for number in range(0, 20, 2):
                    await tell(f"publish r {number}")
                    own = await bridge.publish("r", "ours", number + 1)
                    theirs, ours = await anext(subscription), await anext(subscription)
                    assert isinstance(theirs, StreamEvent)
                    assert (theirs.event, theirs.data) == ("theirs", number)
                    assert ours == StreamEvent(own, "ours", number + 1)
                waiting = asyncio.ensure_future(anext(subscription))
                await asyncio.sleep(0.1)  # the watcher has slowed down
                await tell("publish r 99")
                item = await asyncio.wait_for(waiting, 15)
                assert isinstance(item, StreamEvent)
                assert item.data == 99
                cleaned = asyncio.ensure_future(everything(bridge, "cleaned"))
                await tell("publish cleaned 1")
                await tell("end r 0")
                assert await asyncio.wait_for(anext(subscription), 15) is END_SENTINEL
                await cleaned
                gone = bridge.subscribe("cleaned")
                await anext(gone)
                waiting = asyncio.ensure_future(anext(gone))
                await tell("clean cleaned 0")
                assert isinstance(await asyncio.wait_for(waiting, 15), StreamGap)

    asyncio.run(main())


def test_what_a_busy_loop_has_not_taken_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While our event loop is busy others' events are read along once at most, and afterwards nothing is missing."""
    reads: list[int] = []
    read = watching.Watcher._read

    def counted(watcher: watching.Watcher, connection: sqlite3.Connection, seen: int) -> Any:
        reads.append(seen)
        return read(watcher, connection, seen)

    monkeypatch.setattr(watching.Watcher, "_read", counted)

    async def publish() -> None:
        async with opened(tmp_path) as other:
            for number in range(1, 201):
                await other.publish("r", "e", number)

    async def main() -> None:
        async with opened(tmp_path) as bridge:
            await bridge.publish("r", "e", 0)
            subscription = bridge.subscribe("r")
            await anext(subscription)
            reads.clear()
            publisher = threading.Thread(target=asyncio.run, args=(publish(),))
            publisher.start()
            publisher.join()  # which blocks this event loop
            assert len(reads) <= 1
            items = [await asyncio.wait_for(anext(subscription), 15) for _ in range(200)]
            assert [item.data for item in items if isinstance(item, StreamEvent)] == [*range(1, 201)]

    asyncio.run(main())


def test_more_than_is_read_along_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many large events in many runs only some are read along with the look; the others arrive as well (S3)."""
    monkeypatch.setattr(watching, "_BYTES_AT_ONCE", 1_000)

    async def main() -> None:
        async with opened(tmp_path) as bridge, opened(tmp_path) as other:
            runs = [f"r{number}" for number in range(5)]
            readers = [asyncio.ensure_future(everything(bridge, run_id)) for run_id in runs]
            for run_id in runs:
                await other.publish_many(run_id, [("e", "x" * 400)] * 5)
                await other.publish_end(run_id)
            for items in await asyncio.wait_for(asyncio.gather(*readers), 30):
                assert len(items) == 6
                assert items[-1] is END_SENTINEL

    asyncio.run(main())


def test_nobody_waits_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without subscribers the file is not looked at; the first one makes it looked at again, and misses nothing."""
    looks: list[int] = []
    look = watching._data_version

    def counted(connection: sqlite3.Connection) -> int:
        looks.append(1)
        return look(connection)

    monkeypatch.setattr(watching, "_data_version", counted)

    async def main() -> None:
        async with opened(tmp_path) as bridge, opened(tmp_path) as other:
            await bridge.publish("r", "e", 0)
            await asyncio.sleep(0.1)
            assert not looks
            for round_ in range(3):
                status = await bridge.status("r")
                assert status is not None
                subscription = bridge.hub.subscribe("r", last_event_id=status.latest_id, heartbeat_interval=15)
                waiting = asyncio.ensure_future(anext(subscription))
                await asyncio.sleep(0.02 * round_)
                await other.publish("r", "e", round_)
                item = await asyncio.wait_for(waiting, 15)
                assert isinstance(item, StreamEvent)
                assert item.data == round_
                await subscription.aclose()
                await asyncio.sleep(0.1)
                seen = len(looks)
                await asyncio.sleep(0.1)
                assert len(looks) == seen

    asyncio.run(main())


def test_time_is_judged_when_somebody_looks(tmp_path: Path) -> None:
    """Expiry and scheduled cleanup hide at once, in every instance, though nothing swept; then the sweep frees."""

    async def main() -> None:
        clock = Clock()
        options = StreamOptions(ttl_seconds=100)
        async with opened(tmp_path, options, clock=clock) as bridge, opened(tmp_path, options, clock=clock) as other:
            first = await bridge.publish("expires", "e", 1)
            await bridge.publish("cleaned", "e", 1)
            await bridge.cleanup("cleaned", delay=50)
            clock.now += 50 * SECOND
            assert await other.stream_exists("expires")
            assert not await other.stream_exists("cleaned")
            again = await other.publish("cleaned", "e", 2)
            assert identity(again).seq == 1
            assert identity(again).epoch > identity(first).epoch
            clock.now += 50 * SECOND
            assert not await other.stream_exists("expires")
            assert await other.stream_exists("cleaned")
            second = await bridge.publish("expires", "e", 1)
            assert identity(second).epoch > identity(first).epoch
            clock.now += 200 * SECOND
            async with sqlite.connect(path=tmp_path) as connection:
                assert await owned(connection, "stream_bridge") > 0
                await bridge._database.write(bridge._tables.sweep, timeout_seconds=5)
                assert await owned(connection, "stream_bridge") == 0

    asyncio.run(main())


def test_an_epoch_is_never_used_twice(tmp_path: Path) -> None:
    """Even if the clock stands still or goes back, a run's later streams have higher epochs, sweeps in between (S2)."""

    async def main() -> None:
        clock = Clock()
        async with opened(tmp_path, StreamOptions(ttl_seconds=0.001), clock=clock) as bridge:
            seen = [await bridge.publish("r", "e", 0)]
            for step in (1_000, 0, -SECOND, 1_000, 0):
                clock.now += step
                if step == 1_000:
                    await bridge._database.write(bridge._tables.sweep, timeout_seconds=5)
                else:
                    await bridge.cleanup("r")
                seen.append(await bridge.publish("r", "e", 0))
            epochs = [identity(i).epoch for i in seen]
            assert epochs == sorted(set(epochs))

    asyncio.run(main())


def test_the_sweep_works_in_portions(tmp_path: Path) -> None:
    """However much has expired, one portion removes a bounded number of rows, and all of them free everything."""

    async def main() -> None:
        clock = Clock()
        rows = stream_tables.SWEEP_ROWS
        async with opened(tmp_path, StreamOptions(max_events=10 * rows, ttl_seconds=10), clock=clock) as bridge:
            await bridge.publish_many("long", [("e", number) for number in range(3 * rows)])
            await bridge.publish("short", "e", 0)
            clock.now += 10 * SECOND
            portions = 1
            async with sqlite.connect(path=tmp_path) as connection:
                before = await owned(connection, "stream_bridge")
                while await bridge._database.write(bridge._tables.sweep, timeout_seconds=5):
                    after = await owned(connection, "stream_bridge")
                    assert before - after <= rows + 2
                    before = after
                    portions += 1
                assert portions > 3
                assert await owned(connection, "stream_bridge") == 0

    asyncio.run(main())


def _free_pages(connection: sqlite3.Connection) -> int:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)


def test_the_sweep_runs_by_itself_and_gives_space_back(tmp_path: Path) -> None:
    """What expired is freed without being asked, and the file shrinks (G11)."""

    async def main() -> None:
        clock = Clock()
        async with opened(tmp_path, StreamOptions(ttl_seconds=10), clock=clock, sweep_seconds=0.05) as bridge:
            for run in range(4):
                await bridge.publish_many(f"r{run}", [("e", "x" * 100_000)] * 70)
            clock.now += 10 * SECOND
            async with sqlite.connect(path=tmp_path) as connection:
                deadline = time.monotonic() + 60
                while await owned(connection, "stream_bridge"):
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                while (free := await bridge._database.read(_free_pages, timeout_seconds=5)) > 2 * SPARE_PAGES:
                    assert time.monotonic() < deadline, free
                    await asyncio.sleep(0.05)
        assert (tmp_path / "deerflow-streams.sqlite3").stat().st_size < 20_000_000

    asyncio.run(main())


def test_what_is_due_is_found_by_index(tmp_path: Path) -> None:
    """Sweep, wake-up and replay walk an index, never the table."""

    async def main() -> None:
        async with opened(tmp_path):
            pass

    asyncio.run(main())
    plans = {
        stream_tables.DUE: "heads_by_due",
        watching.CHANGED: "heads_by_change",
        stream_tables.ENTRIES: "PRIMARY KEY",
        stream_tables.FIND: "run_id=?",
    }
    with contextlib.closing(sqlite3.connect(tmp_path / "deerflow-streams.sqlite3")) as connection:
        names = ("now", "limit", "seen", "stream", "first", "run_id")
        for statement, index in plans.items():
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", dict.fromkeys(names, 1)).fetchall()
            plan = " ".join(row[-1] for row in rows)
            assert index in plan
            assert "SCAN" not in plan
            assert "TEMP B-TREE" not in plan


def test_retention_by_number_and_bytes(tmp_path: Path) -> None:
    """Exactly the last events that fit are kept, their bytes accounted for through every trim (S10)."""

    async def main() -> None:
        async with opened(tmp_path, StreamOptions(max_events=5, max_bytes=100)) as bridge:
            for number, size in enumerate([10, 10, 10, 10, 10, 10, 60, 60, 300, 1, 99, 1, 1, 1, 1, 1, 1]):
                await bridge.publish("r", "e", "x" * (size - 2) if size > 1 else 1)
                with contextlib.closing(sqlite3.connect(tmp_path / "deerflow-streams.sqlite3")) as connection:
                    (kept, stored) = connection.execute("SELECT count(*), sum(length(data)) FROM events").fetchone()
                    head = connection.execute("SELECT seq - earliest + 1, bytes FROM heads").fetchone()
                assert head == (kept, stored)
                assert kept <= 5
                assert kept == 1 or stored <= 100
                status = await bridge.status("r")
                assert status is not None
                assert status.length == kept
                assert identity(status.latest_id).seq == number + 1

    asyncio.run(main())


def test_ended_stays_ended(tmp_path: Path) -> None:
    """END survives reopening; publishing afterwards stores nothing, in the trace of a cleanup as well (S8, S13)."""

    async def main() -> None:
        async with opened(tmp_path) as bridge:
            await bridge.publish("r", "e", 1)
            await asyncio.gather(*(bridge.publish_end("r") for _ in range(5)))
        async with opened(tmp_path) as bridge:
            with pytest.raises(StreamEnded):
                await bridge.publish("r", "e", 2)
            await bridge.cleanup("r")
            with pytest.raises(StreamEnded):
                await bridge.publish("r", "e", 2)
            assert await everything(bridge, "r") == [END_SENTINEL]

    asyncio.run(main())


def test_used_after_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of a fork is told to open its own; the parent's goes on."""

    async def main() -> None:
        async with opened(tmp_path) as bridge:
            await bridge.publish("r", "e", 1)
            with monkeypatch.context() as forked:
                # What a child would see: forking here would fork the threads' locks.
                forked.setattr("deerflow_backends.binding._forks", 1)
                with pytest.raises(Closed, match="after the fork"):
                    await bridge.publish("r", "e", 2)
            await bridge.publish("r", "e", 2)

    asyncio.run(main())
