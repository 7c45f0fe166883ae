"""Checks of calls that are cancelled while something is wrong: G8."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from random import Random
from typing import Any, Final

from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.attempts import TIMEOUT_SECONDS, Attempt, Attempts
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.disturbed import Disturbed, disturbed, opened_soon, patient, until_answered
from deerflow_conformance.expectations import until
from deerflow_conformance.faces import face_of
from deerflow_conformance.faults import FAULTS, Fault
from deerflow_conformance.stalls import LongWriter

#: How many identifiers are read, so that an answer tells whose it is.
_NAMES: Final = [f"number {number}" for number in range(6)]
_READS: Final = 24
#: That a connection is dead is noticed by waiting alone, and G7 waits for that.
_FAULTS: Final = {how: fault for how, fault in FAULTS.items() if "half-open" not in how}


async def _cancelled(calling: Awaitable[Any], seconds: float) -> Any:
    """Cancel a call after so many seconds; return its answer if that came before, else None."""
    task = asyncio.ensure_future(calling)
    await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled() or isinstance(task.exception(), BackendUnavailable):
        return None
    return task.result()


async def _cancel_much(bench: Bench, opened: Any, made: list[Attempt], how: str, random: Random) -> None:
    """Cancel writes of all kinds, and reads, which must not be given another's answer."""
    slot = face_of(bench.capability).slots[0]

    async def read(number: int) -> None:
        name = _NAMES[number % len(_NAMES)]
        found = await _cancelled(slot.read(opened, [name]), random.uniform(0.0, 0.2))
        wanted = {name: number % len(_NAMES) + 1}
        expect(found in (None, wanted), f"a read's own answer, {wanted}, or none ({how})", found)

    await asyncio.gather(
        *(_cancelled(attempt.make(opened), random.uniform(0.0, 0.2)) for attempt in made),
        *(read(number) for number in range(_READS)),
    )


async def _answers_are_its_own(bench: Bench, opened: Any, how: str) -> None:
    slot = face_of(bench.capability).slots[0]
    reads = [until_answered(bench, partial(slot.read, opened, [name])) for name in _NAMES]
    for number, found in enumerate(await asyncio.gather(*reads)):
        wanted = {_NAMES[number]: number + 1}
        expect(found == wanted, f"the answer to this read, {wanted}, after others were cancelled ({how})", found)


async def _put_numbers(bench: Bench, observer: Any) -> None:
    slot = face_of(bench.capability).slots[0]
    for number, name in enumerate(_NAMES):
        await slot.put(observer, name, number + 1)


def _tasks() -> int:
    """How many tasks there are that are not of the kit's proxies."""
    found = asyncio.all_tasks()
    return sum("Proxy" not in task.get_name() and "_Connection" not in repr(task.get_coro()) for task in found)


@check("G8", level="L3")
def calls_cancelled_in_an_outage_leave_nothing_behind(bench: Bench) -> None:
    """Calls cancelled while the network fails are done once or never, answer no other call, and leave no task."""

    async def through(how: str, fault: Fault, random: Random, one: Disturbed) -> None:
        attempts = Attempts(bench)
        made = await attempts.prepare(one.observer, f"cancelled; {how}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fault(one.network, random))
            tasks.create_task(_cancel_much(bench, one.opened, made, how, random))
        one.network.mend()
        await _answers_are_its_own(bench, one.opened, how)
        await attempts.judge(one.observer)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with disturbed(bench, space, count=len(_FAULTS)) as ones:
            for one in ones:
                await _put_numbers(bench, one.observer)
            before = _tasks()
            chances = [Random(bench.random.random()) for _ in _FAULTS]  # noqa: S311  # nothing secret
            scenarios = zip(_FAULTS.items(), chances, ones, strict=True)
            await asyncio.gather(*(through(how, fault, random, one) for (how, fault), random, one in scenarios))
            await _no_more_tasks(bench, before)

    bench.run(body)


async def _no_more_tasks(bench: Bench, before: int) -> None:
    # A connection that was made anew may need one more than the old one did at that moment; a call needs none.
    async def settled() -> bool:
        return _tasks() <= before + len(_FAULTS)

    await until(bench, settled)


@check("G8", level="L3")
def calls_cancelled_beside_a_stopped_process_leave_nothing_behind(bench: Bench) -> None:
    """Cancelled while another process stands still in a write, calls are done once or never, and all go on."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        how = "another process stopped while it wrote"
        async with (
            opened_soon(bench, space) as here,
            bench.open(patient(bench, space)) as observer,
            bench.rival(patient(bench, space)) as there,
        ):
            await _put_numbers(bench, observer)
            rival = LongWriter(bench, there)
            await rival.rehearse("rehearsal")
            attempts = Attempts(bench)
            for turn in range(2):
                made = await attempts.prepare(observer, f"cancelled; {how}")
                await rival.write_and(rival.process.stop, f"long {turn}")
                await bench.soon(_cancel_much(bench, here, made, how, bench.random))
                rival.process.resume()
                try:
                    await bench.soon(rival.finish(), 30)
                    await _answers_are_its_own(bench, here, how)
                except BackendUnavailable as error:
                    unkept("all to go on as soon as the other process does", repr(error))
            await attempts.judge(observer)

    bench.run(body)
