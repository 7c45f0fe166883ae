"""What a check works with: fresh spaces, openings of them, replicas, examples, time and counts of work."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pprint
import random
import secrets
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from deerflow_backends.capabilities import OPTIONS
from deerflow_backends.clocks import wall_clock
from deerflow_backends.streams import Reach
from deerflow_conformance.checks import Check, CouldNotRun, NotApplicable, Unkept
from deerflow_conformance.conformances import PluginRecipe
from deerflow_conformance.faces import face_of
from deerflow_conformance.isolation import VIRTUAL_SECONDS, Blocked, run_isolated
from deerflow_conformance.networks import Network
from deerflow_conformance.promises import Capability
from deerflow_conformance.replicas import Process
from deerflow_conformance.rivals import Rivals
from deerflow_conformance.servers import Server
from deerflow_conformance.spaces import Space
from deerflow_conformance.virtual_time import START_MICROSECONDS, VirtualTimeLoop

if TYPE_CHECKING:
    from deerflow_conformance.conformances import Conformance

#: How many examples a property is given, by how dear they are.
_EXAMPLES: Final[dict[Reach, int]] = {"process": 16, "host": 8, "network": 8}
#: How many writes must be seen to go through the kit's proxies, and in the author's counts; to a cluster of as many
#: nodes, one each.
_TRIES: Final = 8
#: How long a failing program is shortened, in real seconds.
_SHRINK_SECONDS: Final = 5.0


class _Enough(BaseException):
    """A failing program has been shortened for long enough. No `Exception`: Hypothesis passes it on at once."""


class Bench:
    """What one run of one capability's checks works with. Closed by `close`, which removes what it made.

    Attributes:
        capability: Whose checks run.
        reach: What the backend says of itself.
        exempt: The promises that it declares as not applying to it, with its reasons.
        virtual: Whether time is virtual, so that sleeping costs nothing.
        seed: What the generated programs are drawn from.
        short_ttl: An age worth waiting for, in seconds.
        program: The failing program of the last `explore` or `run` that failed, None if nothing was generated.
        swallowed: Whether the last error inside an opening would not have come out of the author's function.
        skipped: What `not_applicable` or `could_not_run` raised last.
        unseen: What `unseen_in_part` was told of the check that runs.
        random: For moments that the seed decides; anew for each check.
        durable: Whether what was acknowledged before the server's stop is said to be there after its start.
    """

    def __init__(self, conformance: Conformance, *, seed: int = 0, budget: float = 1.0, shorten: bool = True) -> None:
        self._conformance = conformance
        self._budget = budget
        self._phases = [Phase.generate, Phase.shrink] if shorten else [Phase.generate]
        self._folder = Path(tempfile.mkdtemp(prefix="deerflow-conformance-"))
        self._spaces = 0
        # Two runs against one server must never meet.
        self._run = f"k{secrets.token_hex(5)}"
        self._helper = Process(conformance)
        self.capability: Capability = conformance.capability
        self.reach: Reach = "process"
        self._asked = False
        self.exempt: dict[str, str] = {}
        self.virtual = conformance.virtual_time
        self.seed = seed
        self.short_ttl = 30.0 if self.virtual else 1.0
        self.program: str | None = None
        self.swallowed = False
        self.skipped: NotApplicable | CouldNotRun | None = None
        self.unseen: list[str] = []
        self.durable = conformance.durable
        self.random = random.Random()  # noqa: S311  # nothing secret
        self._server = Server(conformance)
        self._rivals = Rivals(conformance)
        self._wants_rivals = False
        self._label = ""
        #: What `run` was given, while a check is asked for its bodies and not run.
        self._gathered: list[Callable[[], Coroutine[Any, Any, None]]] | None = None
        self._counted = 0
        self._counting = False
        #: Whether the author's count of that name rises with what is written, once that was tried.
        self._rises: dict[str, bool] = {}

    @property
    def known_reach(self) -> Reach | None:
        """What the backend says of its reach, or None as long as nobody has asked it."""
        return self.reach if self._asked else None

    def close(self) -> None:
        """End the helper processes, if there are any, and remove the folder."""
        self._helper.close()
        self._rivals.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------ places and objects

    def space(self, *, timeout_seconds: float = 30.0, publish_timeout_seconds: float = 10.0, **options: Any) -> Space:
        """Return a fresh space whose capability opens with *options* and these timeouts.

        Long enough for a busy machine: only where waiting in vain is what is looked at they are short.
        """
        self._spaces += 1
        return Space(
            f"{self._run}_{self._spaces}",
            OPTIONS[self.capability](**options),
            self._folder,
            self._virtual_clock if self.virtual else wall_clock,
            timeout_seconds,
            publish_timeout_seconds,
        )

    def space_like(self, space: Space) -> Space:
        """Return a fresh space whose name begins with the name of *space*, to see whether prefixes are told apart."""
        self._spaces += 1
        return replace(space, name=f"{space.name}_{self._spaces}")

    @asynccontextmanager
    async def open(self, space: Space | None = None, **options: Any) -> AsyncIterator[Any]:
        """Open the capability on *space*, or on a fresh space with *options*. Twice on one space: two instances."""
        if space is not None and options:
            raise TypeError("a space has its options: give them to space()")
        opening = self._conformance.open(space or self.space(**options))
        opened = await opening.__aenter__()
        try:
            yield opened
        except BaseException as error:
            # Whatever the function does with it: what a check found must not be lost.
            self.swallowed = bool(await opening.__aexit__(type(error), error, error.__traceback__))
            raise
        await opening.__aexit__(None, None, None)

    def replica(self, space: Space) -> AbstractAsyncContextManager[Any]:
        """Open the capability on *space* as another replica would: in another process, if the reach allows one."""
        return self.open(space) if self.reach == "process" else self._helper.open(space)

    def rival(self, space: Space, *, flush_seconds: float | None = None) -> AbstractAsyncContextManager[Any]:
        """Open the capability on *space* in a process of its own, which may be killed: see `process_of`.

        Where the reach is one process it is opened in this one.

        Args:
            flush_seconds: Of counters: put a buffer before them over there, which flushes so often.
        """
        return self.open(space) if self.reach == "process" else self._rivals.open(space, flush_seconds)

    @staticmethod
    def process_of(rival: Any) -> Process:
        """Return the process that a *rival* lives in: to kill, stop and resume it."""
        process: Process = rival.process
        return process

    @asynccontextmanager
    async def network(self, space: Space) -> AsyncIterator[Network]:
        """Put the kit's proxies between the backend and its servers, for what opens the network's ``space``.

        Where there is no server the check does not apply; where the author's function does not use `Space.via`, or not
        for all that the backend asks its servers, it could not run.
        """
        if self.reach != "network":
            self.not_applicable(f"its reach is one {self.reach}: there is no network between it and its data")
        network = Network(space)
        try:
            await self._try_out(network)
            yield network
        finally:
            await network.close()

    async def _try_out(self, network: Network) -> None:
        """See that what the backend asks goes through *network*, in another space."""
        put = face_of(self.capability).slots[0].put
        async with self.open(replace(self.space(), routes=network.space.routes)) as opened:
            before = network.requests
            for number in range(_TRIES):
                await put(opened, f"through the network {number}", number)
            asked = network.requests - before
        if not network.made:
            self.could_not_run(
                "no connection went through the kit's proxy: open what space.via(url) returns in place of the url"
            )
        if asked < _TRIES:
            self.could_not_run(
                f"of {_TRIES} writes {asked} went through the kit's proxy: addresses that a server tells of, such as "
                f"those of a cluster's nodes, must lead through space.via(url), too"
            )

    async def stop_server(self) -> None:
        """Stop the server as the author does; where he did not say how, the check does not apply."""
        if self._conformance.start is None or self._conformance.stop is None:
            self.without_server("start= and stop=", "restarted")
        await self._server.stop()

    async def start_server(self) -> None:
        """Start it again."""
        await self._server.start()

    async def restart(self) -> None:
        """Stop the server and start it again."""
        await self.stop_server()
        await self.start_server()

    async def owned(self, space: Space) -> Any:
        """Return what the backend owns of *space* by the author's own count, or None if the author gave none."""
        if self._conformance.owned is None:
            return None
        counted = self._conformance.owned(space)
        return await counted if inspect.isawaitable(counted) else counted

    async def expect_owned_counts(self) -> None:
        """See that the author's count of what is owned, if there is one, rises; if not, the check could not run."""
        if self._conformance.owned is not None and not await self._rise("owned", self.owned):
            self.could_not_run(
                f"owned= was no more after {_TRIES} writes than before: it must count what is stored of the space that "
                "it is given, in the same database and under the same names as the backend"
            )

    async def expect_work_counts(self) -> None:
        """See that the author's count of work, if there is one, rises; if not, the check could not run."""

        async def count(_: Space) -> int:
            return self.work()

        if self._conformance.work is not None and not await self._rise("work", count):
            self.could_not_run(
                f"work= was no more after {_TRIES} writes than before: it must count what was done so far through all "
                "that the function has opened in this process"
            )

    async def _rise(self, name: str, count: Callable[[Space], Awaitable[Any]]) -> bool:
        """Whether the author's count *name* is higher after some writes into a space than before; tried once."""
        if name not in self._rises:
            space = self.space()
            put = face_of(self.capability).slots[0].put
            async with self.open(space) as opened:
                before = await count(space)
                for number in range(_TRIES):
                    await put(opened, f"counted {number}", number)
                self._rises[name] = await count(space) > before
        return self._rises[name]

    # ------------------------------------------------------------------ running

    def run(self, body: Callable[[], Coroutine[Any, Any, None]], *, virtual_seconds: float = VIRTUAL_SECONDS) -> None:
        """Run *body* once, in a fresh event loop, with a deadline; nothing may be left over.

        Args:
            body: Makes the coroutine.
            virtual_seconds: The deadline in virtual time, more for what takes hours there; in real time it is 60 s.
        """
        if self._gathered is not None:
            self._gathered.append(body)
            return
        self.program = None
        try:
            self._isolated(body, virtual_seconds=virtual_seconds)
        except Blocked as error:
            raise Unkept("an end", str(error)) from error

    def passing_together(self, checks: Iterable[Check]) -> frozenset[str]:
        """Run the bodies of *checks* at the same time; return the names of those that passed.

        Whoever is not among them is to be run alone, to be judged: it may have failed, or not apply, or something was
        left over, and then nobody can tell whose it is.
        """
        bodies = {check.name: gathered for check in checks if (gathered := self._bodies_of(check))}
        passed: list[str] = []

        async def run(name: str) -> None:
            await asyncio.gather(*(body() for body in bodies[name]))
            passed.append(name)

        async def all_together() -> None:
            await asyncio.gather(*map(run, bodies), return_exceptions=True)

        self._have_processes()
        try:
            self._isolated(all_together)
        except (Exception, Blocked):
            return frozenset()
        return frozenset(passed)

    def _bodies_of(self, check: Check) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        gathered: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._gathered = gathered
        try:
            check.function(self)
        except (NotApplicable, CouldNotRun):
            gathered.clear()
        finally:
            self._gathered = None
        return gathered

    def explore(self, strategy: SearchStrategy[Any], body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Run *body* with many programs drawn from *strategy*, each as `run` does; a failing one is shortened."""
        self.program = None
        failed: list[tuple[Any, BaseException]] = []
        first_failed_at = 0.0
        # The same for all: a program that failed must fail again, or it could not be shortened.
        order = self.random.random()

        def example(program: Any) -> None:
            nonlocal first_failed_at
            if failed and time.monotonic() - first_failed_at > _SHRINK_SECONDS:
                raise _Enough
            try:
                self._isolated(lambda: body(program), order)
            except (NotApplicable, CouldNotRun):
                raise
            except (Exception, Blocked) as error:
                first_failed_at = first_failed_at or time.monotonic()
                failed.append((program, error))
                raise

        try:
            self._given(strategy, example)
        except (_Enough, Flaky, Blocked) as error:
            # The last one that failed is the shortest so far.
            program, failure = failed[-1]
            self.program = _program_text(program)
            if isinstance(error, _Enough):
                self.program += f"\n# the shortest that was found in {_SHRINK_SECONDS:g} s"
            if isinstance(error, Flaky):
                failure.add_note("It does not fail every time: the backend is not deterministic here.")
            if isinstance(failure, Blocked):
                raise Unkept("an end", str(failure)) from failure
            raise failure from None
        except (NotApplicable, CouldNotRun):
            raise
        except Exception:
            if failed:
                self.program = _program_text(failed[-1][0])
            raise

    def _given(self, strategy: SearchStrategy[Any], example: Callable[[Any], None]) -> None:
        examples = max(3, round(_EXAMPLES[self.reach] * self._budget))

        @seed(self.seed ^ zlib.crc32(f"{self.capability} {self._label}".encode()))
        @settings(
            database=None,
            deadline=None,
            max_examples=examples,
            phases=self._phases,
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,  # the kit shows the program itself
            suppress_health_check=[
                HealthCheck.data_too_large,
                HealthCheck.too_slow,
                HealthCheck.large_base_example,
                HealthCheck.filter_too_much,
            ],
        )
        @given(strategy)
        def explored(program: Any) -> None:
            example(program)

        explored()

    def _have_processes(self) -> None:
        if self.reach != "process":
            self._helper.ready()
            if self._wants_rivals:
                self._rivals.ready()

    def _isolated(
        self,
        body: Callable[[], Coroutine[Any, Any, None]],
        order: float | None = None,
        *,
        virtual_seconds: float = VIRTUAL_SECONDS,
    ) -> None:
        self._have_processes()  # before what is counted as left over
        if order is None:
            order = self.random.random()
        shuffled = random.Random(order) if self.virtual else None  # noqa: S311
        try:
            run_isolated(body, virtual=self.virtual, shuffled=shuffled, virtual_seconds=virtual_seconds)
        finally:
            self._stop_counting()
            self._server.mend()

    def declared(self, reach: Reach, exempt: dict[str, str]) -> None:
        """Take down what the backend says of itself."""
        self.reach, self.exempt, self._asked = reach, exempt, True

    def begin(self, check: Check) -> None:
        """Prepare for *check*, so that each draws other programs and moments."""
        self._label = check.name
        self.random = random.Random(f"{self.seed} {self.capability} {check.name}")  # noqa: S311
        self._wants_rivals = check.level in ("L2", "L3")
        self.unseen.clear()

    # ------------------------------------------------------------------ time

    async def sleep(self, seconds: float) -> None:
        """Wait; in virtual time it costs nothing."""
        await asyncio.sleep(seconds)

    async def soon(self, awaitable: Awaitable[Any], seconds: float = 15.0) -> Any:
        """Return what *awaitable* gives, or fail the check if it takes longer than *seconds*."""
        what = getattr(awaitable, "__qualname__", None) or type(awaitable).__name__
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await awaitable
        except TimeoutError:
            if deadline.expired():
                raise Unkept(f"{what} within {seconds:g} s", "nothing") from None
            raise

    @staticmethod
    def _virtual_clock() -> int:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return START_MICROSECONDS
        if not isinstance(loop, VirtualTimeLoop):
            raise TypeError("this clock is virtual and works in a virtual event loop only")
        return loop.clock()

    # ------------------------------------------------------------------ what does not apply, what it costs

    def volume(self, count: int) -> int:
        """Return how many things a check takes that is about many, *count* with a budget of 1; a tenth at least."""
        return max(count // 10, round(count * self._budget))

    def not_applicable(self, reason: str) -> NoReturn:
        """End the check as *not applicable*: only for what the contract itself exempts."""
        self.skipped = NotApplicable(reason)
        raise self.skipped

    def not_given(self, arguments: str, so: str) -> NoReturn:
        """End the check as *not applicable* for want of *arguments*, which only a function in a test file can have."""
        by_name = isinstance(self._conformance.recipe, PluginRecipe)
        who = "only a test file's function can be given" if by_name else "the function was not given"
        self.not_applicable(f"{who} {arguments}, so {so}")

    def without_server(self, arguments: str, done: str) -> NoReturn:
        """End the check as *not applicable* where nobody said how a server can be *done* something to."""
        if self.reach != "network" and self._conformance.start is None:
            self.not_applicable(f"its reach is one {self.reach}: there is no server that could be {done}")
        self.not_given(arguments, f"no server was {done}")

    def could_not_run(self, reason: str) -> NoReturn:
        """End the check without an answer: something that it needs is missing, and the verdict is incomplete."""
        self.skipped = CouldNotRun(reason)
        raise self.skipped

    def unseen_in_part(self, reason: str) -> None:
        """Take down what the check cannot see: it goes on, and if it passes, the promise is said to be kept in part."""
        self.unseen.append(reason)

    @property
    def sees_all_work(self) -> bool:
        """Whether `work` counts all that a call does: by the author's count, or where one process is all there is."""
        return self._conformance.work is not None or self.reach == "process"

    def work(self) -> int:
        """Return how much work was done so far: only differences mean something, within one body.

        It is the author's own count of statements or instructions if `conform` was given one (``work=``), else the
        lines of Python that this thread ran since the first call of `work` in the body.
        """
        if self._conformance.work is not None:
            return self._conformance.work()
        if not self._counting:
            self._counting, self._counted = True, 0
            self._tracer_before = sys.gettrace()
            sys.settrace(self._count)
        return self._counted

    def _count(self, _frame: FrameType, event: str, _argument: object) -> Any:
        # Lines and not calls: a loop over everything need not call anything.
        if event == "line":
            self._counted += 1
        return self._count

    def _stop_counting(self) -> None:
        if self._counting:
            self._counting = False
            sys.settrace(self._tracer_before)


def _program_text(program: Any) -> str:
    with contextlib.suppress(Exception):
        return pprint.pformat(program, width=100, compact=True, sort_dicts=False)
    return repr(program)
