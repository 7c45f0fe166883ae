"""A plugin module in full: a backend called "acme" that keeps model counters, here in this process."""

import asyncio
from typing import Any

from pydantic import SecretStr

from deerflow_backends import ConnectionSettings, CounterOptions, hookimpl, inprocess


# [plugin]
class AcmeSettings(ConnectionSettings):
    """What `connections: {acme: ...}` may say, besides the namespace and timeouts that every backend has."""

    url: SecretStr


@hookimpl
def deerflow_settings() -> type[AcmeSettings]:
    return AcmeSettings


@hookimpl
def deerflow_connect(name: str, settings: AcmeSettings) -> Any:
    return inprocess.connect(name, namespace=settings.namespace)  # yours: open the pool that all capabilities share


@hookimpl
def deerflow_counters(connection: Any, options: CounterOptions) -> Any:
    return inprocess.open_counters(connection, options)  # yours: an async context manager that yields a ModelCounters


# [end]


async def main() -> None:
    settings = AcmeSettings(url=SecretStr("acme://user:secret@host"))
    async with (
        deerflow_connect("acme", settings) as connection,
        deerflow_counters(connection, CounterOptions()) as counters,
    ):
        await counters.record("gpt-x", calls=1, successes=1)
        print(settings, await counters.totals("gpt-x"))


asyncio.run(main())
