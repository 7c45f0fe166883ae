"""What a scenario is, and what it is given."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Outcome
from benchmarks.rivals import Bridge, Raw, rival_of
from benchmarks.scenarios.sizes import Sizes
from benchmarks.subjects import Subject


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario is given.

    Attributes:
        subject: The backend.
        sizes: How much to do.
        folder: For files of the rival.
        scenario: The scenario's name.
    """

    subject: Subject
    sizes: Sizes
    folder: Path
    scenario: str

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[Raw | None]:
        """Open the rival ``raw``; None if this backend has none."""
        rival = rival_of(self.subject.name)
        if rival is None:
            yield None
            return
        async with rival.open(self.subject.settings, self.folder) as raw:
            yield raw

    @property
    def has_naive(self) -> bool:
        """Whether this backend has a rival ``naive``."""
        rival = rival_of(self.subject.name)
        return rival is not None and rival.naive is not None

    def naive(self) -> AbstractAsyncContextManager[Bridge | None]:
        """Open the rival ``naive``; None if this backend has none."""
        rival = rival_of(self.subject.name)
        if rival is None or rival.naive is None:
            return nullcontext()
        return rival.naive.open(self.subject.settings)

    def runs(self, count: int) -> tuple[str, ...]:
        """Name runs that nobody used before."""
        mark = uuid.uuid4().hex
        return tuple(f"{self.scenario}-{mark}-{number}" for number in range(count))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of what is to be measured.

    Attributes:
        name: For the command line, the goals and the results.
        title: For people.
        capability: What a backend must offer for it; None: it concerns no backend, and is run once.
        run: Does it.
    """

    name: str
    title: str
    capability: str | None
    run: Callable[[Bench], Coroutine[Any, Any, Outcome]]
