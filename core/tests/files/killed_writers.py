"""Writers that are killed: forks processes that change memories of several parts, and kills them at random moments.

Run as ``python killed_writers.py FOLDER KILLS SEED``. Prints one JSON line for each change that was acknowledged, and
after each kill one for each user with all that is stored of them, read at once.
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
from contextlib import suppress
from typing import Any

from deerflow_backends import files
from deerflow_backends.errors import RevisionConflict
from deerflow_backends.memories import Change, PutBody, PutFact

WRITERS = 4
USERS = ("user 0", "user 1")


def say(out: int, what: str, *facts: Any) -> None:
    """Tell the parent; a line this short is written whole or not at all."""
    os.write(out, json.dumps([what, *facts]).encode() + b"\n")


async def work(name: str, folder: str, out: int) -> None:
    """Change memories until killed. Each change adds a fact of its own and sets all else to its mark."""
    chance = random.Random(name)
    number = 0
    async with files.connect(path=folder, timeout_seconds=60) as connection, files.open_memory(connection) as store:
        while True:
            number += 1
            user_id, mark = chance.choice(USERS), f"{name}.{number}"
            value = {"mark": mark}
            changes: list[Change] = [PutFact("agent", mark, value), PutFact(None, "last", value), PutBody(None, value)]
            revision = (await store.load(user_id)).revision if chance.random() < 0.5 else None
            with suppress(RevisionConflict):
                applied = await store.apply(user_id, changes, expected_revision=revision)
                say(out, "remembered", user_id, mark, applied.revision)


async def tell(folder: str) -> None:
    """Print all that is stored."""
    async with files.connect(path=folder, timeout_seconds=60) as connection, files.open_memory(connection) as store:
        users: dict[str, list[Any]] = {}
        async for record in store.export():
            users.setdefault(record["user_id"], []).append(record)
        for user_id, records in users.items():
            print(json.dumps(["found", user_id, records]), flush=True)  # the test reads it


def fork(name: str, folder: str, pipe: tuple[int, int]) -> int:
    reading, out = pipe
    pid = os.fork()
    if pid == 0:
        os.close(reading)  # so that it ends when the parent does
        os.close(sys.stdout.fileno())
        asyncio.run(work(name, folder, out))
        os._exit(1)
    return pid


def main(folder: str, kills: int, seed: int) -> None:
    """Keep some writers alive, kill one after another, pass on what they say and what is stored."""
    chance = random.Random(seed)
    pipe = os.pipe()
    alive = {fork(f"{seed}.{number}", folder, pipe) for number in range(WRITERS)}
    for number in range(WRITERS, WRITERS + kills):
        pass_on(pipe[0], time.monotonic() + chance.uniform(0.0, 0.05))
        victim = chance.choice(sorted(alive))
        kill(victim)
        asyncio.run(tell(folder))
        alive.remove(victim)
        alive.add(fork(f"{seed}.{number}", folder, pipe))
    pass_on(pipe[0], time.monotonic() + 0.5)
    for victim in alive:
        kill(victim)
    pass_on(pipe[0], time.monotonic())
    asyncio.run(tell(folder))


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
