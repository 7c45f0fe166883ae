"""Whoever publishes a load: a process of its own where the backend reaches one, so that readers are measured alone.

Run as a program, this module is that process. It reads JSON lines: what to publish to, then one load after another.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from benchmarks.loads import Load, offer
from benchmarks.rivals import Bridge, rival_of
from benchmarks.subjects import Subject, forget_environment
from deerflow_backends import StreamBridge, open_backends

#: Publishes a load and returns the CPU seconds that its driver took in this process.
Publish: TypeAlias = Callable[[Load], Awaitable[float]]

#: Between asking for a load and its first event: the request has to arrive before.
_LEAD_SECONDS = 0.1


@asynccontextmanager
async def publisher(subject: Subject, bridge: StreamBridge, options: dict[str, Any]) -> AsyncIterator[Publish]:
    """Yield what publishes loads to the runs of *bridge*.

    Args:
        options: Those that *bridge* was opened with.
    """
    if bridge.reach == "process":

        async def publish_here(load: Load) -> float:
            return await offer(bridge, load, time.monotonic() + _LEAD_SECONDS)

        yield publish_here
        return
    async with _elsewhere({"configuration": subject.configuration(options)}) as publish:
        yield publish


def naive_publisher(subject: Subject) -> AbstractAsyncContextManager[Publish]:
    """As `publisher`, for what the naive rival of *subject* opens in this process."""
    return _elsewhere({"naive": subject.name, "settings": dict(subject.settings)})


@asynccontextmanager
async def _elsewhere(target: dict[str, Any]) -> AsyncIterator[Publish]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        # By its standard input, not its arguments: settings may hold a password.
        await _ask(child, target)

        async def publish_there(load: Load) -> float:
            await _ask(child, {**dataclasses.asdict(load), "start": time.monotonic() + _LEAD_SECONDS})
            return 0.0

        yield publish_there
    finally:
        if child.stdin is not None:
            child.stdin.close()
        await child.wait()


async def _ask(child: asyncio.subprocess.Process, request: dict[str, Any]) -> None:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the publisher has no pipes")
    child.stdin.write(json.dumps(request).encode() + b"\n")
    await child.stdin.drain()
    if not await child.stdout.readline():
        raise RuntimeError("the publisher ended; its error is above")


async def _serve() -> None:
    """Do what is asked for on standard input, until that ends."""
    async with _bridge(json.loads(sys.stdin.readline())) as bridge:
        _answer()
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            start = request.pop("start")
            await offer(bridge, Load(**{**request, "runs": tuple(request["runs"])}), start)
            _answer()


@asynccontextmanager
async def _bridge(target: dict[str, Any]) -> AsyncIterator[Bridge]:
    """Open what is to be published to."""
    if "configuration" in target:
        async with open_backends(target["configuration"]) as backends:
            yield backends.stream_bridge
        return
    rival = rival_of(target["naive"])
    if rival is None or rival.naive is None:
        raise RuntimeError(f"{target['naive']} has no naive rival")
    async with rival.naive.open(target["settings"]) as bridge:
        yield bridge


def _answer() -> None:
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    forget_environment()
    asyncio.run(_serve())
