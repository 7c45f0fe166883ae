"""Checks of memory under load, in counts alone: M6 and M9."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from deerflow_backends.memories import DeleteFact, MemoryStore, PutBody, PutFact
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.expectations import every_page, repeated_while
from deerflow_conformance.faces import USER
from deerflow_conformance.meters import metered

#: How many facts one `apply` puts.
_AT_ONCE = 1_000


async def _fill(store: MemoryStore, user_id: str, count: int) -> None:
    """Put *count* facts into the part of no agent, named by their numbers, and a little into another part."""
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        await store.apply(user_id, [PutFact(None, f"{number:05}", {"content": f"fact {number}"}) for number in numbers])
    await store.apply(user_id, [PutFact("a", "f", {}), PutBody("a", {})])


# ---------------------------------------------------------------------- M6


@check("M6", level="load")
def thousands_of_facts_come_once(bench: Bench) -> None:
    """Of 5,000 facts, read in pages while a seventh is changed, each other one comes once; deep pages cost no more."""
    count = bench.volume(5_000)

    async def body() -> None:
        async with metered(bench, bench.space()) as meter, bench.open(meter.space) as store:
            await _fill(store, USER, count)
            read = partial(store.list_facts, USER, agent_name=None, limit=50)
            seen: list[str] = []
            cursors: list[str | None] = [None]

            async def reading() -> None:
                async for page in every_page(lambda cursor: read(cursor=cursor)):
                    seen.extend(fact.fact_id for fact in page.items)
                    cursors.append(page.next_cursor)

            await repeated_while(reading(), partial(_disturb, store, iter(range(0, 10 * count, 7)), count))
            quiet = [f"{number:05}" for number in range(count) if number % 7]
            found = [fact_id for fact_id in seen if int(fact_id) % 7]
            if found != quiet:
                wanted = f"each of {len(quiet):,} facts that nobody changed once, in order"
                unkept(wanted, differences(quiet, found))
            if meter.unit == "round trips":  # how much work a deep page is, M6 does not say
                first, deep = [await meter.cost(partial(read, cursor=cursor)) for cursor in (None, cursors[-3])]
                meter.expect_same("the last page but one", first, deep)

    bench.run(body)


async def _disturb(store: MemoryStore, numbers: Iterator[int], count: int) -> None:
    """Change one fact of seven, or delete it."""
    number = next(numbers) % (count - count % 7)
    fact_id = f"{number:05}"
    await store.apply(USER, [DeleteFact(None, fact_id) if number % 2 else PutFact(None, fact_id, {"n": number})])


# ---------------------------------------------------------------------- M9


@check("M9", level="load")
def a_change_among_thousands_costs_what_it_changes(bench: Bench) -> None:
    """One change in a memory of 5,000 facts takes as much as in one of 10; loading takes as many round trips."""
    sizes = {"few": 10, "many": bench.volume(5_000)}

    async def body() -> None:
        async with metered(bench, bench.space()) as meter, bench.open(meter.space) as store:
            for user_id, size in sizes.items():
                await _fill(store, user_id, size)
            numbers = iter(range(1_000_000))
            costs = {user_id: await _costs(meter.cost, store, user_id, numbers) for user_id in sizes}
            for what, few in costs["few"].items():
                meter.expect_same(what, few, costs["many"][what])
            if meter.unit == "round trips":  # work grows with what is loaded
                few, many = [await meter.cost(partial(store.load, user_id)) for user_id in sizes]
                meter.expect_same("loading the whole part", few, many)

    bench.run(body)


async def _costs(
    cost: Callable[[Callable[[], Awaitable[Any]]], Awaitable[int]],
    store: MemoryStore,
    user_id: str,
    numbers: Iterator[int],
) -> dict[str, int]:
    return {
        "a changed fact": await cost(lambda: store.apply(user_id, [PutFact(None, "00005", {"n": next(numbers)})])),
        "a new fact": await cost(lambda: store.apply(user_id, [PutFact(None, f"new {next(numbers)}", {})])),
        "a deleted fact": await cost(lambda: store.apply(user_id, [DeleteFact(None, f"0000{6 + next(numbers) % 3}")])),
        "a body": await cost(lambda: store.apply(user_id, [PutBody("a", {"n": next(numbers)})])),
        "a small part loaded": await cost(lambda: store.load(user_id, agent_name="a")),
        "a fact read": await cost(lambda: store.get_fact(user_id, "00005", agent_name=None)),
    }
