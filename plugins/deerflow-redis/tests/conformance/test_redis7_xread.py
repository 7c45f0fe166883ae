"""The stream bridge on Redis 7, where events arrive by one blocking XREAD."""

from collections.abc import AsyncIterator
from typing import Any

import deerflow_redis
from deerflow_conformance import Space
from redis_kit import PERSISTENT, Subject
from redis_servers import Server

SUBJECT = Subject(Server("redis", PERSISTENT), tail="xread")


@SUBJECT.conform("stream_bridge")
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    async with (
        SUBJECT.connect(space) as connection,
        deerflow_redis.open_stream_bridge(connection, space.options) as bridge,
    ):
        yield bridge
