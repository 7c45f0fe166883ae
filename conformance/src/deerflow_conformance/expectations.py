"""What the checks of memories, threads and counters say often: refused, the same, so much work."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar

from deerflow_backends import codec
from deerflow_backends.errors import BackendsError, InvalidArgument
from deerflow_backends.memories import Record
from deerflow_backends.paging import Page
from deerflow_conformance import programs
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.isolation import described

T = TypeVar("T")

#: How long what was told to end may take, in real seconds.
SETTLE_SECONDS: Final = 2.0
#: More pages than any listing of a check has, one thread examined a page.
_MOST_PAGES: Final = 10_000


def alike(one: Any, other: Any) -> bool:
    """Whether two contract values are the same, types and all, but for tuples, which are what lists are."""
    if one is other:
        return True
    kind = type(one)
    if kind is str or kind is int or kind is bool:
        return kind is type(other) and bool(one == other)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(alike, one, other))
    if kind is not type(other):
        return False
    if kind is dict:
        return one.keys() == other.keys() and all(alike(item, other[key]) for key, item in one.items())
    if kind is datetime:
        return bool(one == other and one.tzinfo == other.tzinfo)
    if dataclasses.is_dataclass(kind):
        return all(alike(getattr(one, name), getattr(other, name)) for name in kind.__dataclass_fields__)
    return programs.same(one, other)


def expect_same(what: str, wanted: Any, got: Any) -> None:
    """Fail the check unless two values are the same, types and all."""
    if not alike(wanted, got):
        unkept(f"{what} to be {wanted!r}", got)


async def refused(call: Awaitable[Any], error: type[BackendsError], what: str) -> Any:
    """Fail the check unless *call* raises exactly this *error*; return it."""
    try:
        got = await call
    except BackendsError as raised:
        expect(type(raised) is error, f"{error.__name__} from {what}", repr(raised))
        return raised
    return unkept(f"{error.__name__} from {what}", f"no error, and {got!r}")


async def refused_call(call: Callable[[], Awaitable[Any]], what: str) -> InvalidArgument:
    """Expect InvalidArgument, which must be a ValueError too, and return it."""
    try:
        got = await call()
    except InvalidArgument as error:
        refusal = error
    else:
        unkept(f"InvalidArgument for {what}", got)
    expect(isinstance(refusal, ValueError), "InvalidArgument to be a ValueError", repr(refusal))
    return refusal


async def accepted(call: Awaitable[T], what: str) -> T:
    """Return what *call* gives; fail the check if it is refused."""
    try:
        return await call
    except BackendsError as raised:
        return unkept(f"{what} accepted", repr(raised))


#: Why a count of work may have missed something.
UNSEEN_WORK: Final = (
    "only the Python that runs in the calling thread was counted: give work= to count what is done in a database, in a "
    "server or in other threads"
)


async def work(bench: Bench, call: Callable[[], Awaitable[Any]]) -> int:
    """Return the least work of three like calls, so that a flush or a sweep in between does not count.

    What a server does is counted in round trips, and elsewhere: see `meters`.
    """
    await bench.expect_work_counts()
    if not bench.sees_all_work and bench.reach != "network":
        bench.unseen_in_part(UNSEEN_WORK)
    figures = []
    for _ in range(3):
        before = bench.work()
        await call()
        figures.append(bench.work() - before)
    return min(figures)


async def every_page(read: Callable[[str | None], Awaitable[Page[T]]]) -> AsyncIterator[Page[T]]:
    """Follow the cursors from the first page to the last, which must come: a listing that repeats itself has none."""
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await read(cursor)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return
    unkept(f"an end of the listing within {_MOST_PAGES:,} pages", f"another cursor, {cursor!r}")


async def exported(store: Any) -> list[Record]:
    """Return an export as it would come back from a file of JSON."""
    return [codec.decode(codec.encode(record)) async for record in store.export()]


async def until(bench: Bench, condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait until *condition* holds: what is due at the server happens then, not at our moment."""

    async def holding() -> None:
        while not await condition():
            await bench.sleep(0.02)

    await bench.soon(holding(), seconds)


async def settled(before: set[asyncio.Task[Any]], what: str) -> None:
    """Expect no task besides those of *before*, allowing those that are about to end a moment."""
    for _ in range(20):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=SETTLE_SECONDS)
    expect(not left, f"no task left {what}", ", ".join(sorted(map(described, left))))


async def outcome_of(task: asyncio.Task[Any]) -> Any:
    """Return what *task* gives, and do not cancel it if this is cancelled."""
    await asyncio.wait([task])
    return task.result()


async def repeated_while(writing: Awaitable[Any], *reads: Callable[[], Awaitable[None]]) -> None:
    """Repeat each read until the writing is done, and once more."""
    done = False

    async def repeat(read: Callable[[], Awaitable[None]]) -> None:
        while not done:
            await read()
            await asyncio.sleep(0)
        await read()

    async def write() -> None:
        nonlocal done
        try:
            await writing
        finally:
            done = True

    tasks = [asyncio.ensure_future(one) for one in (write(), *(repeat(read) for read in reads))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
