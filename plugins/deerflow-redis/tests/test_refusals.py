"""Users whom a server refuses, as a whole or in something: one clear error, at once, and no secret in it."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from deerflow_backends import NewThread, PutFact
from deerflow_backends.errors import BackendsError, ConfigError
from deerflow_redis.settings import Tail
from redis_readers import Capabilities, Reader, opened, opened_bridge
from redis_servers import HOST, Server

pytestmark = pytest.mark.drivers

tails = pytest.mark.parametrize("tail", ["pubsub", "xread"])

PASSWORD = "the-password-of-ada"
WRONG = "a-wrong-password"


async def run(server: Server, *words: str) -> Any:
    return await asyncio.to_thread(server.execute, *words)


def url_of(server: Server, user: str, password: str = PASSWORD) -> str:
    return f"redis://{user}:{password}@{HOST}:{server.port}"


async def open_and_close(url: str, namespace: str, **settings: Any) -> None:
    async with opened_bridge(url, namespace, **settings):
        pass


def shows_no_secret(error: BackendsError) -> bool:
    shown = [repr(error), *traceback.format_exception(error)]
    return not any(secret in text for text in shown for secret in (PASSWORD, WRONG))


async def do_everything(to: Capabilities) -> None:
    """Call all that changes or reads something."""
    bridge, memory, threads, counters = to
    async with Reader(bridge, heartbeat_interval=5) as reader:
        await bridge.publish("run", "n", 1)
        await bridge.publish_many("run", [("n", 2)])
        await reader.until_events(2)
        await bridge.status("run")
        await bridge.publish_end("run")
        await reader.until_done()
        assert reader.ended
        await bridge.cleanup("run", delay=1)
        await bridge.cleanup("run")
    await memory.apply("ada", [PutFact("agent", "f", {"content": "text"})])
    await memory.load("ada")
    assert await memory.search("ada", "text", agent_name="agent")
    assert (await memory.list_facts("ada", agent_name="agent")).items
    assert [record async for record in memory.export()]
    await memory.agents("ada")
    await memory.clear("ada")
    await memory.erase("ada")
    await threads.create(NewThread("t", "ada"))
    await threads.update("t", user_id="ada", status="running")
    await threads.list("ada", metadata={"a": 1})
    await threads.move("t", user_id="ada", to_user_id="bob")
    assert [record async for record in threads.export()]
    await threads.delete("t", user_id="bob")
    await counters.record("m", calls=1, token="token")
    await counters.all_totals()
    await counters.all_windows(seconds=600)
    await counters.reset("m")
    await to.ping()


@tails
def test_a_wrong_password(server: Server, namespace: str, tail: Tail) -> None:
    """Opening with a wrong password, or with none, is a `ConfigError` that shows no password."""

    async def main() -> None:
        await run(server, "ACL", "SETUSER", "ada", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        with pytest.raises(ConfigError, match="refused the user or the password") as caught:
            await open_and_close(url_of(server, "ada", WRONG), namespace, tail=tail)
        assert shows_no_secret(caught.value)

    asyncio.run(main())

    async def without() -> None:
        with pytest.raises(ConfigError, match="refused the user or the password"):
            await open_and_close(f"redis://{HOST}:{locked.port}", namespace, tail=tail)

    with Server(config={"requirepass": PASSWORD}) as locked:
        asyncio.run(without())


@tails
def test_a_password_that_is_changed(namespace: str, tail: Tail) -> None:
    """A password changed meanwhile ends calls and subscriptions by `ConfigError`; changed back all works again."""

    async def main(server: Server) -> None:
        async with opened(server.url, namespace, tail=tail, timeout_seconds=2) as to, Reader(to.bridge) as reader:
            await to.bridge.publish("run", "n", 1)
            await reader.until_events(1)
            with server.client() as client:
                client.ping()
                client.config_set("requirepass", "another-password")
                client.execute_command("CLIENT", "KILL", "SKIPME", "YES")
                await asyncio.sleep(0.1)  # a write that is sent before anybody knows may have happened, as it says
                calls = (
                    to.bridge.publish("run", "n", 2),
                    to.counters.totals("m"),
                    to.memory.apply("ada", [PutFact(None, "f", {})]),
                )
                for call in calls:
                    with pytest.raises(ConfigError) as caught:
                        await call
                    assert shows_no_secret(caught.value)
                await reader.until_done()
                assert isinstance(reader.error, ConfigError)
                assert shows_no_secret(reader.error)
                client.config_set("requirepass", PASSWORD)
            await to.bridge.publish("run", "n", 3)
            await to.memory.apply("ada", [PutFact(None, "f", {})])
            data: list[object] = []
            while data != [1, 3]:
                async with asyncio.timeout(15), Reader(to.bridge) as later:
                    await later.until(lambda one: one.done or len(one.events) == 2)
                    data = later.data

    with Server(config={"requirepass": PASSWORD}) as server:
        asyncio.run(main(server))


def test_without_pubsub(server: Server, namespace: str) -> None:
    """A user who may not use pub/sub cannot open the bridge, is told of ``tail: xread``, and with it does all."""

    async def main() -> None:
        for user, rights in (
            ("commands", ["&*", "+@all", "-@pubsub"]),
            ("publish", ["&*", "+@all", "-publish"]),
            ("subscribe", ["&*", "+@all", "-subscribe"]),
            ("channels", ["resetchannels", "+@all"]),
        ):
            await run(server, "ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", "~*", *rights)
            url = url_of(server, user)
            with pytest.raises(ConfigError, match="tail: xread") as caught:
                await open_and_close(url, namespace)
            assert shows_no_secret(caught.value)
            async with opened(url, f"{namespace}_{user}", tail="xread") as to:
                await do_everything(to)

    asyncio.run(main())


def test_channels_that_are_taken_away(server: Server, namespace: str) -> None:
    """A user whose channels are taken away meanwhile gets a `ConfigError` that names ``tail: xread``."""

    async def main() -> None:
        await run(server, "ACL", "SETUSER", "bob", "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        async with opened_bridge(url_of(server, "bob"), namespace) as bridge, Reader(bridge) as reader:
            await bridge.publish("run", "n", 1)
            await reader.until_events(1)
            await run(server, "ACL", "SETUSER", "bob", "resetchannels")
            with pytest.raises(ConfigError, match="tail: xread"):
                await bridge.publish("run", "n", 2)
            await reader.until_done()
            assert isinstance(reader.error, ConfigError)
            assert "tail: xread" in str(reader.error)
            status = await bridge.status("run")
            assert status is not None
            assert (status.length, status.latest_id) == (1, reader.ids[0])

    asyncio.run(main())


@tails
@pytest.mark.parametrize(
    ("user", "rights"),
    [
        ("noinfo", ["+@all", "-info"]),
        ("noeval", ["+@all", "-@scripting"]),
        ("nowrite", ["+@all", "-xadd", "-hset", "-set"]),
        ("noclient", ["+@all", "-client"]),
    ],
)
def test_a_missing_permission(server: Server, namespace: str, tail: Tail, user: str, rights: list[str]) -> None:
    """A user who may not use a command that is needed gets a `ConfigError`, and nothing that was asked is written."""

    async def main() -> None:
        await run(server, "ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", "~*", "&*", *rights)
        with pytest.raises(ConfigError, match="lacks a permission") as caught:
            async with opened(url_of(server, user), namespace, tail=tail, timeout_seconds=2) as to:
                await to.bridge.publish("run", "n", 1)
        assert shows_no_secret(caught.value)
        assert await run(server, "KEYS", f"{namespace}:s:{{run}}*") == []

    asyncio.run(main())


@tails
def test_keys_of_others_only(server: Server, namespace: str, tail: Tail) -> None:
    """A user who may use the keys and channels of a namespace alone does all there, and elsewhere is told."""

    async def main() -> None:
        keys, channels = f"~{namespace}:*", f"&0:{namespace}:*"
        await run(server, "ACL", "SETUSER", "eve", "reset", "on", f">{PASSWORD}", keys, channels, "+@all")
        async with opened(url_of(server, "eve"), namespace, tail=tail) as to:
            await do_everything(to)
        with pytest.raises(ConfigError):
            async with opened(url_of(server, "eve"), f"{namespace}x", tail=tail) as to:
                await to.bridge.publish("run", "n", 1)

    asyncio.run(main())
