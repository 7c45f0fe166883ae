"""Does a page of threads cost more far down, or for a user with many?"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.measures import Side, in_turns, ratios, spread
from benchmarks.results import Figure, Outcome
from benchmarks.scenarios.bench import Bench
from deerflow_backends import CONTRACT_VERSION, ThreadIndex

_FIRST = datetime(2026, 1, 31, 12, tzinfo=UTC)


async def pages(bench: Bench) -> Outcome:
    """Pages are read in turns: the first and a late one, of a user with many threads and of one with few."""
    sizes = bench.sizes
    few, many = (uuid.uuid4().hex for _ in sizes.threads)
    async with bench.subject.open() as backends:
        index = backends.thread_index
        for user_id, count in zip((few, many), sizes.threads, strict=True):
            await index.restore(_threads(user_id, count))
        cursor = await _cursor_of(index, many, bench)
        late, first, of_few = (_side(index, bench, *which) for which in ((many, cursor), (many, None), (few, None)))
        deep = await in_turns(late, first, rounds=sizes.rounds)
        wide = await in_turns(first, of_few, rounds=sizes.rounds)
    page, threads = f"page {sizes.late_page:,}", f"{sizes.threads[0]:,} threads"
    figures = (
        Figure.of("late / first page", ratios(deep), "x"),
        Figure.of("many / few threads", ratios(wide), "x"),
        Figure.of(page, spread([late for late, _ in deep]), "µs"),
        Figure.of("page 1", spread([first for _, first in deep]), "µs"),
        Figure.of(f"page 1 of {threads}", spread([second for _, second in wide]), "µs"),
    )
    samples = {
        f"{page}, µs": [late for late, _ in deep],
        "page 1, µs": [first for _, first in deep],
        f"page 1 of {threads}, µs": [second for _, second in wide],
    }
    return Outcome(bench.scenario, bench.subject.name, figures, samples)


def _side(index: ThreadIndex, bench: Bench, user_id: str, cursor: str | None) -> Side:
    async def read() -> float:
        begun = time.perf_counter()
        for _ in range(bench.sizes.listings):
            page = await index.list(user_id, limit=bench.sizes.page, cursor=cursor)
        if len(page.items) != bench.sizes.page:
            raise RuntimeError(f"a page has {len(page.items)} threads, not {bench.sizes.page}")
        return (time.perf_counter() - begun) / bench.sizes.listings * 1e6

    return read


async def _cursor_of(index: ThreadIndex, user_id: str, bench: Bench) -> str | None:
    """Follow the pages to the late one, as a client does."""
    cursor: str | None = None
    for _ in range(bench.sizes.late_page - 1):
        cursor = (await index.list(user_id, limit=bench.sizes.page, cursor=cursor)).next_cursor
    return cursor


def _threads(user_id: str, count: int) -> Iterator[dict[str, Any]]:
    """A user's threads as `restore` takes them."""
    for number in range(count):
        at = (_FIRST + timedelta(seconds=number)).isoformat(timespec="microseconds")
        yield {
            "kind": "thread",
            "contract": CONTRACT_VERSION,
            "thread_id": f"{user_id}-{number}",
            "user_id": user_id,
            "assistant_id": "lead_agent",
            "display_name": f"Question {number}",
            "status": "idle",
            "metadata": {"title": f"Question {number}", "model": "some-model"},
            "created_at": at,
            "updated_at": at,
        }
