"""Several clients at once: what each of them calls, drawn as data, what strikes them meanwhile, and their history.

Two of the clients share one instance, one has another, and two are rivals, which live in processes of their own where
the reach allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from deerflow_backends.errors import Conflict
from deerflow_conformance.bench import Bench
from deerflow_conformance.digits import Digits, from_steps
from deerflow_conformance.histories import Call, History, brief
from deerflow_conformance.replicas import ReplicaDied
from deerflow_conformance.spaces import Space

#: The clients, by number and name.
CLIENTS: Final = ("one", "same", "other", "rival", "rival 2")
#: Those that can be killed, where the reach is beyond one process.
RIVALS: Final = (3, 4)
#: How many turns a program has, all clients' together, but for one in ten that is shorter.
_LEAST: Final = 12
_MOST: Final = 36
#: After how many turns of the event loop, and then seconds, a call is cancelled.
_MOMENTS: Final = tuple((turns, seconds) for turns in range(5) for seconds in (0.0, 0.0002, 0.001))


@dataclass(frozen=True, slots=True)
class Ask:
    """One call as data: a method and its arguments."""

    name: str
    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        named = (f"{name}={brief(value)}" for name, value in self.named.items())
        return f"{self.name}({', '.join([*map(brief, self.positional), *named])})"


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens while a call is under way, so many turns of the event loop and then seconds after it began."""

    what: str
    turns: int = 0
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"{self.what} after {self.turns} turns and {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of one client; each client makes its calls one after the other.

    Attributes:
        client: Which of `CLIENTS`.
        pause: How many turns of the event loop it waits before.
        ask: What it calls.
        strike: What happens meanwhile, None if nothing.
    """

    client: int
    pause: int
    ask: Ask
    strike: Strike | None = None

    def __repr__(self) -> str:
        return f"<{CLIENTS[self.client]}, {self.pause} turns later: {self.ask}{f', {s}' if (s := self.strike) else ''}>"


#: Makes what a client asks, of a number, the client and the place in the program: by that, values can differ.
Decode: TypeAlias = Callable[[Digits, int, int], Ask]
#: Makes a call on what was opened.
Take: TypeAlias = Callable[[Any, Ask], Awaitable[object]]
#: Is given what the client uses, and the call that is under way.
Striking: TypeAlias = Callable[[Any, "asyncio.Task[object]"], Awaitable[None]]


async def take(opened: Any, ask: Ask) -> None:
    """Make a call as it is."""
    await getattr(opened, ask.name)(*ask.positional, **ask.named)


async def _cancel(_opened: Any, task: asyncio.Task[object]) -> None:
    task.cancel()


@dataclass(frozen=True, slots=True)
class Rivalry:
    """What a check lets rivals do, and how it judges what came of it.

    Attributes:
        decode: Makes what they ask.
        afterwards: What is read in the end, when all is quiet.
        judge: Fails the check if the calls could not have come of a backend that keeps the promise.
        first: What is called before the rivals begin.
        take: Makes a call.
    """

    decode: Decode
    afterwards: Sequence[Ask]
    judge: Callable[[Sequence[Call]], None]
    first: Sequence[Ask] = ()
    take: Take = take

    def turn(self, digits: Digits, place: int) -> Turn:
        """Make one turn of a number; one in eight is cancelled."""
        client, pause = digits.upto(len(CLIENTS) - 1), digits.pick((0, 0, 1, 2, 3, 5))
        strike = Strike("cancel", *digits.pick(_MOMENTS)) if digits.upto(7) == 7 else None
        return Turn(client, pause, self.decode(digits, client, place), strike)


def explore_rivals(bench: Bench, rivalry: Rivalry) -> None:
    """Let rivals play drawn programs, and judge what each gives."""

    async def body(program: list[Turn]) -> None:
        space = bench.space()
        history = History(bench.capability)
        await play(bench, rivalry, program, space, history)
        await read_and_judge(bench, rivalry, space, history)

    def decode(digits: Digits, steps: list[Digits]) -> list[Turn]:
        # Most programs are long, and the shortest have one turn.
        begin = digits.pick((_LEAST - 1, *(0,) * 9))
        return [rivalry.turn(step, place) for place, step in enumerate(steps[begin:])]

    bench.explore(from_steps(decode, least=_LEAST, most=_MOST), body)


async def play(
    bench: Bench,
    rivalry: Rivalry,
    program: Sequence[Turn],
    space: Space,
    history: History,
    *,
    strikes: Mapping[str, Striking] | None = None,
    borne: tuple[type[BaseException], ...] = (),
    then: Callable[[], None] | None = None,
) -> None:
    """Let all clients play at the same time, on *space*, until each has made its calls or is dead.

    Args:
        strikes: What can happen to a call besides being cancelled, by name.
        borne: The errors that are an outcome and no failure, besides conflicts.
        then: Called when all have, before anything is closed.
    """
    striking = {"cancel": _cancel, **(strikes or {})}
    outcomes: tuple[type[BaseException], ...] = (Conflict, *borne)
    async with (
        bench.open(space) as one,
        bench.open(space) as other,
        bench.rival(space) as third,
        bench.rival(space) as fourth,
    ):
        beginner = history.client("first", other)
        for ask in rivalry.first:
            with suppress(*outcomes):
                await rivalry.take(beginner, ask)

        async def client(number: int, opened: Any) -> None:
            recorded = history.client(CLIENTS[number], opened)
            for turn in program:
                if turn.client == number:
                    await _turns(turn.pause)
                    try:
                        await struck(bench, rivalry.take(recorded, turn.ask), turn.strike, opened, striking)
                    except outcomes as error:
                        if isinstance(error, ReplicaDied):
                            return

        await _all_of(client(number, opened) for number, opened in enumerate((one, one, other, third, fourth)))
        if then is not None:
            then()


async def read_and_judge(bench: Bench, rivalry: Rivalry, space: Space, history: History) -> None:
    """Read everything through another instance, now that all is quiet, and judge what all calls gave."""
    async with bench.open(space) as opened:
        reader = history.client("afterwards", opened)
        for ask in rivalry.afterwards:
            await rivalry.take(reader, ask)
    rivalry.judge(history.calls)


async def _all_of(clients: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Let all go on at the same time; end all as soon as one fails."""
    tasks = [asyncio.create_task(one) for one in clients]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def struck(
    bench: Bench,
    call: Awaitable[object],
    strike: Strike | None,
    opened: Any,
    striking: Mapping[str, Striking],
) -> None:
    """Wait for a call, and for what strikes it."""
    # Whatever happens, something else may go on before and after: in process most calls never wait.
    await asyncio.sleep(0)
    if strike is None:
        await call
        return
    task = asyncio.ensure_future(call)
    try:
        await _turns(strike.turns)
        if strike.seconds and not bench.virtual:
            await asyncio.sleep(strike.seconds)
        await striking[strike.what](opened, task)
        await asyncio.wait([task])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()
