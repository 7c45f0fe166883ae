"""Writers that are killed: forks processes that write all four capabilities, and kills them at random moments.

Run as ``python killed_writers.py FOLDER KILLS SEED``. Prints one JSON line for each thing that a writer was told: what
it asked for before it asks (``tries``), and what was acknowledged after it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

from deerflow_backends import sqlite
from deerflow_backends.errors import RevisionConflict, StreamEnded
from deerflow_backends.memories import Change, PutBody, PutFact
from deerflow_backends.streams import StreamOptions
from deerflow_backends.threads import ANY_USER, NewThread

WRITERS = 4
OPTIONS = StreamOptions(max_events=100_000)
MODEL, SHARED_THREAD = "model", "shared"


class Writer:
    """One process's work: everything it writes bears its name and a number."""

    def __init__(self, name: str, folder: str, out: int) -> None:
        self.name, self.folder, self.out = name, folder, out
        self.random = random.Random(name)
        self.number = 0

    def say(self, what: str, *facts: Any) -> None:
        """Tell the parent; a line this short is written whole or not at all."""
        os.write(self.out, json.dumps([what, *facts]).encode() + b"\n")

    def mark(self) -> str:
        self.number += 1
        return f"{self.name}.{self.number}"

    async def work(self) -> None:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            connection = await enter(sqlite.connect(path=self.folder, timeout_seconds=60))
            self.bridge = await enter(sqlite.open_stream_bridge(connection, OPTIONS))
            self.store = await enter(sqlite.open_memory(connection))
            self.index = await enter(sqlite.open_thread_index(connection))
            self.counters = await enter(sqlite.open_counters(connection))
            await asyncio.gather(*(self.again_and_again(step) for step in (self.publish, self.remember, self.others)))

    async def again_and_again(self, step: Any) -> None:
        while True:
            await step()

    async def publish(self) -> None:
        run_id = f"run {self.random.randrange(3)}"
        mark = self.mark()
        if self.random.random() < 0.5:
            self.say("published", run_id, [await self.bridge.publish(run_id, "one", [mark, 0, 1])], mark)
        else:
            batch = [("many", [mark, place, 3]) for place in range(3)]
            self.say("published", run_id, await self.bridge.publish_many(run_id, batch), mark)
        if self.random.random() < 0.3:
            run_id = f"ending {self.random.randrange(10)}"
            mark = self.mark()
            try:
                self.say("published", run_id, [await self.bridge.publish(run_id, "one", [mark, 0, 1])], mark)
            except StreamEnded:
                self.say("refused", run_id, mark)
            if self.random.random() < 0.2:
                await self.bridge.publish_end(run_id)
                self.say("ended", run_id)

    async def remember(self) -> None:
        user_id = f"user {self.random.randrange(2)}"
        mark = self.mark()
        value = {"mark": mark}
        changes: list[Change] = [PutFact("agent", mark, value), PutFact(None, "last", value), PutBody(None, value)]
        revision = (await self.store.load(user_id)).revision if self.random.random() < 0.5 else None
        with suppress(RevisionConflict):
            applied = await self.store.apply(user_id, changes, expected_revision=revision)
            self.say("remembered", user_id, mark, applied.revision)

    async def others(self) -> None:
        mark = self.mark()
        thread = await self.index.create(NewThread(mark, "user", metadata={"mark": mark}))
        self.say("created", thread.thread_id)
        updated = await self.index.update(SHARED_THREAD, user_id=ANY_USER, metadata={mark: [mark]})
        if updated is not None:
            self.say("merged", mark)
        self.say("tries", mark)
        await self.counters.record(MODEL, calls=1, successes=1, token=mark)
        self.say("counted", mark)


def fork(name: str, folder: str, out: int) -> int:
    pid = os.fork()
    if pid == 0:
        asyncio.run(Writer(name, folder, out).work())
        os._exit(1)
    return pid


def main(folder: str, kills: int, seed: int) -> None:
    """Keep some writers alive, kill one after another, pass on what they say."""
    chance = random.Random(seed)
    reading, writing = os.pipe()
    alive = {fork(f"{seed}.{number}", folder, writing) for number in range(WRITERS)}
    started = WRITERS
    for _ in range(kills):
        until = time.monotonic() + chance.uniform(0.0, 0.12)
        pass_on(reading, until)
        victim = chance.choice(sorted(alive))
        kill(victim)
        alive.remove(victim)
        alive.add(fork(f"{seed}.{started}", folder, writing))
        started += 1
    pass_on(reading, time.monotonic() + 1.0)
    for victim in alive:
        kill(victim)
    pass_on(reading, time.monotonic())


def kill(pid: int) -> None:
    """Kill a writer, which must have been alive until now."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit(f"a writer ended by itself: {status}")


def pass_on(reading: int, until: float) -> None:
    """Print what was said, until the moment is there and nothing more is waiting."""
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        sys.stdout.buffer.write(os.read(reading, 1 << 16))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
