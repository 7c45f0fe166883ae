"""The command ``check``: open what is configured and take each capability once there and back."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

from rich.text import Text

from deerflow_backends.backends import Backends, open_backends
from deerflow_backends.cli.output import cell, console, print_json, table
from deerflow_backends.configuration import Configuration
from deerflow_backends.counters import Counts, ModelCounters
from deerflow_backends.errors import BackendsError, RevisionConflict
from deerflow_backends.hookspecs import Finding
from deerflow_backends.memories import MemoryStore, PutFact
from deerflow_backends.mistakes import one_line, scrub
from deerflow_backends.streams import END_SENTINEL, StreamBridge, StreamEvent, StreamItem
from deerflow_backends.threads import NewThread, ThreadIndex

_VALUE: Final = {"content": "written by deerflow-backends check 🦌", "size": 2**70, "share": 1.0}
#: How long an event that is there already may take to reach a subscriber.
_PATIENCE_SECONDS: Final = 10.0
_LEVEL_STYLES: Final = {"info": "dim", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True, slots=True)
class Probe:
    """How one capability did.

    Attributes:
        capability: Its name.
        backend: Its backend.
        connection: The connection it goes over.
        reach: How far it carries.
        write_seconds: How long one write took, None if it did not get so far.
        read_seconds: The same for reading it back.
        problem: What went wrong, None if nothing did.
    """

    capability: str
    backend: str
    connection: str
    reach: str
    write_seconds: float | None
    read_seconds: float | None
    problem: str | None


class Broken(Exception):
    """A capability answered, but not what it promises."""


class _Watch:
    """Takes the time of a write and of a read."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def time(self, call: Awaitable[Any]) -> Any:
        begun = perf_counter()
        answer = await call
        self.seconds.append(perf_counter() - begun)
        return answer


def expect(what: str, wanted: object, got: object) -> None:
    """Raise `Broken` if *got* is not *wanted*."""
    if got != wanted:
        raise Broken(f"{what}: wanted {wanted!r}, got {got!r}")


async def probe_stream_bridge(bridge: StreamBridge, name: str, watch: _Watch) -> None:
    """Publish one event and END, read both, and clean up."""

    async def following() -> StreamItem:
        return await anext(items)

    try:
        event_id = await watch.time(bridge.publish(name, "check", _VALUE))
        items = bridge.subscribe(name, heartbeat_interval=_PATIENCE_SECONDS)
        expect("the event read", StreamEvent(event_id, "check", _VALUE), await watch.time(following()))
        await bridge.publish_end(name)
        if (last := await following()) is not END_SENTINEL:
            raise Broken(f"the end of the stream: wanted END, got {last!r}")
    finally:
        await bridge.cleanup(name)
    expect("the stream after its cleanup", None, await bridge.status(name))


async def probe_memory(memory: MemoryStore, name: str, watch: _Watch) -> None:
    """Write one fact, read it, fail to write against an old revision, and erase the user."""
    change = [PutFact(None, "check", _VALUE)]
    try:
        await watch.time(memory.apply(name, change, expected_revision=0))
        loaded = await watch.time(memory.load(name))
        expect("the facts read", [("check", _VALUE)], [(fact.fact_id, fact.value) for fact in loaded.facts])
        try:
            await memory.apply(name, change, expected_revision=0)
        except RevisionConflict:
            pass
        else:
            raise Broken("a write against an old revision: wanted RevisionConflict, got success")
    finally:
        await memory.erase(name)
    expect("the user's revision after erasing", 0, (await memory.load(name)).revision)


async def probe_thread_index(threads: ThreadIndex, name: str, watch: _Watch) -> None:
    """Create one thread, list it, and delete it."""
    try:
        created = await watch.time(threads.create(NewThread(name, name, metadata=_VALUE)))
        expect("the threads listed", (created,), (await watch.time(threads.list(name))).items)
    finally:
        await threads.delete(name, user_id=name)
    expect("the threads after deletion", 0, await threads.count(name))


async def probe_counters(counters: ModelCounters, name: str, watch: _Watch) -> None:
    """Count one call, read the sum, and reset the model."""

    async def count() -> None:
        await counters.record(name, calls=1, successes=1)
        await counters.totals(name)  # counting is buffered: reading stores what was counted

    try:
        await watch.time(count())
        expect("the totals read", Counts(calls=1, successes=1), await watch.time(counters.totals(name)))
    finally:
        await counters.reset(name)
    expect("the totals after a reset", Counts(), await counters.totals(name))


_PROBES: Final[Mapping[str, Callable[[Any, str, _Watch], Awaitable[None]]]] = {
    "stream_bridge": probe_stream_bridge,
    "memory": probe_memory,
    "thread_index": probe_thread_index,
    "counters": probe_counters,
}


async def probe(backends: Backends, capability: str) -> Probe:
    """Try one capability under a name of its own, and remove what that wrote."""
    choice = backends.chosen[capability]
    live = getattr(backends, capability)
    watch = _Watch()
    problem = None
    try:
        await _PROBES[capability](live, f"deerflow-backends-check-{uuid.uuid4().hex}", watch)
    except (BackendsError, Broken) as error:
        problem = scrub(one_line(str(error)), ())
    except Exception as error:
        problem = scrub(one_line(f"a defect of the plugin: {type(error).__name__}: {error}"), ())
    write, read, *_ = [*watch.seconds, None, None]
    return Probe(capability, choice.backend, choice.connection, live.reach, write, read, problem)


async def check(configuration: Configuration, *, as_json: bool) -> bool:
    """Try everything that is configured, print how it did, and return whether all of it is fine.

    Raises:
        BackendsError: As `deerflow_backends.open_backends` does; nothing was tried.
    """
    async with open_backends(configuration) as backends:
        probes = [await probe(backends, capability) for capability in _PROBES]
        findings = await backends.findings()
    levels = {finding.level for found in findings.values() for finding in found}
    fine = all(one.problem is None for one in probes) and "error" not in levels
    if as_json:
        found_as_json = {name: [asdict(finding) for finding in found] for name, found in findings.items()}
        source = {"file": configuration.file, "variables": configuration.variables}
        capabilities = [asdict(one) for one in probes]
        print_json({"ok": fine, "configuration": source, "capabilities": capabilities, "findings": found_as_json})
    else:
        file = configuration.file or "no configuration file"
        count = configuration.variables
        variables = f"{count} environment variable{'' if count == 1 else 's'}"
        console().print(cell(f"configuration: {file}; {variables}", "dim"), soft_wrap=True)
        _print(probes, findings)
    return fine


def _print(probes: list[Probe], findings: Mapping[str, list[Finding]]) -> None:
    out = console()
    listing = table("capability", "backend", "connection", "reach", "write", "read", "")
    listing.columns[4].justify = listing.columns[5].justify = "right"
    for one in probes:
        mark = Text("ok", "green") if one.problem is None else Text("bad", "bold red")
        times = (_milliseconds(one.write_seconds), _milliseconds(one.read_seconds))
        listing.add_row(*map(cell, (one.capability, one.backend, one.connection, one.reach)), *times, mark)
    out.print(listing)
    for one in probes:
        if one.problem:
            out.print(cell(f"{one.capability}: {one.problem}", "red"), soft_wrap=True)
    for name, found in findings.items():
        for finding in found:
            out.print(cell(f"{finding.level}: {name}: {finding.message}", _LEVEL_STYLES[finding.level]), soft_wrap=True)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
