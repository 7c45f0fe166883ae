"""The stream bridge on Valkey, where events arrive by one blocking XREAD."""

from collections.abc import AsyncIterator
from typing import Any

import deerflow_redis
from deerflow_conformance import Space, conform
from redis_kit import Subject
from redis_servers import standalone

SUBJECT = Subject(standalone(), tail="xread")


@conform("stream_bridge", plugin="redis", start=SUBJECT.start, stop=SUBJECT.stop, owned=SUBJECT.owned)
async def stream_bridge(space: Space) -> AsyncIterator[Any]:
    async with (
        SUBJECT.connect(space) as connection,
        deerflow_redis.open_stream_bridge(connection, space.options) as bridge,
    ):
        yield bridge
