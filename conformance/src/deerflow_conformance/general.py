"""Checks of isolation and replicas, for all four capabilities: G4 and G6."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hypothesis import strategies as st

from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.faces import face_of
from deerflow_conformance.programs import (
    IDENTIFIERS,
)
from deerflow_conformance.subscribers import reading

# --------------------------------------------------------------------------------------------------- G4 isolation


@check("G4")
def removing_one_leaves_the_others(bench: Bench) -> None:
    """What is removed under one identifier is removed under that one only: not by case, prefix or pattern."""
    face = face_of(bench.capability)
    names = [name for name in IDENTIFIERS if len(name) < 5]

    async def body() -> None:
        for slot in face.slots:
            if slot.remove is None:
                continue
            async with bench.open() as opened:
                numbers = {name: i + 1 for i, name in enumerate(names)}
                for name, number in numbers.items():
                    await slot.put(opened, name, number)
                removed = names[::2]
                for name in removed:
                    await slot.remove(opened, name)
                wanted = {name: number for name, number in numbers.items() if name not in removed}
                found = await slot.read(opened, names)
                expect(found == wanted, f"{slot.name}s {sorted(wanted)}, the others removed", sorted(found))

    bench.run(body)


@check("G4")
def spaces_share_nothing(bench: Bench) -> None:
    """Two namespaces, one's name the other's beginning, see, change and wake nothing of each other."""
    face = face_of(bench.capability)

    async def body() -> None:
        short = bench.space()
        long = bench.space_like(short)
        async with bench.open(short) as one, bench.open(long) as other, bench.replica(long) as again:
            for slot in face.slots:
                await slot.put(one, "mine", 7)
                for elsewhere in (other, again):
                    found = await slot.read(elsewhere, ["mine"])
                    expect(found == {}, f"nothing under {slot.name} 'mine' in another namespace", found)
                    if slot.listed is not None:
                        listed = await slot.listed(elsewhere)
                        expect(listed == [], f"no {slot.name}s in another namespace", listed)
                if slot.remove is not None:
                    await slot.remove(other, "mine")
                found = await slot.read(one, ["mine"])
                expect(found == {"mine": 7}, f"{slot.name} 'mine' untouched by another namespace", found)
            expect(await face.is_empty(other), "an empty namespace", "something stored")
            if bench.capability == "stream_bridge":
                await _nobody_is_woken(bench, one, other)

    bench.run(body)


async def _nobody_is_woken(bench: Bench, one: Any, other: Any) -> None:
    async with reading(bench, other, "live") as elsewhere, reading(bench, one, "live") as here:
        for reader in (elsewhere, here):
            await reader.waits()
        await one.publish("live", "n", 1)
        await here.gets([1])
        await elsewhere.waits()
        await one.publish_end("live")
        await here.ends()
        await elsewhere.waits()


# ---------------------------------------------------------------------------------------------------- G6 replicas


@check("G6")
def a_write_is_seen_by_the_next_read_anywhere(bench: Bench) -> None:
    """What any replica wrote, every replica reads at once, whatever the order of writers and readers."""
    face = face_of(bench.capability)

    async def body(plan: list[tuple[int, bool, bool]]) -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.replica(space) as there:
            for number, (which, writes_here, reads_here) in enumerate(plan, 1):
                slot = face.slots[which]
                writer, reader = (here if writes_here else there), (here if reads_here else there)
                name = f"{slot.name} {number}"
                found = await slot.read(reader, [name])
                expect(found == {}, f"nothing under {slot.name} {name!r} yet", found)
                await slot.put(writer, name, number)
                found = await slot.read(reader, [name])
                expect(found == {name: number}, {name: number}, found)

    steps = st.sampled_from([*itertools.product(range(len(face.slots)), (True, False), (True, False))])
    bench.explore(st.lists(steps, min_size=1, max_size=12), body)


@check("G6")
def rival_replicas_lose_nothing(bench: Bench) -> None:
    """What two replicas write at the same time is all there, for both."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space()
        slot = face.slots[0]
        names = [f"id {i}" for i in range(24)]
        async with bench.open(space) as here, bench.replica(space) as there:
            await asyncio.gather(*(slot.put((here, there)[i % 2], name, i + 1) for i, name in enumerate(names)))
            for opened in (here, there):
                found = await slot.read(opened, names)
                wanted = {name: i + 1 for i, name in enumerate(names)}
                expect(found == wanted, wanted, found)

    bench.run(body)


@check("G6")
def what_was_written_outlives_the_opening(bench: Bench) -> None:
    """After every opening is closed, the next one finds what was written, in every slot."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space()
        for turn in range(3):
            async with bench.open(space) as opened:
                for slot in face.slots:
                    names = [f"{slot.name} {earlier}" for earlier in range(turn)]
                    found = await slot.read(opened, names)
                    wanted = {name: i + 1 for i, name in enumerate(names)}
                    expect(found == wanted, f"{wanted} after reopening", found)
                    await slot.put(opened, f"{slot.name} {turn}", turn + 1)
            if bench.reach == "process":
                continue
            async with bench.replica(space) as opened:
                for slot in face.slots:
                    found = await slot.read(opened, [f"{slot.name} {turn}"])
                    expect(found == {f"{slot.name} {turn}": turn + 1}, "what the closed opening wrote", found)

    bench.run(body)


@check("G6")
def reach_is_declared(bench: Bench) -> None:
    """Each object says how far it reaches, a replica as far as we do."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.replica(space) as there:
            expect(here.reach in ("process", "host", "network"), "process, host or network", here.reach)
            expect(there.reach == here.reach, here.reach, there.reach)

    bench.run(body)
