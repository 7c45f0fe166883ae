"""Checks of what survives killed processes, and of calls of which nobody heard the end: G5 and G12."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import outcome_of
from deerflow_conformance.faces import face_of
from deerflow_conformance.replicas import ReplicaDied


@check("G5", level="L2")
def a_cancelled_write_takes_effect_once_or_never(bench: Bench) -> None:
    """However many writes are cancelled, each is there once or not at all, and what comes after is there once."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space()
        slot = face.slots[0]
        async with bench.open(space) as here, bench.rival(space) as there:
            for number in range(12):
                writing = asyncio.ensure_future(slot.put((here, there)[number % 2], f"cancelled {number}", number + 1))
                for _ in range(bench.random.randrange(6)):
                    await asyncio.sleep(0)
                writing.cancel()
                with suppress(asyncio.CancelledError):
                    await bench.soon(outcome_of(writing))
                await slot.put(here, f"after {number}", number + 1)
                found = await slot.read(there, [f"cancelled {number}", f"after {number}"])
                wanted = {f"after {number}": number + 1}
                whole = {f"cancelled {number}": number + 1, **wanted}
                expect(found in (wanted, whole), f"{wanted}, or {whole}", found)

    bench.run(body)


@check("G12", level="L3")
def what_was_acknowledged_outlives_its_writer(bench: Bench) -> None:
    """What a process was told is written is there after that process is killed, at whatever moment."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space()
        slot = face.slots[0]
        async with bench.open(space) as here:
            for turn in range(3):
                async with bench.rival(space) as there:
                    process = bench.process_of(there)
                    written: dict[str, int] = {}
                    killing = asyncio.get_running_loop().call_later(bench.random.uniform(0.0, 0.1), process.kill)
                    with suppress(ReplicaDied):
                        for number in range(10_000):
                            await slot.put(there, f"{turn} {number}", number + 1)
                            written[f"{turn} {number}"] = number + 1
                    killing.cancel()
                    found = await slot.read(here, [*written])
                    expect(found == written, f"all {len(written)} acknowledged writes", found)

    bench.run(body)
