"""Writes that are made while something is wrong, and what must be true of each afterwards: G5, whatever the fault.

What returned took effect once. What raised `BackendUnavailable` with ``maybe_written=False`` never takes effect, also
not later. Everything else, cancelled calls and those of processes that were killed, takes effect at most once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import Unkept, unkept
from deerflow_conformance.expectations import alike
from deerflow_conformance.promises import Capability
from deerflow_conformance.replicas import ReplicaDied
from deerflow_conformance.store_writes import COUNTER_WRITES, MEMORY_WRITES, THREAD_WRITES
from deerflow_conformance.stream_writes import STREAM_WRITES
from deerflow_conformance.writes import UNHEARD, Write, Writes

WRITES: Final[Mapping[Capability, Writes]] = {
    "stream_bridge": STREAM_WRITES,
    "memory": MEMORY_WRITES,
    "thread_index": THREAD_WRITES,
    "counters": COUNTER_WRITES,
}

#: How long calls wait for their server where waiting in vain is what is looked at, in seconds.
TIMEOUT_SECONDS: Final = 0.8
#: How much later than that they may end: what a busy machine takes, and far from waiting for ever.
GRACE_SECONDS: Final = 10.0
#: How soon afterwards everything must work again, by itself.
RECOVERY_SECONDS: Final = 30.0
#: How long after a fault what was not to happen is looked for: what was on its way has arrived long before.
LATER_SECONDS: Final = 0.8


class Attempt:
    """One write, and what was heard of it.

    Attributes:
        write: What kind.
        name: What it is made under; in what is sent it is a mark to find it by.
        what: Names it in messages.
        heard: What came of the call, for messages; None as long as it has not ended.
        returned: Whether it did.
    """

    def __init__(self, writes: Writes, write: Write, name: str, how: str) -> None:
        self.write, self.name = write, name
        self.what = f"{write.name} ({how})"
        self.heard: str | None = None
        self.returned = False
        self._state = writes.state
        self._answer: Any = UNHEARD
        self._certain = False
        self._unkept: Unkept | None = None
        self._before: Any = None
        self._settled: Any = None

    async def prepare(self, observer: Any) -> None:
        """Write what is there before."""
        await self.write.prepare(observer, self.name)
        self._before = await self._state(observer, self.name)

    async def make(self, opened: Any, seconds: float = TIMEOUT_SECONDS + GRACE_SECONDS) -> None:
        """Make the call, and take down what comes of it within *seconds*; what it must not raise is told by `judge`."""
        self.heard = "nothing was heard of it"
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                self._answer = await self.write.call(opened, self.name)
        except BackendUnavailable as error:
            self._certain = not error.maybe_written
            self.heard = f"it raised {error!r} with maybe_written={error.maybe_written}"
        except ReplicaDied:
            self.heard = "its process was killed meanwhile"
        except asyncio.CancelledError:
            self.heard = "it was cancelled"
            raise
        except Exception as error:
            late = isinstance(error, TimeoutError) and deadline.expired()
            wanted = f"an answer or BackendUnavailable from {self.what}"
            if late:
                self._unkept = Unkept(f"{wanted} by its timeout", f"nothing in {seconds:g} s")
            else:
                self._unkept = Unkept(wanted, repr(error))
            # Of a timeout: the cancellation, which knows where the call was waiting.
            self._unkept.__cause__ = error.__cause__ if late else error
        else:
            self.returned = self._certain = True
            self.heard = f"it returned {self._answer!r}"

    async def settle(self, observer: Any) -> None:
        """See what a call did whose outcome is certain, and write what would show if it were done later, or again."""
        if self._unkept is not None:
            raise self._unkept
        if self._certain:
            after = await self._state(observer, self.name)
            if self.returned and not self.write.once(self.name, self._before, after, self._answer):
                self._fail("once, and to answer so", after)
            if not self.returned and not alike(self._before, after):
                self._fail("never", after)
            await self.write.later(observer, self.name)
            self._settled = await self._state(observer, self.name)

    async def look_again(self, observer: Any) -> None:
        """See that nothing was done since `settle`; and that a call of unknown outcome was done once or not at all."""
        after = await self._state(observer, self.name)
        if self._certain:
            if not alike(self._settled, after):
                self._before = self._settled
                self._fail("no effect any more once its outcome was known", after)
        elif not alike(self._before, after) and not self.write.once(self.name, self._before, after, UNHEARD):
            self._fail("once or never", after)

    def _fail(self, times: str, after: Any) -> None:
        wanted = f"{self.what} to take effect {times}: {self.heard}"
        unkept(wanted, f"before: {self._before!r}\nafterwards: {after!r}")


class Attempts:
    """Makes attempts of all kinds of writes of a capability, each under a name of its own."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._writes = WRITES[bench.capability]
        self._numbers = itertools.count(1)
        self.made: list[Attempt] = []

    @property
    def kinds(self) -> int:
        """How many kinds there are."""
        return len(self._writes.kinds)

    async def prepare(self, observer: Any, how: str, *, turn: int | None = None) -> list[Attempt]:
        """Prepare one attempt of each kind, or of the kind whose *turn* it is; *how* says what will be wrong."""
        kinds = self._writes.kinds if turn is None else [self._writes.kinds[turn % self.kinds]]
        new = [Attempt(self._writes, write, f"write {next(self._numbers):05}", how) for write in kinds]
        self.made += new
        await asyncio.gather(*(attempt.prepare(observer) for attempt in new))
        return new

    async def until_all_return(self, opened: Any, observer: Any, how: str) -> None:
        """Expect a write of each kind to return soon; one that does not is made again, under another name."""
        waiting = {*range(self.kinds)}

        async def trying() -> None:
            while waiting:
                made = {turn: (await self.prepare(observer, how, turn=turn))[0] for turn in sorted(waiting)}
                await make_all(opened, made.values())
                waiting.difference_update(turn for turn, attempt in made.items() if attempt.returned)

        try:
            async with asyncio.timeout(RECOVERY_SECONDS):
                await trying()
        except TimeoutError:
            names = [self._writes.kinds[turn].name for turn in sorted(waiting)]
            unkept(f"every kind of write to return within {RECOVERY_SECONDS:g} s ({how})", f"nothing of {names}")

    async def judge(self, observer: Any, later_seconds: float = LATER_SECONDS) -> None:
        """Judge everything that was made, once nothing is wrong any more."""
        await asyncio.gather(*(attempt.settle(observer) for attempt in self.made))
        await self._bench.sleep(later_seconds)
        await asyncio.gather(*(attempt.look_again(observer) for attempt in self.made))


async def make_all(opened: Any, attempts: Iterable[Attempt], seconds: float = TIMEOUT_SECONDS + GRACE_SECONDS) -> None:
    """Make attempts at the same time, and return when all have ended."""
    await asyncio.gather(*(attempt.make(opened, seconds) for attempt in attempts))


def returned(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return those that returned."""
    return [attempt for attempt in attempts if attempt.returned]
