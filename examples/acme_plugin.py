"""A plugin module in full: a backend called "acme" that keeps model counters, here in this process."""

import asyncio

# [plugin]
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from pydantic import SecretStr

from deerflow_backends import ConnectionSettings, CounterOptions, ModelCounters, hookimpl, inprocess


class AcmeSettings(ConnectionSettings):
    """What `connections: {acme: ...}` may say, besides the namespace and timeouts that every backend has."""

    url: SecretStr


@hookimpl
def deerflow_settings() -> type[AcmeSettings]:
    return AcmeSettings


@hookimpl
@asynccontextmanager
async def deerflow_connect(name: str, settings: AcmeSettings) -> AsyncIterator[inprocess.Connection]:
    # yours: open the pool that all capabilities share, yield it, close it
    async with inprocess.connect(name, namespace=settings.namespace) as connection:
        yield connection


@hookimpl
def deerflow_counters(
    connection: inprocess.Connection, options: CounterOptions
) -> AbstractAsyncContextManager[ModelCounters]:
    return inprocess.open_counters(connection, options)  # yours: yields an object that has what ModelCounters has


# [end]


async def main() -> None:
    settings = AcmeSettings(url=SecretStr("acme://user:secret@host"))
    async with (
        deerflow_connect("acme", settings) as connection,
        deerflow_counters(connection, CounterOptions()) as counters,
    ):
        await counters.record("gpt-x", calls=1, successes=1)
        print(settings, await counters.totals("gpt-x"))


if __name__ == "__main__":
    asyncio.run(main())
