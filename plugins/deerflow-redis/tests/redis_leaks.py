"""Keys that tests leave on a server for good."""

from collections.abc import Callable, Iterable

from redis_servers import Server


def keys_without_expiry(servers: Iterable[Server]) -> set[tuple[int, bytes]]:
    """Return the database and the name of each key on *servers* that will not expire by itself."""
    return {
        (database, key) for server in servers for database in _databases(server) for key in _lasting(server, database)
    }


def leaked(servers: Iterable[Server], is_permanent: Callable[[bytes], bool]) -> list[str]:
    """Return what names the keys on *servers* that neither expire nor are declared permanent."""
    return sorted(
        f"{key!r} in database {database} has no expiry, and layout.py does not declare it permanent"
        for database, key in keys_without_expiry(servers)
        if not is_permanent(key)
    )


def _databases(server: Server) -> list[int]:
    """Return the databases that hold keys: INFO says ``db0: ...`` of each."""
    return [int(name.removeprefix("db")) for name in server.info("keyspace")]


def _lasting(server: Server, database: int) -> list[bytes]:
    with server.client(database=database) as client:
        keys = [bytes(key) for key in client.scan_iter(count=1_000)]
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.pttl(key)
            # -1 is a key without expiry, -2 one that is gone by now.
            return [key for key, milliseconds in zip(keys, pipeline.execute(), strict=True) if milliseconds == -1]
