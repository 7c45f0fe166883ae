"""What may go wrong with a network, each at a moment that a seed decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeAlias

from deerflow_conformance.attempts import TIMEOUT_SECONDS
from deerflow_conformance.networks import Network

#: Disturbs a network from a moment that *random* draws, until the calls that wait for it have ended.
Fault: TypeAlias = Callable[[Network, Random], Coroutine[Any, Any, None]]

_OUTLASTING_SECONDS: Final = 1.4 * TIMEOUT_SECONDS


async def _cut_often(network: Network, random: Random) -> None:
    for _ in range(8):
        await asyncio.sleep(random.uniform(0.0, 0.03))
        network.cut()


async def _lose_often(network: Network, random: Random) -> None:
    for _ in range(8):
        random.choice((network.lose_reply, network.lose_request))()
        await asyncio.sleep(random.uniform(0.0, 0.06))


async def _vanish(network: Network, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 0.02))
    network.refuse()
    network.cut()
    await asyncio.sleep(_OUTLASTING_SECONDS)


async def _stall(network: Network, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 0.02))
    network.hold()
    await asyncio.sleep(_OUTLASTING_SECONDS)


async def _stall_a_moment(network: Network, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 0.02))
    network.hold()
    await asyncio.sleep(TIMEOUT_SECONDS / 3)
    network.release()


async def _half_open(network: Network, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 0.02))
    network.half_open()
    await asyncio.sleep(_OUTLASTING_SECONDS)


async def _forget_connections(network: Network, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 0.02))
    network.half_open()
    network.release()
    await asyncio.sleep(_OUTLASTING_SECONDS)


async def _trickle(network: Network, random: Random) -> None:
    network.throttle(random.choice((300, 1_000, 3_000)))
    await asyncio.sleep(_OUTLASTING_SECONDS)
    network.cut()


FAULTS: Final[dict[str, Fault]] = {
    "connections cut again and again": _cut_often,
    "requests and replies lost again and again": _lose_often,
    "cut off, and new connections refused": _vanish,
    "a silent server": _stall,
    "a server that was silent for a moment": _stall_a_moment,
    "all connections half-open": _half_open,
    "the present connections half-open": _forget_connections,
    "replies trickling, then cut": _trickle,
}


async def passing(fault: Fault, network: Network, random: Random) -> None:
    """Let a fault pass: disturb a network, and mend it."""
    await fault(network, random)
    network.mend()
