"""Processes killed at random moments: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from deerflow_backends import sqlite
from deerflow_backends.counters import Counts
from deerflow_backends.cursors import EventId, parse_cursor
from deerflow_backends.sqlite import Connection
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamItem,
    StreamOptions,
)
from deerflow_backends.threads import ANY_USER, NewThread

KILLS = 60
SEED = 20_260_131
WRITERS = Path(__file__).with_name("killed_writers.py")

#: As the writers have them, so that nothing is trimmed.
OPTIONS = StreamOptions(max_events=100_000)
MODEL, SHARED_THREAD = "model", "shared"
RUNS = [f"run {number}" for number in range(3)]
ENDING = [f"ending {number}" for number in range(10)]


class Told:
    """What the writers were told."""

    def __init__(self, lines: list[str]) -> None:
        self.of: dict[str, list[list[Any]]] = defaultdict(list)
        for line in lines:
            what, *facts = json.loads(line)
            self.of[what].append(facts)


def test_acknowledged_writes_outlive_their_writers(tmp_path: Path) -> None:
    """Through SIGKILLs of publishers and writers at random moments every promise about what is stored holds (G12).

    Every acknowledged write is there and happened once; batches and changes are whole; seqs have no holes and ids name
    one event; revisions count effective changes; a token counts once; a live reader of another process missed nothing.
    """

    async def main() -> None:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(sqlite.connect(path=tmp_path / "data"))
            bridge = await stack.enter_async_context(sqlite.open_stream_bridge(connection, OPTIONS))
            index = await stack.enter_async_context(sqlite.open_thread_index(connection))
            await index.create(NewThread(SHARED_THREAD, None))
            live = {run_id: asyncio.create_task(_follow(bridge, run_id)) for run_id in RUNS}
            told = await _let_them_be_killed(tmp_path / "data")
            for run_id in RUNS:
                await bridge.publish_end(run_id)
            seen = {run_id: await reading for run_id, reading in live.items()}
            await _check_streams(bridge, told, seen)
            await _check_memory(connection, told)
            await _check_threads(connection, told)
            await _check_counters(connection, told)

    asyncio.run(main())


async def _let_them_be_killed(folder: Path) -> Told:
    arguments = [sys.executable, "-W", "error", str(WRITERS), str(folder), str(KILLS), str(SEED)]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    told = Told(output.decode().splitlines())
    for what in ("published", "ended", "refused", "remembered", "created", "merged", "counted"):
        assert len(told.of[what]) >= 5, f"the writers were not {what} often enough for the test to mean anything"
    return told


async def _follow(bridge: StreamBridge, run_id: str) -> list[StreamItem]:
    found = [item async for item in bridge.subscribe(run_id) if item is not HEARTBEAT_SENTINEL]
    assert found.pop() is END_SENTINEL
    return found


async def _check_streams(bridge: StreamBridge, told: Told, seen: dict[str, list[StreamItem]]) -> None:
    ended = {run_id for (run_id,) in told.of["ended"]}
    refused = {mark for _, mark in told.of["refused"]}
    stored = {run_id: await _follow(bridge, run_id) for run_id in RUNS}
    assert stored == seen
    for run_id in ENDING:
        if run_id in ended or await bridge.stream_exists(run_id):
            await bridge.publish_end(run_id)  # idempotent where it was acknowledged
            stored[run_id] = await _follow(bridge, run_id)
    by_id: dict[tuple[str, str], Any] = {}
    for run_id, events in stored.items():
        whole = [item for item in events if isinstance(item, StreamEvent)]
        ids = [parse_cursor(event.id) for event in whole]
        assert [found.seq for found in ids if isinstance(found, EventId)] == list(range(1, len(whole) + 1))
        assert len({found.epoch for found in ids if isinstance(found, EventId)}) == 1
        by_id |= {(run_id, event.id): event.data for event in whole}
        _check_batches([event.data for event in whole])
    marks = Counter((mark, place) for mark, place, _ in by_id.values())
    assert max(marks.values()) == 1
    assert not refused & {mark for mark, _ in marks}
    for run_id, ids_told, mark in told.of["published"]:
        size = len(ids_told)
        assert [by_id[run_id, told_id] for told_id in ids_told] == [[mark, place, size] for place in range(size)]


def _check_batches(data: list[Any]) -> None:
    """Each batch is whole and in one piece."""
    while data:
        mark, _, size = data[0]
        assert data[:size] == [[mark, place, size] for place in range(size)]
        data = data[size:]


async def _check_memory(connection: Connection, told: Told) -> None:
    async with sqlite.open_memory(connection) as store:
        revisions = Counter((user_id, revision) for user_id, _, revision in told.of["remembered"])
        assert max(revisions.values()) == 1
        for user_id in ("user 0", "user 1"):
            agent, wide = await store.load(user_id, agent_name="agent"), await store.load(user_id)
            # Each effective change added one fact of its own, and set body and last fact to its mark.
            assert agent.revision == wide.revision == len(agent.facts) == wide.body_revision
            assert [fact.value for fact in wide.facts] == [wide.body]
            assert wide.facts[0].revision == wide.revision
            assert wide.body["mark"] in {fact.fact_id for fact in agent.facts}
            marks = {fact.fact_id for fact in agent.facts if fact.value == {"mark": fact.fact_id}}
            assert {mark for of, mark, _ in told.of["remembered"] if of == user_id} <= marks


async def _check_threads(connection: Connection, told: Told) -> None:
    async with sqlite.open_thread_index(connection) as index:
        for (thread_id,) in told.of["created"]:
            thread = await index.get(thread_id, user_id="user")
            assert thread is not None
            assert thread.metadata == {"mark": thread_id}
        listed: list[str] = []
        page = await index.list("user", limit=100)
        listed += [thread.thread_id for thread in page.items]
        while page.next_cursor is not None:
            page = await index.list("user", limit=100, cursor=page.next_cursor)
            listed += [thread.thread_id for thread in page.items]
        assert len(listed) == len(set(listed)) == await index.count("user")
        assert {thread_id for (thread_id,) in told.of["created"]} <= set(listed)
        shared = await index.get(SHARED_THREAD, user_id=ANY_USER)
        assert shared is not None
        assert shared.metadata == {key: [key] for key in shared.metadata}
        assert {mark for (mark,) in told.of["merged"]} <= set(shared.metadata)


async def _check_counters(connection: Connection, told: Told) -> None:
    tried = {mark for (mark,) in told.of["tries"]}
    counted = {mark for (mark,) in told.of["counted"]}
    async with sqlite.open_counters(connection) as counters:
        totals = await counters.totals(MODEL)
        assert totals.calls == totals.successes
        assert len(counted) <= totals.calls <= len(tried)
        assert await counters.window(MODEL, seconds=3_600) == totals
        for mark in sorted(tried):  # what a writer that does not know would do
            await counters.record(MODEL, calls=1, successes=1, token=mark)
        assert await counters.totals(MODEL) == Counts(calls=len(tried), successes=len(tried))
