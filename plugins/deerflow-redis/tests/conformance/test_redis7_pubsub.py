"""All capabilities on Redis 7, where events arrive by pub/sub."""

from collections.abc import AsyncIterator
from typing import Any

import deerflow_redis
from deerflow_conformance import Space
from redis_kit import PERSISTENT, Subject
from redis_servers import Server

SUBJECT = Subject(Server("redis", PERSISTENT))


@SUBJECT.conform("stream_bridge")
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    async with (
        SUBJECT.connect(space) as connection,
        deerflow_redis.open_stream_bridge(connection, space.options) as bridge,
    ):
        yield bridge


@SUBJECT.conform("memory")
async def memory(space: Space) -> AsyncIterator[Any]:
    async with SUBJECT.connect(space) as connection, deerflow_redis.open_memory(connection, space.options) as store:
        yield store


@SUBJECT.conform("thread_index")
async def thread_index(space: Space) -> AsyncIterator[Any]:
    async with (
        SUBJECT.connect(space) as connection,
        deerflow_redis.open_thread_index(connection, space.options) as index,
    ):
        yield index


@SUBJECT.conform("counters")
async def counters(space: Space) -> AsyncIterator[Any]:
    async with SUBJECT.connect(space) as connection, deerflow_redis.open_counters(connection, space.options) as opened:
        yield opened
