"""What strikes rivals from outside: their processes are killed and stopped, their network disturbed, the server killed.

Each strikes in the middle of a call. What nobody then knows of it, the history takes as a maybe.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.bench import Bench
from deerflow_conformance.digits import Digits
from deerflow_conformance.histories import History
from deerflow_conformance.networks import Network
from deerflow_conformance.replicas import ReplicaDied
from deerflow_conformance.rivalries import CLIENTS, RIVALS, Rivalry, Strike, Striking, Turn, play, read_and_judge

#: How many turns a program has that something strikes.
_TURNS: Final = 40
#: Of the number that a turn is made of.
_NUMBER_BYTES: Final = 12
#: How often processes are killed anew, with a budget of 1, and how often the network is disturbed.
_KILLS: Final = 2
_DISTURBANCES: Final = 1
#: How often the server is restarted during one program.
_RESTARTS: Final = 4
#: How long a stopped process or a held network stands still.
_STILL_SECONDS: Final = 0.2
#: How long calls wait on a network that is disturbed.
TIMEOUT_SECONDS: Final = 1.5
#: How long after a call began it is struck: about as long as calls take.
MOMENTS: Final = (0.0, 0.0, 0.0005, 0.001, 0.002, 0.005)


_ALL: Final = range(len(CLIENTS))
_READS: Final = ("load", "get_fact", "get", "totals")
#: What is no failure while networks and servers fail.
_BORNE: Final = (BackendUnavailable, ReplicaDied)


def process_strikes(bench: Bench) -> dict[str, Striking]:
    """Return what stops a rival's process for a while, and what kills it, by name."""
    return {"SIGSTOP": partial(_stop, bench), "SIGKILL": partial(_kill, bench)}


def kill_rivals(bench: Bench, rivalry: Rivalry) -> None:
    """Kill the rivals' processes in the middle of a call each, and stop one of them for a while."""
    strikes = process_strikes(bench)

    async def body(program: list[Turn]) -> None:
        space, history = bench.space(), History(bench.capability)
        await play(bench, rivalry, program, space, history, strikes=strikes, borne=(ReplicaDied,))
        await read_and_judge(bench, rivalry, space, history)

    for _ in range(max(1, bench.volume(_KILLS))):
        program = _struck(bench, rivalry, [("SIGSTOP", RIVALS), *(("SIGKILL", [rival]) for rival in RIVALS)])
        bench.run(partial(body, program))


def disturb_network(bench: Bench, rivalry: Rivalry) -> None:
    """Disturb the network between all rivals and their server in every way, each in the middle of a call."""

    async def body(program: list[Turn]) -> None:
        space, history = bench.space(timeout_seconds=TIMEOUT_SECONDS), History(bench.capability)
        async with bench.network(space) as network:
            strikes = {name: partial(strike, network) for name, strike in NETWORK_STRIKES.items()}
            await play(
                bench, rivalry, program, network.space, history, strikes=strikes, borne=_BORNE, then=network.mend
            )
        await read_and_judge(bench, rivalry, space, history)

    for _ in range(max(1, bench.volume(_DISTURBANCES))):
        program = _struck(bench, rivalry, [(name, _ALL) for name in OFTEN])
        bench.run(partial(body, program))


def restart_server(bench: Bench, rivalry: Rivalry) -> None:
    """Stop the server in the middle of a call, and start it again; where what it acknowledged outlives that."""
    if not bench.durable:
        bench.without_server("durable=True", "killed")

    async def body(program: list[Turn]) -> None:
        space, history = bench.space(), History(bench.capability)
        one_at_a_time = asyncio.Lock()

        async def restart(_opened: Any, _call: asyncio.Task[object]) -> None:
            async with one_at_a_time:
                await bench.restart()

        await play(bench, rivalry, program, space, history, strikes={"restart": restart}, borne=_BORNE)
        await read_and_judge(bench, rivalry, space, history)

    bench.run(partial(body, _struck(bench, rivalry, [("restart", _ALL)] * _RESTARTS)))


def _struck(bench: Bench, rivalry: Rivalry, strikes: Sequence[tuple[str, Sequence[int]]]) -> list[Turn]:
    """Draw a program in which each of *strikes* hits a write of one of its clients, and not one of the first calls."""
    draw = bench.random
    turns = [rivalry.turn(Digits(draw.randbytes(_NUMBER_BYTES)), place) for place in range(_TURNS)]
    writes = [place for place in range(_TURNS // 4, _TURNS) if turns[place].ask.name not in _READS]
    for (what, clients), place in zip(strikes, draw.sample(writes, len(strikes)), strict=True):
        strike = Strike(what) if what.endswith("lost") else Strike(what, draw.randrange(4), draw.choice(MOMENTS))
        turns[place] = dataclasses.replace(turns[place], client=draw.choice(clients), strike=strike)
    return turns


async def _kill(bench: Bench, opened: Any, _call: asyncio.Task[object]) -> None:
    bench.process_of(opened).kill()


async def _stop(bench: Bench, opened: Any, _call: asyncio.Task[object]) -> None:
    process = bench.process_of(opened)
    process.stop()
    await asyncio.sleep(_STILL_SECONDS)
    process.resume()


async def _cut(network: Network, _opened: Any, _call: asyncio.Task[object]) -> None:
    network.cut()


async def _hold(network: Network, _opened: Any, _call: asyncio.Task[object]) -> None:
    network.hold()
    await asyncio.sleep(_STILL_SECONDS)
    network.release()


async def _half_open(network: Network, _opened: Any, call: asyncio.Task[object]) -> None:
    network.half_open()
    await asyncio.wait([call], timeout=2 * TIMEOUT_SECONDS)
    network.cut()
    network.release()


async def _lose_request(network: Network, _opened: Any, _call: asyncio.Task[object]) -> None:
    network.lose_request()


async def _lose_reply(network: Network, _opened: Any, _call: asyncio.Task[object]) -> None:
    network.lose_reply()


NETWORK_STRIKES: Final = {
    "cut": _cut,
    "held": _hold,
    "half-open": _half_open,
    "request lost": _lose_request,
    "reply lost": _lose_reply,
}

#: How often each of them happens: a lost reply is what a careless backend makes most of.
OFTEN: Final = (*("reply lost",) * 4, *("request lost",) * 2, *("cut",) * 2, "held", "half-open")
