"""Checks of threads under load, in counts alone: T3, T9 and T11."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from deerflow_backends.threads import ANY_USER, NewThread, ThreadIndex
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, unkept
from deerflow_conformance.crowds import differences
from deerflow_conformance.expectations import every_page, expect_same, exported
from deerflow_conformance.meters import metered
from deerflow_conformance.thread_steps import renamed


async def _restore(bench: Bench, index: ThreadIndex, sizes: Mapping[str, int]) -> None:
    """Give each user so many threads, half of them running, numbered."""
    async with bench.open() as source:
        await source.create(NewThread("template", "nobody"))
        (record,) = await exported(source)

    async def records() -> AsyncIterator[dict[str, Any]]:
        for user_id, size in sizes.items():
            for number in range(size):
                yield renamed(record, f"{user_id} {number}", user_id=user_id, status=("idle", "running")[number % 2])

    await index.restore(records())


@check("T3", level="load")
def the_hundredth_page_costs_as_the_first(bench: Bench) -> None:
    """A hundred pages of 50 visit each of 5,000 threads once, and the last one takes as much as the first."""
    count = bench.volume(5_000)

    async def body() -> None:
        async with metered(bench, bench.space()) as meter, bench.open(meter.space) as index:
            await _restore(bench, index, {"ann": count, "bob": 10})
            read = partial(index.list, "ann", limit=50)
            pages = [page async for page in every_page(lambda cursor: read(cursor=cursor))]
            visited = [thread.thread_id for page in pages for thread in page.items]
            wanted = sorted((f"ann {number}" for number in range(count)), reverse=True)
            if visited != wanted:
                unkept(f"each of {count:,} threads once, in order", differences(wanted, visited))
            first, last = [await meter.cost(partial(read, cursor=cursor)) for cursor in (None, pages[-2].next_cursor)]
            meter.expect_same(f"page {len(pages)}", first, last)

    bench.run(body)


@check("T9", level="load")
def a_page_of_ten_thousand_costs_as_one_of_ten(bench: Bench) -> None:
    """Pages of a user with 10,000 threads, and changes of one of them, take as much as those of a user with ten."""
    sizes = {"few": 10, "many": bench.volume(10_000)}

    async def body() -> None:
        async with metered(bench, bench.space()) as meter, bench.open(meter.space) as index:
            await _restore(bench, index, sizes)
            expect_same("threads of all users", sum(sizes.values()), await index.count(ANY_USER))
            costs: dict[str, dict[str, int]] = {}
            for user_id, size in sizes.items():
                expect_same(f"threads of {user_id}", size, await index.count(user_id))
                thread_id = f"{user_id} {size // 2}"
                calls = {
                    "a page": partial(index.list, user_id, limit=5),
                    "a page by status": partial(index.list, user_id, limit=5, status="running"),
                    "a thread read": partial(index.get, thread_id, user_id=user_id),
                }
                costs[user_id] = {what: await meter.cost(call) for what, call in calls.items()}
            for what, few in costs["few"].items():
                meter.expect_same(what, few, costs["many"][what])

    bench.run(body)


@check("T11", level="load")
def ten_thousand_threads_are_copied(bench: Bench) -> None:
    """Of more than 10,000 threads that were restored an export has each, and once."""
    sizes = {"ann": bench.volume(10_000), "bob": 10}

    async def body() -> None:
        async with bench.open() as index:
            await _restore(bench, index, sizes)
            wanted = sorted(f"{user_id} {number}" for user_id, size in sizes.items() for number in range(size))
            got = sorted([record["thread_id"] async for record in index.export()])
            if got != wanted:
                unkept(f"a record of each of {len(wanted):,} threads", differences(wanted, got))

    bench.run(body)
