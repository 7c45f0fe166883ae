"""What is particular to counters on Redis: a recording is one script, all of it or nothing, and buckets end unaided."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

import deerflow_redis
import deerflow_redis.counters
from deerflow_backends.counters import CounterOptions, Counts, Recorded
from deerflow_backends.errors import BackendUnavailable, ConfigError, Corrupt
from deerflow_conformance.proxies import proxy
from deerflow_redis.counters import RedisModelCounters
from deerflow_redis.layout import CounterKeys, is_permanent
from redis_servers import Cluster, Server

DAY = 86_400


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"n{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(
    url: str, namespace: str, options: CounterOptions | None = None, **settings: Any
) -> AsyncIterator[RedisModelCounters]:
    async with (
        deerflow_redis.connect(url=url, namespace=namespace, **settings) as connection,
        deerflow_redis.open_counters(connection, options) as counters,
    ):
        yield counters


def keys_of(server: Server, namespace: str) -> set[bytes]:
    with server.client() as client:
        return set(client.scan_iter(match=f"{namespace}:*", count=1_000))


def scripts_run(server: Server) -> int:
    return int(server.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_only_totals_are_kept_for_good(valkey: Server, namespace: str) -> None:
    """Whatever is called, every key but the totals has an expiry of its own, not later than a window reaches it."""

    async def main() -> None:
        async with opened(valkey.url, namespace, CounterOptions(keep_buckets=60)) as counters:
            recorded = [Recorded(f"m{age}", 1, 1, 0, -1, 1, age_seconds=age) for age in (0, 90, 1_800, 3_500, 9_000)]
            await counters.record_many(recorded, token="one}:{two")
            await counters.record("m0", calls=1)
            await counters.all_windows(seconds=3_600)
            await counters.reset("m90")

    asyncio.run(main())
    keys = CounterKeys(namespace)
    left = {key: valkey.execute("PTTL", key) for key in keys_of(valkey, namespace)}
    assert [key for key in left if left[key] == -1] == [keys.totals]
    assert is_permanent(keys.totals)
    assert not any(is_permanent(key) for key in left if key != keys.totals)
    buckets = [key for key in left if key.startswith(keys.bucket_prefix)]
    assert len(buckets) == 3  # that of m90 was of no other model, and that of m9000 no window reaches
    assert all(0 < left[key] <= 61 * 60_000 for key in [*buckets, keys.buckets])
    assert 0 < left[keys.token("one}:{two")] <= 600_000


def test_buckets_end_without_us(valkey: Server, namespace: str) -> None:
    """The server frees buckets that no window reaches and tokens that are forgotten, with no process of ours there."""

    async def main() -> None:
        options = CounterOptions(bucket_seconds=1, keep_buckets=1, token_seconds=0.0001)
        async with opened(valkey.url, namespace, options) as counters:
            await counters.record("m", calls=1, token="t")

    asyncio.run(main())
    keys = CounterKeys(namespace)
    left = {keys.totals, keys.changed}  # this one for an hour
    valkey.wait(lambda: keys_of(valkey, namespace) == left, "until only totals are left")


@pytest.mark.parametrize(("amount", "limit"), [(1, 2**63 - 1), (-1, -(2**63))])
def test_what_cannot_be_added_adds_nothing(valkey: Server, namespace: str, amount: int, limit: int) -> None:
    """A sum beyond 64 bits, or no number, refuses the whole recording, token included, and names the remedy."""
    keys = CounterKeys(namespace)

    async def main() -> None:
        async with opened(valkey.url, namespace) as counters:
            await counters.record("old", calls=1, positive=amount)
            await counters.record("named")
            (bucket,) = await asyncio.to_thread(valkey.execute, "ZRANGE", keys.buckets, 0, -1)
            for key in (keys.totals, keys.bucket_prefix + bucket):
                for value in (limit, "many"):
                    kept = await asyncio.to_thread(valkey.execute, "HGET", key, "pold")
                    await asyncio.to_thread(valkey.execute, "HSET", key, "pold", value)
                    before = await asyncio.to_thread(_dump, valkey, namespace)
                    recorded = [
                        Recorded("new", 1, 0, 1, -1),
                        Recorded("new", 1),
                        Recorded("named", negative=5),
                        Recorded("old", 1, positive=amount, negative=-1),
                    ]
                    for _ in range(2):
                        with pytest.raises(Corrupt, match="reset the model"):
                            await counters.record_many(recorded, token="t")
                    assert await asyncio.to_thread(_dump, valkey, namespace) == before
                    await asyncio.to_thread(valkey.execute, "HSET", key, "pold", kept)
            await counters.record_many(recorded, token="t")
            assert (await counters.totals("old")).calls == 2

    asyncio.run(main())


@pytest.mark.parametrize("foreign", ["totals", "buckets", "bucket"])
def test_a_foreign_key_refuses_the_whole_recording(valkey: Server, namespace: str, foreign: str) -> None:
    """Where a key of ours holds something of another type nothing is written, not even the token."""
    keys = CounterKeys(namespace)

    async def main() -> None:
        options = CounterOptions(bucket_seconds=86_400)
        async with opened(valkey.url, namespace, options) as counters:
            # Tomorrow's too, should that begin meanwhile.
            today = int(time.time()) // DAY * DAY
            buckets = [keys.bucket_prefix + str(today + day * DAY).encode() for day in (0, 1)]
            names = {"totals": [keys.totals], "buckets": [keys.buckets], "bucket": buckets}[foreign]
            for name in names:
                await asyncio.to_thread(valkey.execute, "SET", name, "foreign", "EX", 600)
            with pytest.raises(Corrupt, match="another type"):
                await counters.record_many([Recorded("m", 1), Recorded("n", 1)], token="t")
            assert await asyncio.to_thread(keys_of, valkey, namespace) == set(names)

    asyncio.run(main())


def test_sums_of_64_bits_are_exact(valkey: Server, namespace: str) -> None:
    """Sums that no number of Lua's can hold are exact, in totals and in windows."""
    keys = CounterKeys(namespace)

    async def main() -> None:
        async with opened(valkey.url, namespace) as counters:
            await counters.record_many([Recorded("m", 1, 2, age_seconds=age) for age in (0, 600)])
            first, last = await asyncio.to_thread(valkey.execute, "ZRANGE", keys.buckets, 0, -1)
            for key, amount in (
                (keys.totals, 2**62), (keys.bucket_prefix + first, 2**61), (keys.bucket_prefix + last, 2**61)
            ):  # fmt: skip
                await asyncio.to_thread(valkey.execute, "HINCRBY", key, "cm", amount)
            wanted = Counts(2**62 + 2, 4)
            assert await counters.totals("m") == await counters.window("m", seconds=DAY) == wanted
            assert await counters.all_totals() == await counters.all_windows(seconds=DAY) == {"m": wanted}

    asyncio.run(main())


