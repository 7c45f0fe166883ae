"""What is odd and allowed passes: no check asks for more than the contract promises."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import pytest

from deerflow_backends import changes, inprocess
from deerflow_backends.hub import Hub
from deerflow_backends.inprocess.counters import InProcessModelCounters
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge, StreamTable
from deerflow_backends.inprocess.threads import InProcessThreadIndex
from deerflow_conformance.judging import numbers_of
from deerflow_conformance.mutants import Patched, methods, together
from deerflow_conformance.promises import CAPABILITIES, Capability
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.results import State
from deerflow_conformance.runs import Run
from deerflow_conformance.spaces import Space

_CLASSES = {
    "stream_bridge": InProcessStreamBridge,
    "memory": InProcessMemoryStore,
    "thread_index": InProcessThreadIndex,
    "counters": InProcessModelCounters,
}
#: How long a call takes to a server that is far away.
_SLOW_SECONDS = 0.005
#: A wake-up may take so long (S14).
_LATE_SECONDS = 2.9

_OPEN: dict[Capability, Callable[..., Any]] = {
    "stream_bridge": inprocess.open_stream_bridge,
    "memory": inprocess.open_memory,
    "thread_index": inprocess.open_thread_index,
    "counters": inprocess.open_counters,
}
_apply, _export, _erase = InProcessMemoryStore.apply, InProcessMemoryStore.export, InProcessMemoryStore.erase


def _swept(capability: Capability) -> Callable[[Space], AsyncIterator[Any]]:
    """Open the capability as the reference does, with sweeps that are waited for in real time."""

    async def opened(space: Space) -> AsyncIterator[Any]:
        async with (
            inprocess.connect("conformance", namespace=space.name, clock=space.clock, sweep_seconds=20) as connection,
            _OPEN[capability](connection, space.options) as capability_,
        ):
            yield capability_

    return opened


def _delayed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def answered_later(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(_SLOW_SECONDS / 2)
        result = await method(*arguments, **options)
        await asyncio.sleep(_SLOW_SECONDS / 2)
        return result

    return answered_later


def _calls(capability: Capability) -> dict[str, Callable[..., Any]]:
    methods_ = vars(_CLASSES[capability]).items()
    return {name: one for name, one in methods_ if inspect.iscoroutinefunction(one) and not name.startswith("_")}


def slow(capability: Capability) -> Patched:
    """Every call takes its time, half of it after the work is done."""
    return methods(_CLASSES[capability], **{name: _delayed(method) for name, method in _calls(capability).items()})


def read_again_on_every_wake_up() -> Patched:
    """Nothing that is published is handed to subscribers: each wake-up makes them read."""
    return methods(StreamTable, feed=lambda self, run_id, head, entries: self.wake(run_id))


def woken_late() -> Patched:
    """Wake-ups take as long as they may."""
    due: set[tuple[Hub, str]] = set()

    def wake(hub: Hub, run_id: str) -> None:
        due.discard((hub, run_id))
        if not hub.binding.closed:
            hub.wake(run_id)

    def wake_later(self: StreamTable, run_id: str) -> None:
        for hub in self.hubs:
            if (hub, run_id) not in due:
                due.add((hub, run_id))
                asyncio.get_running_loop().call_later(_LATE_SECONDS, wake, hub, run_id)

    return methods(StreamTable, feed=lambda self, run_id, head, entries: wake_later(self, run_id), wake=wake_later)


def woken_for_nothing() -> Patched:
    """Each change wakes the subscribers of several runs, twice."""

    def feed(self: StreamTable, run_id: str, head: Any, entries: Any) -> None:
        for one in (run_id, *itertools.islice(self.streams, 8)) * 2:
            self.wake(one)

    return methods(StreamTable, feed=feed)


def read_one_by_one() -> Patched:
    """A read gives one event, however many are asked for."""
    read = InProcessStreamBridge.read

    async def one(self: Any, run_id: str, after: int, limit: int, max_bytes: int) -> Any:
        return await read(self, run_id, after, 1, max_bytes)

    return methods(InProcessStreamBridge, read=one)


def short_filtered_pages() -> Patched:
    """A page of threads with a filter on metadata has two at most, and a cursor."""
    list_ = InProcessThreadIndex.list

    async def short(self: Any, user_id: Any, *, metadata: Any = None, limit: int = 50, **options: Any) -> Any:
        limit = min(limit, 2) if metadata and 1 <= limit <= 1_000 else limit
        return await list_(self, user_id, metadata=metadata, limit=limit, **options)

    return methods(InProcessThreadIndex, list=short)


def keys_in_another_order(capability: Capability) -> Patched:
    """The keys of every dict that is returned stand the other way round."""

    def turned(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            values = {one.name: turned(getattr(value, one.name)) for one in dataclasses.fields(value)}
            return dataclasses.replace(value, **values)
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return type(value)(map(turned, value)) if isinstance(value, list | tuple) else value

    def turning(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def answered(*arguments: Any, **options: Any) -> Any:
            return turned(await method(*arguments, **options))

        return answered

    return methods(_CLASSES[capability], **{name: turning(method) for name, method in _calls(capability).items()})


def exports_of_one_moment() -> Patched:
    """An export is of the moment when it began, with users who were erased since."""

    async def export(self: InProcessMemoryStore) -> Any:
        for record in [record async for record in _export(self)]:
            yield record
            self._binding.check()

    return methods(InProcessMemoryStore, export=export)


def writers_wait_for_an_export() -> Patched:
    """Whoever writes while an export goes on waits until it has ended."""
    exports: WeakKeyDictionary[InProcessMemoryStore, int] = WeakKeyDictionary()

    async def export(self: InProcessMemoryStore) -> AsyncIterator[Any]:
        exports[self] = exports.get(self, 0) + 1
        try:
            async for record in _export(self):
                yield record
        finally:
            exports[self] -= 1

    async def no_export(self: InProcessMemoryStore) -> None:
        while exports.get(self):
            await asyncio.sleep(0.01)

    async def apply(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Any:
        await no_export(self)
        return await _apply(self, *arguments, **more)

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        await no_export(self)
        await _erase(self, user_id)

    return methods(InProcessMemoryStore, export=export, apply=apply, erase=erase)


@contextlib.contextmanager
def an_expected_0_is_told_as_0() -> Iterator[None]:
    """A conflict with an expected revision of 0 tells 0, and not that nothing was to be there."""
    expect, expected = changes._expect, changes._expected_revision

    def told(change: Any, found: int | None) -> None:
        with mock.patch.object(changes, "_expected_revision", lambda one: 0 if one.expected == 0 else expected(one)):
            expect(change, found or (0 if change.expected == 0 else None))

    with mock.patch.object(changes, "_expect", told):
        yield


ODD: dict[str, list[Callable[[], Patched]]] = {
    "stream_bridge": [
        read_again_on_every_wake_up,
        woken_late,
        woken_for_nothing,
        read_one_by_one,
    ],
    "memory": [
        functools.partial(keys_in_another_order, "memory"),
        exports_of_one_moment,
        writers_wait_for_an_export,
        an_expected_0_is_told_as_0,
    ],
    "thread_index": [functools.partial(keys_in_another_order, "thread_index"), short_filtered_pages],
    "counters": [functools.partial(keys_in_another_order, "counters")],
}


def broken(capability: Capability, *, seed: int = 0, budget: float = 1.0, distant: bool = False) -> list[str]:
    """Run the whole kit on the in-process backend; return what did not hold."""
    (conformance,) = (one for one in REFERENCE if one.capability == capability)
    if distant:  # where time is virtual a call takes none of it
        conformance = dataclasses.replace(conformance, function=_swept(capability), virtual_time=False)
    run = Run(conformance, seed=seed, budget=budget, shorten=False)
    try:
        run.start()
        results = [run.judge(number) for number in numbers_of(capability, None)]
    finally:
        run.close()
    fine = (State.PASSED, State.NOT_APPLICABLE)
    return [f"{one.number} {one.state}: {one.failure or one.reason}" for one in results if one.state not in fine]


@pytest.mark.parametrize(
    ("capability", "odd"),
    [
        pytest.param(capability, odd, id=f"{capability}-{getattr(odd, 'func', odd).__name__}")
        for capability in CAPABILITIES
        for odd in ODD[capability]
    ],
)
def test_what_is_odd_and_allowed_passes(capability: Capability, odd: Callable[[], Patched]) -> None:
    """No promise is broken by what the contract leaves open."""
    with odd():
        assert broken(capability) == []


def test_several_at_once_pass() -> None:
    """Neither is it by several of them together."""
    with together(woken_late(), read_one_by_one()):
        assert broken("stream_bridge", seed=1) == []


@pytest.mark.proof
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_slow_pass(capability: Capability) -> None:
    """Nor by a server that is far away."""
    with slow(capability):
        assert broken(capability, budget=0.2, distant=True) == []


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(1, 20))
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_twenty_seeds_agree(capability: Capability, seed: int) -> None:
    """The reference passes whatever is drawn; with seed 0: test_reference."""
    assert broken(capability, seed=seed) == []
