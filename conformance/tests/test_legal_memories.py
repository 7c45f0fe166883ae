"""Memory stores that are odd and keep every promise: the checks of memories refuse none of them."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import pytest

from deerflow_backends import changes
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_conformance.mutants import methods
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.results import State
from deerflow_conformance.runs import Run

_apply, _export, _erase = InProcessMemoryStore.apply, InProcessMemoryStore.export, InProcessMemoryStore.erase


def exports_of_one_moment() -> AbstractContextManager[None]:
    """An export is of the moment when it began, with users who were erased since."""

    async def export(self: InProcessMemoryStore) -> Any:
        for record in [record async for record in _export(self)]:
            yield record
            self._binding.check()

    return methods(InProcessMemoryStore, export=export)


def writers_wait_for_an_export() -> AbstractContextManager[None]:
    """Whoever writes while an export goes on waits until it has ended."""
    locks: WeakKeyDictionary[InProcessMemoryStore, asyncio.Lock] = WeakKeyDictionary()

    async def export(self: InProcessMemoryStore) -> Any:
        async with locks.setdefault(self, asyncio.Lock()):
            async for record in _export(self):
                yield record

    async def apply(self: InProcessMemoryStore, *arguments: Any, **more: Any) -> Any:
        async with locks.setdefault(self, asyncio.Lock()):
            return await _apply(self, *arguments, **more)

    async def erase(self: InProcessMemoryStore, user_id: Any) -> None:
        async with locks.setdefault(self, asyncio.Lock()):
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


@pytest.mark.parametrize("odd", [exports_of_one_moment, writers_wait_for_an_export, an_expected_0_is_told_as_0])
def test_an_odd_memory_store_passes(odd: Any) -> None:
    """It keeps M1 to M12."""
    (reference,) = (one for one in REFERENCE if one.capability == "memory")
    run = Run(reference)
    try:
        run.start()
        with odd():
            results = [run.judge(number) for number in ("M1", "M3", "M4", "M8", "M12")]
    finally:
        run.close()
    assert [str(one.failure) for one in results if one.state is not State.PASSED] == []
