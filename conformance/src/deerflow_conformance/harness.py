"""L0: is the author's function what the kit needs? Fails before any promise is judged, and says what to mend."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast, get_args

from deerflow_backends.memories import PutFact
from deerflow_backends.streams import Reach
from deerflow_backends.threads import NewThread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import Check, expect
from deerflow_conformance.promises import EXEMPTIBLE, HARNESS, Capability
from deerflow_conformance.protocols import PROTOCOLS, coroutines_of, iterators_of


def it_opens(bench: Bench) -> None:
    """The function yields one object with every method of the Protocol, a reach, and no exemption of its own making."""

    async def body() -> None:
        async with bench.open() as opened:
            missing = [
                name
                for name in [*coroutines_of(bench.capability), *iterators_of(bench.capability)]
                if not callable(getattr(opened, name, None))
            ]
            expect(not missing, f"a {PROTOCOLS[bench.capability].__name__}", f"{opened!r} without {', '.join(missing)}")
            reach = getattr(opened, "reach", None)
            expect(reach in get_args(Reach), f"a reach of {get_args(Reach)}", repr(reach))
            if bench.virtual:
                expect(reach == "process", "a reach of 'process' with virtual_time=True", repr(reach))
            exempt = dict(getattr(opened, "exempt", {}))
            allowed = ", ".join(sorted(EXEMPTIBLE))
            expect(exempt.keys() <= EXEMPTIBLE, f"nothing declared as not applying but {allowed}", exempt)
            expect(all(exempt.values()), "a reason for each promise that is declared as not applying", exempt)
            bench.declared(cast("Reach", reach), exempt)

    bench.run(body)


def it_reopens_and_isolates(bench: Bench) -> None:
    """The same space is the same data, in a second instance and after reopening; another space is none of it."""

    async def body() -> None:
        here, elsewhere = bench.space(), bench.space()
        async with bench.open(here) as first:
            await _write(bench.capability, first)
            async with bench.open(here) as second, bench.open(elsewhere) as other:
                seen = await _read(bench.capability, second)
                expect(seen, "a second instance on the same space to see what the first wrote", "nothing")
                seen = await _read(bench.capability, other)
                expect(not seen, "another space to be empty", "what was written in the first one")
        async with bench.open(here) as again:
            seen = await _read(bench.capability, again)
            expect(seen, "a space that is opened again to hold its data", "nothing")

    bench.run(body)


class _Marker(Exception):
    """Nothing but this module knows it."""


def it_lets_errors_through(bench: Bench) -> None:
    """What is raised where the function yields comes out of it, a cancellation too: or no failure would be seen."""

    async def body() -> None:
        for error in (_Marker(), asyncio.CancelledError()):
            bench.swallowed = False
            try:
                async with bench.open():
                    raise error
            except (_Marker, asyncio.CancelledError) as raised:
                expect(raised is error, f"the {type(error).__name__} that was raised at the yield", repr(raised))
            expect(not bench.swallowed, f"a {type(error).__name__} raised at the yield to come out", "it is swallowed")

    bench.run(body)


async def _write(capability: Capability, opened: Any) -> None:
    match capability:
        case "stream_bridge":
            await opened.publish("harness", "event", 1)
        case "memory":
            await opened.apply("harness", [PutFact(None, "fact", {"content": "text"})])
        case "thread_index":
            await opened.create(NewThread("harness", "user"))
        case "counters":
            await opened.record("harness", calls=1)


async def _read(capability: Capability, opened: Any) -> bool:
    match capability:
        case "stream_bridge":
            return await opened.status("harness") is not None
        case "memory":
            return await opened.get_fact("harness", "fact", agent_name=None) is not None
        case "thread_index":
            return await opened.get("harness", user_id="user") is not None
        case "counters":
            return bool((await opened.totals("harness")).calls)


HARNESS_CHECKS: Final = tuple(
    Check(HARNESS.number, function.__name__, (function.__doc__ or "").strip(), function, HARNESS.level)
    for function in (it_opens, it_reopens_and_isolates, it_lets_errors_through)
)
