"""Checks of publishers and subscribers at once, by the history of what each was told: S1, S3, S5 and S8."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Final

from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check
from deerflow_conformance.digits import Digits, from_steps
from deerflow_conformance.rivalries import Strike
from deerflow_conformance.stream_histories import expect_stream
from deerflow_conformance.stream_stories import PLACES, RUN, Story, Strikes, replay, story, tell
from deerflow_conformance.strikes import MOMENTS, NETWORK_STRIKES, OFTEN, TIMEOUT_SECONDS, process_strikes

#: How many calls of publishers a drawn story has at most, and one that something strikes has.
_MOST: Final = 30
_STRUCK: Final = 60
_NUMBER_BYTES: Final = 12


def _explore(bench: Bench, *promises: str, ends: bool = False) -> None:
    """Let drawn stories happen, and judge each by *promises*."""

    async def body(told: Story) -> None:
        space = bench.space()
        history = await tell(bench, told, space)
        await replay(bench, history, space)
        expect_stream(history, RUN, *promises)

    bench.explore(from_steps(partial(story, ends=ends), least=4, most=_MOST), body)


@check("S1", level="L2")
def all_rivals_see_one_order(bench: Bench) -> None:
    """Whoever publishes, alone or in batches, and whoever reads: all see one order, in which batches stay whole."""
    _explore(bench, "S1", "S2")


@check("S3", level="L2")
def who_comes_and_goes_misses_nothing(bench: Bench) -> None:
    """Whoever leaves and comes again on other replicas while rivals publish gets each event once, up to END."""
    _explore(bench, "S3", "S4", "G5")


@check("S5", level="L2")
def a_cursor_goes_on_among_rivals(bench: Bench) -> None:
    """An id that was seen is a place to go on from, on any replica, whatever is published meanwhile: never a gap."""
    _explore(bench, "S5", "S6")


@check("S8", level="L2")
def the_end_among_rivals_is_the_end(bench: Bench) -> None:
    """Rivals publish and end at once: nothing is stored after END, whoever is refused stored nothing, all get END."""
    _explore(bench, "S8", ends=True)


def _struck(bench: Bench, strikes: Sequence[tuple[str, Sequence[int]]], *, ends: bool = False) -> Story:
    """Draw a story in which each of *strikes* hits a call of one of its publishers, in the midst of it."""
    draw = bench.random
    steps = [Digits(draw.randbytes(_NUMBER_BYTES)) for _ in range(_STRUCK)]
    told = story(Digits(draw.randbytes(_NUMBER_BYTES)), steps, ends=False)
    publishers = {place: list(calls) for place, calls in told.publishers.items()}
    free = [(place, number) for place, calls in publishers.items() for number in range(len(calls) // 4, len(calls))]
    draw.shuffle(free)
    for what, places in strikes:
        place, number = next(one for one in free if one[0] in places)
        free.remove((place, number))
        strike = Strike(what) if what.endswith("lost") else Strike(what, draw.randrange(4), draw.choice(MOMENTS))
        publishers[place][number] = dataclasses.replace(publishers[place][number], strike=strike)
    if ends:
        last = publishers[draw.randrange(2)]
        last.insert(len(last) // 2, dataclasses.replace(last[0], size=0, strike=Strike("reply lost")))
    return dataclasses.replace(told, publishers=publishers)


def _happens(bench: Bench, told: Story, strikes: Strikes, *promises: str, restarts: bool = False) -> None:
    async def body() -> None:
        space = bench.space()
        history = await tell(bench, told, space, strikes=strikes, outages=restarts)
        await replay(bench, history, space)
        expect_stream(history, RUN, *promises, restarts=restarts)

    bench.run(body)


@check("S3", level="L3")
def nobody_misses_anything_when_processes_die(bench: Bench) -> None:
    """A process is killed and another stopped while they publish and read: what is stored comes once, to everybody."""
    strikes = process_strikes(bench)
    for _ in range(max(1, bench.volume(2))):
        _happens(bench, _struck(bench, [("SIGSTOP", [2]), ("SIGKILL", [3])]), strikes)


@check("S3", level="L3")
def nobody_misses_anything_on_a_bad_network(bench: Bench) -> None:
    """The network is cut, held, half-open, loses requests and replies: what is stored comes once, to everybody."""
    _on_a_bad_network(bench, _struck(bench, [(name, range(len(PLACES))) for name in OFTEN]))


@check("S8", level="L3")
def the_end_on_a_bad_network_is_the_end(bench: Bench) -> None:
    """END is called, and its reply lost, while the network is disturbed: it is durable, last, and everybody gets it."""
    few = [(name, range(len(PLACES))) for name in dict.fromkeys(OFTEN)]
    _on_a_bad_network(bench, _struck(bench, few, ends=True), "S8")


def _on_a_bad_network(bench: Bench, told: Story, *promises: str) -> None:
    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS)
        async with bench.network(space) as network:
            strikes = {name: partial(strike, network) for name, strike in NETWORK_STRIKES.items()}
            history = await tell(bench, told, network.space, strikes=strikes, calm=network.mend, outages=True)
        await replay(bench, history, space)
        expect_stream(history, RUN, *promises)

    bench.run(body)


@check("S3", level="L3")
def nobody_misses_anything_when_the_server_restarts(bench: Bench) -> None:
    """The server is killed and started again in the midst of publishing: what it acknowledged comes once."""
    if not bench.durable:
        bench.without_server("durable=True", "killed")

    async def restart(*_: object) -> None:
        await bench.restart()

    _happens(bench, _struck(bench, [("restart", range(len(PLACES)))]), {"restart": restart}, restarts=True)
