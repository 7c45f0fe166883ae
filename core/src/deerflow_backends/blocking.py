"""Work that blocks, done off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(name: str, function: Callable[[], T]) -> T:
    """Do what blocks in a thread that is gone afterwards; if cancelled, once it is done."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = function()
        except Exception as error:  # it is the caller's
            loop.call_soon_threadsafe(settle, future, None, error)
        else:
            loop.call_soon_threadsafe(settle, future, value, None)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        future.exception()  # seen, though nobody is left to raise it to
        raise
    finally:
        thread.join()


def settle(future: asyncio.Future[T], value: Any, error: Exception | None) -> None:
    """Give a future its outcome, if anybody still waits for it; in the event loop."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
