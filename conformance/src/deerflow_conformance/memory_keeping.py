"""Checks that a memory store keeps all of it, however much it is and however long it lies: M1, M8 and M12."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from deerflow_backends.memories import DeleteFact, Fact, PutBody, PutFact
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.expectations import every_page, expect_same, exported
from deerflow_conformance.memory_steps import all_reads

#: More facts than a page has, and than a store or a driver takes at once where somebody gave it a bound.
MANY: Final = 1_500
_USERS: Final = 150
_YEAR_SECONDS: Final = 366 * 24 * 3600


def _put(number: int, agent_name: str | None = None, *, n: int) -> PutFact:
    return PutFact(agent_name, f"{number:05}", {"n": n})


def _expect_numbers(what: str, wanted: list[int], facts: Iterable[Fact]) -> None:
    found = [fact.value["n"] for fact in facts]
    if found != wanted:
        unkept(f"{len(wanted):,} facts {what}", differences(wanted, found))


# ---------------------------------------------------------------------- M1


@check("M1")
def many_facts_are_read_as_applied(bench: Bench) -> None:
    """Of 1,500 facts, put in one apply and changed or deleted in the next, load and list give each that is left."""

    async def body() -> None:
        async with bench.open() as store:
            await store.apply("ann", [_put(number, n=number) for number in range(MANY)])
            deleted = [DeleteFact(None, f"{number:05}") for number in range(0, MANY, 7)]
            wanted = [number + MANY for number in range(MANY) if number % 7]
            await store.apply("ann", [*deleted, *(_put(n - MANY, n=n) for n in wanted)])
            read = partial(store.list_facts, "ann", agent_name=None, limit=1_000)
            listed = [fact async for page in every_page(lambda cursor: read(cursor=cursor)) for fact in page.items]
            _expect_numbers("loaded", wanted, (await store.load("ann")).facts)
            _expect_numbers("listed", wanted, listed)

    bench.run(body)


@check("M1")
def an_idle_year_changes_nothing(bench: Bench) -> None:
    """What nobody writes or reads for a year, by the clock that the backend is given, is all there as it was."""
    passed_microseconds = 0

    async def body() -> None:
        nonlocal passed_microseconds
        clock = (space := bench.space()).clock
        async with bench.open(replace(space, clock=lambda: clock() + passed_microseconds)) as store:
            for user_id in (None, "ann"):
                await store.apply(user_id, [PutFact("a", "f", {"n": 1}), PutBody(None, {"n": 1})])
                await store.apply(user_id, [DeleteFact("a", "f"), PutFact("b", "f", {"n": 2})])
            before = await all_reads(store, [None, "ann"])
            passed_microseconds = _YEAR_SECONDS * 1_000_000
            await bench.sleep(125.0 if bench.virtual else 0.0)  # time to free what a backend takes for expired
            expect_same("every read after a year", before, await all_reads(store, [None, "ann"]))

    bench.run(body)


# ---------------------------------------------------------------------- M8


@check("M8")
def many_facts_are_removed(bench: Bench) -> None:
    """Of a part of 1,500 facts, clear of the part, clear of everything and erase each leave none."""

    async def body() -> None:
        async with bench.open() as store:
            removals: dict[str, Callable[[], Awaitable[Any]]] = {
                "clear of the part": lambda: store.clear("ann", agent_name="a"),
                "clear of everything": lambda: store.clear("ann"),
                "erase": lambda: store.erase("ann"),
            }
            for what, remove in removals.items():
                await store.apply("ann", [_put(number, "a", n=number) for number in range(MANY)])
                await remove()
                expect_same(f"agents after {what}", [], await store.agents("ann"))
                expect_same(f"facts after {what}", (), (await store.load("ann", agent_name="a")).facts)

    bench.run(body)


# ---------------------------------------------------------------------- M12


@check("M12")
def much_is_copied_whole(bench: Bench) -> None:
    """A copy has each of 1,500 facts of one part, and each of 150 users."""

    async def body() -> None:
        async with bench.open() as source, bench.open() as target:
            await source.apply("ann", [*(_put(number, n=number) for number in range(MANY)), PutBody(None, {"n": 1})])
            users = [f"user {n}" for n in range(_USERS)]
            await asyncio.gather(*(source.apply(user_id, [_put(0, n=n)]) for n, user_id in enumerate(users)))
            records = await exported(source)
            expect_same("records restored", len(records), await target.restore(records))
            copied = await target.load("ann")
            _expect_numbers("of one part copied", [*range(MANY)], copied.facts)
            expect_same("the part of many facts", await source.load("ann"), copied)
            parts = [await target.load(user_id) for user_id in users]
            _expect_numbers(
                "of as many users copied", [*range(_USERS)], (fact for part in parts for fact in part.facts)
            )

    bench.run(body)
