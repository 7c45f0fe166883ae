"""Checks of processes that stop in the middle of a write, or die there: nobody else waits for them (G5, G7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from deerflow_backends.codec import MAX_BYTES
from deerflow_backends.counters import Recorded
from deerflow_backends.errors import BackendUnavailable, Conflict, StreamEnded
from deerflow_backends.memories import PutBody
from deerflow_backends.streams import Reach
from deerflow_backends.threads import NewThread
from deerflow_conformance.attempts import TIMEOUT_SECONDS, Attempts, make_all
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check
from deerflow_conformance.disturbed import opened_soon, patient
from deerflow_conformance.faces import USER, Call, face_of
from deerflow_conformance.outages import ends_in_time
from deerflow_conformance.promises import Capability
from deerflow_conformance.replicas import ReplicaDied

#: How much is written at once: where a file is locked meanwhile, as much as one call may write; on a network less,
#: lest a server that reads its log when it starts takes long to do so in other checks.
_BYTES: Final[Mapping[Reach, int]] = {"process": 1_000, "host": MAX_BYTES - 1_000, "network": 1_000_000}

#: A long write of each capability, under a name, of a text; counters have none, but many models.
_LONG: Final[Mapping[Capability, Callable[[Any, str, str], Awaitable[Any]]]] = {
    "stream_bridge": lambda bridge, name, text: bridge.publish(name, "n", text),
    "memory": lambda store, name, text: store.apply(name, [PutBody("long", {"text": text})]),
    "thread_index": lambda index, name, text: index.create(NewThread(name, USER, metadata={"text": text})),
    "counters": lambda counters, name, text: counters.record_many(
        [Recorded(f"long {number}", calls=1) for number in range(3_000)]
    ),
}
#: Who writes so much at once is in the middle of it for most of the time.
_AT_ONCE: Final = 2


class LongWriter:
    """A process that writes all it can until it is stopped."""

    def __init__(self, bench: Bench, remote: Any) -> None:
        self.process = bench.process_of(remote)
        self._remote = remote
        self._write = _LONG[bench.capability]
        self._text = "x" * _BYTES[bench.reach]
        self._random = bench.random
        self._seconds = 0.0
        self._writing: list[asyncio.Task[None]] = []

    async def rehearse(self, name: str) -> None:
        """See how long it takes."""
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*self._begin(name))
        self._seconds = asyncio.get_running_loop().time() - began

    async def write_and(self, how: Callable[[], None], name: str) -> list[str]:
        """Write, and do *how* to the process at some moment; return the names of what it writes."""
        self._writing = self._begin(name)
        await asyncio.sleep(self._random.uniform(0.2, 1.0) * self._seconds)
        how()
        return [f"{name} {number}" for number in range(_AT_ONCE)]

    async def finish(self) -> None:
        """Return when what it began has ended."""
        await asyncio.gather(*self._writing)

    def _begin(self, name: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._one(f"{name} {number}")) for number in range(_AT_ONCE)]

    async def _one(self, name: str) -> None:
        with suppress(BackendUnavailable, ReplicaDied, Conflict, StreamEnded):  # others write there, too
            await self._write(self._remote, name, self._text)


@check("G7", level="L3")
def who_stops_in_the_middle_of_a_write_blocks_nobody_for_long(bench: Bench) -> None:
    """While a process stands still in its longest write, all calls of others end in time; then all of them go on."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with (
            opened_soon(bench, space) as here,
            bench.open(patient(bench, space)) as observer,
            bench.rival(patient(bench, space)) as there,
        ):
            rival = LongWriter(bench, there)
            await rival.rehearse("rehearsal")
            attempts = Attempts(bench)
            for turn in range(4):
                names = await rival.write_and(rival.process.stop, f"long {turn}")
                # Of what it writes, too: a lock may be on that alone.
                calls = [
                    (f"{what} beside a process that stopped while it wrote", call)
                    for name in (f"turn {turn}", *names)
                    for what, call in face.calls(here, name).items()
                    if what != "subscribe"
                ]
                await asyncio.gather(*(ends_in_time(partial(_may_conflict, call), what) for what, call in calls))
                rival.process.resume()
                await bench.soon(rival.finish(), 30)
            await attempts.until_all_return(here, observer, "after the stopped process went on")
            await attempts.until_all_return(there, observer, "in the process that had stopped")

    bench.run(body)


async def _may_conflict(call: Call) -> Any:
    with suppress(Conflict, StreamEnded):
        return await call()


@check("G7", level="L3")
def who_dies_in_the_middle_of_a_write_blocks_nobody(bench: Bench) -> None:
    """When a process is killed in its longest write, the calls of others go on as if it had never been."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with opened_soon(bench, space) as here, bench.open(patient(bench, space)) as observer:
            attempts = Attempts(bench)
            for turn in range(2):
                async with bench.rival(patient(bench, space)) as there:
                    rival = LongWriter(bench, there)
                    await rival.rehearse(f"rehearsal {turn}")
                    await rival.write_and(rival.process.kill, f"long {turn}")
                    await rival.finish()
                    await attempts.until_all_return(here, observer, "after a process died while it wrote")

    bench.run(body)


@check("G5", level="L3")
def what_waited_for_a_stopped_process_is_done_once_or_says_so(bench: Bench) -> None:
    """Writes of all kinds beside one that stands still, and its own, are done as they say once it has gone on."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with (
            opened_soon(bench, space) as here,
            bench.open(patient(bench, space)) as observer,
            bench.rival(patient(bench, space)) as there,
        ):
            rival = LongWriter(bench, there)
            await rival.rehearse("rehearsal")
            attempts = Attempts(bench)
            for turn in range(3):
                ours = await attempts.prepare(observer, "beside a process that stopped while it wrote")
                theirs = await attempts.prepare(observer, "in a process that stopped meanwhile")
                making = asyncio.create_task(make_all(there, theirs, 60))
                await rival.write_and(rival.process.stop, f"long {turn}")
                await make_all(here, ours)
                rival.process.resume()
                await bench.soon(asyncio.gather(rival.finish(), making), 30)
            await attempts.judge(observer)

    bench.run(body)
