"""The helper process: opens the author's function on given spaces and answers calls from the run that started it.

Started by `deerflow_conformance.replicas` as ``python -m deerflow_conformance.replica_process HANDLE``; HANDLE is a
socket. It ends when the other side is gone.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import itertools
import logging
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from deerflow_backends.buffering import BufferedCounters, buffered
from deerflow_conformance.conformances import Conformance, FileRecipe, PluginRecipe, Recipe, conform_plugin
from deerflow_conformance.results import BrokenUse
from deerflow_conformance.spaces import Space
from deerflow_conformance.wire import frame, receive


def conformance_of(recipe: Recipe) -> Conformance:
    """Return what *recipe* describes, importing the author's file again.

    Raises:
        BrokenUse: It is not there any more.
    """
    if isinstance(recipe, PluginRecipe):
        offered = conform_plugin(recipe.plugin, connection=recipe.connection).conformances()
        return next(one for one in offered if one.capability == recipe.capability)
    found = getattr(_imported(recipe), recipe.name, None)
    if not isinstance(found, Conformance):
        raise BrokenUse(f"{recipe.path} has no conformance {recipe.name!r} at its module level")
    return found


def _imported(recipe: FileRecipe) -> Any:
    package, _, _ = recipe.module.rpartition(".")
    if package:
        # For the sake of relative imports; a file that needs none works without its package.
        with suppress(ImportError):
            importlib.import_module(package)
    spec = importlib.util.spec_from_file_location(recipe.module, recipe.path)
    if spec is None or spec.loader is None:
        raise BrokenUse(f"{recipe.path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[recipe.module] = module
    spec.loader.exec_module(module)
    return module


class Server:
    """Answers one run's calls: each in a task of its own, so that any of them can be cancelled."""

    def __init__(self, conformance: Conformance, writer: asyncio.StreamWriter) -> None:
        self._conformance = conformance
        self._writer = writer
        self._keys = itertools.count(1)
        self._opened: dict[int, tuple[AbstractAsyncContextManager[Any], Any]] = {}
        self._iterators: dict[int, AsyncIterator[Any]] = {}
        self._tasks: dict[int, asyncio.Task[Any]] = {}

    def take(self, message: tuple[Any, ...]) -> None:
        """Begin to do what *message* asks."""
        kind, number, *arguments = message
        if kind == "cancel":
            if task := self._tasks.get(number):
                task.cancel()
        elif kind == "drop":
            self._iterators.pop(number, None)
        else:
            action: Callable[..., Any] = getattr(self, f"_{kind}")
            task = self._tasks[number] = asyncio.create_task(action(*arguments))
            task.add_done_callback(functools.partial(self._answer, number))

    def _answer(self, number: int, task: asyncio.Task[Any]) -> None:
        # A callback, because a task that is cancelled before its first step runs nothing of its coroutine.
        del self._tasks[number]
        if task.cancelled():
            answer: tuple[str, int, Any] = ("cancelled", number, None)
        elif (error := task.exception()) is None:
            answer = ("returned", number, task.result())
        elif isinstance(error, StopAsyncIteration):
            answer = ("stopped", number, None)
        else:
            answer = ("raised", number, (error, "".join(traceback.format_exception(error))))
        self._writer.write(_framed(answer))

    async def _open(self, space: Space, flush_seconds: float | None) -> int:
        context = self._conformance.open(space)
        if flush_seconds is not None:
            context = _behind_a_buffer(context, flush_seconds)
        opened = await context.__aenter__()
        key = next(self._keys)
        self._opened[key] = context, opened
        return key

    async def _close(self, key: int) -> None:
        context, _ = self._opened.pop(key)
        await context.__aexit__(None, None, None)

    async def _reach(self, key: int) -> Any:
        return self._opened[key][1].reach

    async def _call(self, key: int, method: str, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return await getattr(self._opened[key][1], method)(*positional, **named)

    async def _iterate(self, key: int, method: str, positional: tuple[Any, ...], named: dict[str, Any]) -> int:
        iterator = next(self._keys)
        self._iterators[iterator] = getattr(self._opened[key][1], method)(*positional, **named)
        return iterator

    async def _next(self, iterator: int) -> Any:
        return await anext(self._iterators[iterator])

    async def _aclose(self, iterator: int) -> None:
        closed: Any = self._iterators[iterator]
        await closed.aclose()


@asynccontextmanager
async def _behind_a_buffer(
    opening: AbstractAsyncContextManager[Any], flush_seconds: float
) -> AsyncIterator[BufferedCounters]:
    async with opening as counters, buffered(counters, flush_seconds=flush_seconds) as buffer:
        yield buffer


def _framed(answer: tuple[str, int, Any]) -> bytes:
    try:
        return frame(answer)
    except Exception as problem:
        _, number, content = answer
        error = TypeError(f"the replica's answer cannot be sent ({problem}): {content!r}")
        return frame(("raised", number, (error, "")))


async def _serve(handle: int) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=handle))
    recipe, sys.path[:] = await receive(reader)
    server = Server(conformance_of(recipe), writer)
    while True:
        try:
            message = await receive(reader)
        except EOFError:
            return
        server.take(message)


if __name__ == "__main__":
    # Outages are logged; without a handler Python would print that.
    logging.getLogger("deerflow_backends").addHandler(logging.NullHandler())
    asyncio.run(_serve(int(sys.argv[1])))
