"""What the checks of memories, threads and counters say often: refused, the same, so much work."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from deerflow_backends import codec
from deerflow_backends.errors import BackendsError
from deerflow_backends.memories import Record
from deerflow_conformance import programs
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Turn contract values into JSON, so that they compare type-strictly."""
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def expect_same(what: str, wanted: Any, got: Any) -> None:
    """Fail the check unless two values are the same, types and all."""
    if not programs.same(plain(wanted), plain(got)):
        unkept(f"{what} to be {wanted!r}", got)


async def refused(call: Awaitable[Any], error: type[BackendsError], what: str) -> Any:
    """Fail the check unless *call* raises exactly this *error*; return it."""
    try:
        got = await call
    except BackendsError as raised:
        expect(type(raised) is error, f"{error.__name__} from {what}", repr(raised))
        return raised
    return unkept(f"{error.__name__} from {what}", f"no error, and {got!r}")


async def answered(call: Awaitable[T], what: str) -> T:
    """Return what *call* gives; fail the check if it is refused."""
    try:
        return await call
    except BackendsError as raised:
        return unkept(f"an answer from {what}", repr(raised))


async def work(bench: Bench, call: Callable[[], Awaitable[Any]]) -> int:
    """Return the least work of three like calls, so that a flush or a sweep in between does not count."""
    figures = []
    for _ in range(3):
        before = bench.work()
        await call()
        figures.append(bench.work() - before)
    return min(figures)


async def exported(store: Any) -> list[Record]:
    """Return an export as it would come back from a file of JSON."""
    return [codec.decode(codec.encode(record)) async for record in store.export()]


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
