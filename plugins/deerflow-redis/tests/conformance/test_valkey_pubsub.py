"""All capabilities on Valkey, where events arrive by pub/sub."""

from collections.abc import AsyncIterator
from typing import Any

import deerflow_redis
from deerflow_conformance import Space, conform
from redis_kit import Subject
from redis_servers import standalone

SUBJECT = Subject(standalone())


@conform("stream_bridge", plugin="redis", start=SUBJECT.start, stop=SUBJECT.stop, owned=SUBJECT.owned)
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    async with (
        SUBJECT.connect(space) as connection,
        deerflow_redis.open_stream_bridge(connection, space.options) as bridge,
    ):
        yield bridge


@conform("memory", plugin="redis", start=SUBJECT.start, stop=SUBJECT.stop, owned=SUBJECT.owned)
async def memory(space: Space) -> AsyncIterator[Any]:
    async with SUBJECT.connect(space) as connection, deerflow_redis.open_memory(connection, space.options) as store:
        yield store


@conform("thread_index", plugin="redis", start=SUBJECT.start, stop=SUBJECT.stop, owned=SUBJECT.owned)
async def thread_index(space: Space) -> AsyncIterator[Any]:
    async with (
        SUBJECT.connect(space) as connection,
        deerflow_redis.open_thread_index(connection, space.options) as index,
    ):
        yield index


@conform("counters", plugin="redis", start=SUBJECT.start, stop=SUBJECT.stop, owned=SUBJECT.owned)
async def counters(space: Space) -> AsyncIterator[Any]:
    async with SUBJECT.connect(space) as connection, deerflow_redis.open_counters(connection, space.options) as opened:
        yield opened