def test_ten_thousand_models_are_one_call(valkey: Server, namespace: str) -> None:
    """A recording of ten thousand models, as every read of them, is one script or command."""

    async def main() -> None:
        async with opened(valkey.url, namespace, timeout_seconds=60) as counters:
            await counters.record("m0", calls=1)
            await counters.window("m0", seconds=1)
            before = await asyncio.to_thread(scripts_run, valkey)
            await counters.record_many([Recorded(f"m{n}", 1, 1, age_seconds=n / 1_000) for n in range(10_000)])
            assert len(await counters.all_windows(seconds=60)) == len(await counters.all_totals()) == 10_000
            assert await asyncio.to_thread(scripts_run, valkey) == before + 2

    asyncio.run(main())


def test_a_large_window_is_read_in_parts(valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no script runs for long, a window of many sums is read by several, with the same result."""

    async def main() -> None:
        recorded = [Recorded(f"m{n}", n, 1, 0, n - 5, -n, age_seconds=60 * age) for n in range(20) for age in range(30)]
        async with opened(valkey.url, namespace) as counters:
            await counters.record_many(recorded)
            whole = await counters.all_windows(seconds=DAY)
            assert whole["m7"] == Counts(210, 30, 0, 60, 0)
            assert len(whole) == 20
            before = await asyncio.to_thread(scripts_run, valkey)
            monkeypatch.setattr(deerflow_redis.counters, "PART_SUMS", 200)
            assert await counters.all_windows(seconds=DAY) == whole
            assert await counters.window("m7", seconds=DAY) == whole["m7"]
            parts = await asyncio.to_thread(scripts_run, valkey) - before
            assert 10 <= parts <= 32  # and not in one piece after changes that there were not
            monkeypatch.undo()
            before += parts
            monkeypatch.setattr(deerflow_redis.counters, "PART_BUCKETS", 4)
            assert await counters.all_windows(seconds=DAY) == whole
            assert await counters.window("m7", seconds=DAY) == whole["m7"]
            assert await asyncio.to_thread(scripts_run, valkey) - before == 2 * 8

    asyncio.run(main())


def test_parts_show_a_reset_as_a_whole(valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window read in parts while a model is reset has all of the model or nothing."""
    monkeypatch.setattr(deerflow_redis.counters, "PART_SUMS", 1)

    async def main() -> None:
        async with opened(valkey.url, namespace) as writer, opened(valkey.url, namespace) as reader:
            ages = [60 * age for age in range(30)]
            await writer.record_many([Recorded("kept", 1, age_seconds=age) for age in ages])
            for number in range(20):
                await writer.record_many([Recorded("gone", 1, age_seconds=age) for age in ages])
                reading = asyncio.create_task(reader.all_windows(seconds=DAY))
                await asyncio.sleep(number / 4_000)
                await writer.reset("gone")
                counts = await reading
                assert counts["kept"] == Counts(30)
                assert counts.get("gone", Counts()) in {Counts(), Counts(30)}

    asyncio.run(main())


def test_parts_notice_a_reset_that_leaves_nothing(
    valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: a window read in parts mixes nothing from before and after a reset, also if that leaves no bucket."""
    monkeypatch.setattr(deerflow_redis.counters, "PART_SUMS", 1)
    keys = CounterKeys(namespace)

    async def main() -> None:
        async with (
            opened(valkey.url, namespace) as writer,
            deerflow_redis.connect(url=valkey.url, namespace=namespace) as connection,
            deerflow_redis.open_counters(connection) as reader,
        ):
            await writer.record_many([Recorded("m", 100, age_seconds=60 * age) for age in range(3)])
            await asyncio.to_thread(valkey.execute, "DEL", keys.changed)  # as when an hour has passed
            read, reads = connection.read, 0

            async def interrupted(*arguments: Any, **further: Any) -> Any:
                nonlocal reads
                reply, reads = await read(*arguments, **further), reads + 1
                if reads == 1:
                    await writer.reset("m")
                    await writer.record("m", calls=1)
                return reply

            monkeypatch.setattr(connection, "read", interrupted)
            assert await reader.window("m", seconds=DAY) == Counts(1)
            assert reads > 2

    asyncio.run(main())


def test_more_buckets_than_a_reset_can_look_at_are_refused(valkey: Server, namespace: str) -> None:
    """Opening says so, and what to do instead; a day of seconds is not too much."""

    async def main() -> None:
        async with opened(valkey.url, namespace, CounterOptions(bucket_seconds=1, keep_buckets=DAY)) as counters:
            await counters.record("m", calls=1)
            assert await counters.window("m", seconds=DAY) == Counts(1)
        with pytest.raises(ConfigError, match=r"at most 100000 on Redis, not 100001.*wider buckets"):
            async with opened(valkey.url, namespace, CounterOptions(keep_buckets=100_001)):
                pass

    asyncio.run(main())


def test_parts_show_one_moment(valkey: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window read in parts shows a recording into several buckets as a whole or not at all."""
    monkeypatch.setattr(deerflow_redis.counters, "PART_SUMS", 1)

    async def main() -> None:
        async with opened(valkey.url, namespace) as writer, opened(valkey.url, namespace) as reader:
            pair = [Recorded("new", 1), Recorded("old", 1, age_seconds=1_800), Recorded("both", 1, age_seconds=600)]
            await writer.record_many([*pair, Recorded("both", 1), Recorded("other", 1, age_seconds=3_000)])
            writing = True

            async def write() -> None:
                nonlocal writing
                for number in range(60):
                    await writer.record_many([*pair, Recorded("both", 1)])
                    if number % 7 == 0:
                        await writer.reset("both")
                        await asyncio.sleep(0.01)
                writing = False

            async def read() -> None:
                while writing:
                    counts = await reader.all_windows(seconds=DAY)
                    assert counts["new"] == counts["old"]
                    assert counts.get("both", Counts()).calls % 2 == 0

            await asyncio.gather(write(), read())

    asyncio.run(main())


def test_a_lost_reply_is_told(valkey: Server, namespace: str) -> None:
    """A recording whose reply is lost may have been counted, says so, and is counted once by its token."""

    async def main() -> None:
        server = urlsplit(valkey.url)
        async with (
            proxy(str(server.hostname), server.port or 6379) as between,
            opened(f"redis://127.0.0.1:{between.port}", namespace) as counters,
        ):
            await counters.record("m", calls=1)
            lost = between.lose_reply(b"token:t")
            with pytest.raises(BackendUnavailable) as caught:
                await counters.record("m", calls=1, token="t")
            assert lost.is_set()
            assert caught.value.maybe_written
            await counters.record("m", calls=1, token="t")
            assert await counters.totals("m") == Counts(2)
            await counters.reset("other")  # from here on the server has the script
            lost = between.lose_reply(b"EVALSHA")
            with pytest.raises(BackendUnavailable) as caught:
                await counters.reset("m")
            assert lost.is_set()
            assert caught.value.maybe_written
            assert await counters.totals("m") == Counts()

    asyncio.run(main())


def test_a_full_server_takes_nothing_and_resets() -> None:
    """A server whose memory is full refuses a recording as a whole, and still removes a model."""

    async def main(server: Server) -> None:
        async with opened(server.url, "full", timeout_seconds=1) as counters:
            await counters.record("m", calls=1)
            await asyncio.to_thread(server.execute, "CONFIG", "SET", "maxmemory", "1mb")
            before = await asyncio.to_thread(_dump, server, "full")
            with pytest.raises(BackendUnavailable, match="memory is full") as caught:
                await counters.record_many([Recorded("m", 1), Recorded("n", 1, age_seconds=600)], token="t")
            assert not caught.value.maybe_written
            assert await asyncio.to_thread(_dump, server, "full") == before
            await counters.reset("m")
            assert await counters.all_totals() == await counters.all_windows(seconds=DAY) == {}

    with Server() as server:
        asyncio.run(main(server))


def test_all_is_on_one_node(valkey_cluster: Cluster, namespace: str) -> None:
    """On a cluster all keys of a namespace are in one slot, whatever the models and tokens are called."""

    async def main() -> None:
        async with opened(valkey_cluster.url, namespace, topology="cluster") as counters:
            for number in range(20):
                name = f"{{m{number}}}"
                await counters.record_many([Recorded(name, 1, age_seconds=600 * number)], token=name)
            await counters.reset("{m1}")
            assert len(await counters.all_windows(seconds=DAY)) == len(await counters.all_totals()) == 19

    asyncio.run(main())
    slots = {
        node.execute("CLUSTER", "KEYSLOT", key) for node in valkey_cluster.primaries for key in keys_of(node, namespace)
    }
    assert len(slots) == 1


def _dump(server: Server, namespace: str) -> dict[bytes, Any]:
    """Return what is kept in each hash, set and token."""
    readers = {b"hash": ("HGETALL",), b"zset": ("ZRANGE", 0, -1), b"string": ("GET",)}
    values = {}
    for key in keys_of(server, namespace):
        command, *further = readers[server.execute("TYPE", key)]
        value = server.execute(command, key, *further)
        values[key] = value if isinstance(value, dict | bytes) else list(value)
    return values
