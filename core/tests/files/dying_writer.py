"""A writer that dies at each step in turn: SIGKILL before and after every system call that changes or looks at files.

Run as ``python dying_writer.py SCENARIO FOLDER SOURCE``. For N = 1, 2, 3 ... a copy of a folder with the state before
is given to a process that does the scenario's write and kills itself at the Nth step, until one completes. Prints one
JSON line for each: how it ended, the memory that the next opening finds, and what is in the folder then. The first
line is that of nothing done, the second that of all done without counting.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from deerflow_backends import files
from deerflow_backends.memories import Change, DeleteFact, MemoryStore, PutBody, PutFact

USER = "ann"
EVENTS = ("open", "os.", "fcntl.", "shutil.")

BEFORE: list[Change] = [
    *(PutBody(None, {"n": 1}), PutFact(None, "f", {"n": 1})),
    *(PutFact("a", "f", {"n": 1}), PutBody("b", {"n": 1})),
]
AFTER: list[Change] = [
    *(PutBody(None, {"n": 2}), DeleteFact("a", "f")),
    *(PutFact("b", "g", {"n": 2}), PutFact("c", "f", {"n": 2})),
]


async def _apply(store: MemoryStore) -> None:
    await store.apply(USER, AFTER)


async def _clear(store: MemoryStore) -> None:
    await store.clear(USER)


async def _erase(store: MemoryStore) -> None:
    await store.erase(USER)


async def _restore(store: MemoryStore) -> None:
    moment = "2026-01-31T12:00:00.000000+00:00"
    owner = {"kind": "memory", "contract": "1.0", "user_id": USER, "user_revision": 7, "user_updated_at": moment}
    await store.restore([{**owner, "agent_name": None, "body": {"n": 3}, "body_revision": 2, "facts": []}])


async def _nothing(store: MemoryStore) -> None:
    """Opening is what is to be done."""


SCENARIOS: dict[str, Callable[[MemoryStore], Awaitable[None]]] = {
    "apply": _apply,
    "first apply": _apply,
    "clear": _clear,
    "erase": _erase,
    "restore": _restore,
    "recover": _nothing,
    "import": _nothing,
}

#: Those in which opening is a part of what is looked at.
OPENING = ("recover", "import")


class Steps:
    """Counts what the process asks of files, and kills it at one of them."""

    def __init__(self, last: int) -> None:
        self._left, self._counting = last, False
        sys.addaudithook(lambda event, _: self.take() if event.startswith(EVENTS) else None)
        for name in ("open", "fsync", "rename", "unlink", "mkdir", "rmdir"):
            setattr(os, name, self._and_after(getattr(os, name)))

    def begin(self) -> None:
        self._counting = True

    def take(self) -> None:
        if self._counting:
            self._left -= 1
            if self._left == 0:
                self._counting = False
                os.kill(os.getpid(), signal.SIGKILL)

    def _and_after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.take()
            return result

        return stepped


def main(scenario: str, folder: Path, source: Path) -> None:
    """Let the write die at every step, one after the other."""
    importing = source if scenario == "import" else None
    folder.mkdir()
    if scenario not in {"first apply", "restore", "import"}:
        asyncio.run(_open_and(lambda store: store.apply(USER, BEFORE), folder))
    tell(folder, 0)
    if scenario == "recover":
        _leave_a_journal(folder)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    asyncio.run(_open_and(SCENARIOS[scenario], copy, importing))
    tell(copy, 0)
    last, code = 0, -signal.SIGKILL
    while code:
        last += 1
        shutil.rmtree(copy)
        shutil.copytree(folder, copy)
        code = _in_child(scenario, copy, importing, last)
        tell(copy, code, importing)


def tell(folder: Path, code: int, importing: Path | None = None) -> None:
    """Print what the next opening finds."""
    state = asyncio.run(_open_and(_state, folder, importing))
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    print(json.dumps([code, state, left]), flush=True)  # the test reads it


def _leave_a_journal(folder: Path) -> None:
    last, copy = 0, folder.with_name("whole")
    shutil.move(folder, copy)
    while not list(folder.glob("*/journals/*.journal")):
        last += 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(copy, folder)
        _in_child("apply", folder, None, last)
    shutil.rmtree(copy)


def _in_child(scenario: str, folder: Path, importing: Path | None, last: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(_die(scenario, folder, importing, Steps(last)))
        except BaseException:  # a forked process ends here, whatever happens
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in {0, -signal.SIGKILL}:
        raise SystemExit(f"a writer ended by itself: {code}")
    return code


async def _die(scenario: str, folder: Path, importing: Path | None, steps: Steps) -> None:
    if scenario in OPENING:
        steps.begin()
    async with files.connect(path=folder, import_from=importing) as connection, files.open_memory(connection) as store:
        steps.begin()
        await SCENARIOS[scenario](store)


async def _open_and(do: Callable[[MemoryStore], Awaitable[Any]], folder: Path, importing: Path | None = None) -> Any:
    async with files.connect(path=folder, import_from=importing) as connection, files.open_memory(connection) as store:
        return await do(store)


async def _state(store: MemoryStore) -> list[Any]:
    """All that is stored, without the times."""
    return [
        [record["user_id"], record["user_revision"], record["agent_name"], record["body_revision"], record["body"]]
        + [[fact["fact_id"], fact["revision"], fact["value"]] for fact in record["facts"]]
        async for record in store.export()
    ]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
