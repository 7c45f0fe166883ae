"""The servers that tests start are real, keep what they are told to keep, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import redis_servers
from redis_processes import ServerFailed, find_program, folder_of
from redis_servers import Cluster, Sentinels, Server, standalone

ORPHANS = """
import os, signal, sys
from redis_servers import Server
from redis_processes import folder_of
server = Server()
server.start()
print(server.port, server.info("server")["process_id"], folder_of(os.getpid()).path, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def folders() -> list[Path]:
    return [path for path in folder_of(os.getpid()).path.iterdir() if path.name != "processes"]


def is_there(process: int) -> bool:
    """Say whether *process* runs; one that ended may wait for who started it, or for who adopted it, to take note."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_is_gone_when_it_is_closed() -> None:
    """After `close` there is neither process nor folder, paused or not; and it may be started anew."""
    server = Server()
    for _ in range(2):
        with server:
            process = server.info("server")["process_id"]
            server.execute("SET", "a", 1)
            before = folders()
            server.pause()
        assert not is_there(process)
        assert len(folders()) == len(before) - 1
    with server:
        assert server.execute("GET", "a") is None


@pytest.mark.drivers
def test_a_server_keeps_its_place_and_what_it_persists() -> None:
    """Restarted or killed it comes back on its port, with what it persisted, and as it is configured by then."""
    with Server(config={"appendonly": "yes", "appendfsync": "always"}) as server:
        url = server.url
        server.execute("SET", "a", 1)
        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            server.execute("PING")
        server.start()
        server.config["maxmemory"] = "50mb"
        server.restart()
        assert (server.url, server.execute("GET", "a")) == (url, b"1")
        assert server.execute("CONFIG", "GET", "maxmemory")[1] == b"52428800"


def test_a_server_forgets_without_persistence() -> None:
    """As it is unless told otherwise, nothing outlives the process."""
    with Server() as server:
        server.execute("SET", "a", 1)
        server.restart()
        assert server.execute("GET", "a") is None


def test_a_server_has_passwords_and_users() -> None:
    """A password and lines of the access list are configuration; the password is part of the address."""
    users = ["reader on >secret ~* +get +ping", "nobody off"]
    with Server(config={"requirepass": "word", "user": users}) as server:
        assert ":word@" in server.url
        with redis.Redis(port=server.port, username="reader", password="secret") as reader:
            with pytest.raises(redis.exceptions.NoPermissionError):
                reader.set("a", 1)
            assert reader.get("a") is None


def test_a_server_that_may_not_be_asked_has_started() -> None:
    """Where the default user may do nothing, a server counts as started once it says so."""
    with Server(config={"user": "default off"}) as server, pytest.raises(redis.exceptions.AuthenticationError):
        server.execute("PING")


def test_a_paused_server_answers_once_resumed() -> None:
    """While it is paused connections get no answer; what they asked is answered afterwards."""
    once = Retry(NoBackoff(), 0)
    with Server() as server, redis.Redis(port=server.port, socket_timeout=0.2, retry=once) as client:
        client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_a_server_that_does_not_start_says_why() -> None:
    """What the server itself said is part of the error."""
    with pytest.raises(ServerFailed, match="nonsense"), Server(config={"nonsense": "1"}):
        pass


def test_a_given_server_is_used(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment names a server, that one is used, and outlives our use of it."""
    monkeypatch.setenv(redis_servers.GIVEN, valkey.url)
    with standalone() as server:
        assert server.url == valkey.url
        assert server.info("server")["process_id"] == valkey.info("server")["process_id"]
    assert valkey.execute("PING")


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_nothing_outlives_the_process_that_started_it(end: str) -> None:
    """Servers die, and their folder goes, with who started them, also when that is killed or forgets to close."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", ORPHANS, end]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == (-signal.SIGKILL if end == "killed" else 0)
    _, process, folder = run.stdout.split()
    deadline = time.monotonic() + redis_servers.PATIENCE_SECONDS
    while is_there(int(process)) or Path(folder).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cluster_serves_all_slots_and_survives_a_restart(valkey_cluster: Cluster) -> None:
    """Each node has its share; what was killed, one node or all, is part of the same cluster when it started again."""
    assert valkey_cluster.primaries == valkey_cluster.nodes
    with redis.RedisCluster.from_url(valkey_cluster.url) as client:
        for name in ("a", "b", "c"):
            client.set(name, name, px=600_000)
            assert client.get(name) == name.encode()
    with Cluster(2, replicas=1) as cluster:
        first, *_ = cluster.nodes
        assert cluster.primaries == cluster.nodes[:2]
        first.restart()
        cluster.wait_until_well()
        assert first in cluster.primaries
        url = cluster.url
        cluster.kill()
        assert not cluster.primaries
        cluster.start()
        assert cluster.url == url
        assert len(cluster.primaries) == 2


def test_sentinels_promote_the_replica(valkey_sentinels: Sentinels) -> None:
    """When the primary is killed the replica, which has everything, becomes the primary for every sentinel."""
    assert valkey_sentinels.primaries == [valkey_sentinels.primary]
    assert len(valkey_sentinels.nodes) == 2
    valkey_sentinels.primary.execute("SET", "a", 1, "PX", 600_000)
    assert valkey_sentinels.primary.execute("WAIT", 1, 5_000) == 1
    valkey_sentinels.fail_over()
    assert valkey_sentinels.primaries == [valkey_sentinels.replica]
    assert valkey_sentinels.replica.execute("GET", "a") == b"1"


def test_a_detached_replica_lacks_what_was_written_since() -> None:
    """What the primary acknowledged after the replica was detached is lost with the primary."""
    with Sentinels(1) as sentinels:
        sentinels.primary.execute("SET", "before", 1, "PX", 600_000)
        sentinels.primary.execute("WAIT", 1, 5_000)
        sentinels.detach_replica()
        sentinels.primary.execute("SET", "after", 1, "PX", 600_000)
        sentinels.primary.kill()
        sentinels.replica.resume()
        sentinels.wait_until_promoted()
        assert sentinels.replica.execute("MGET", "before", "after") == [b"1", None]


def test_redis_is_taken_from_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`redis` is the server on the path if that is at least 7.0, and the error names what is missing."""
    find_program.cache_clear()
    try:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_program("redis") is None
        for version, found in (("6.2.1", False), ("7.0.15", True), ("10.0.0", True)):
            find_program.cache_clear()
            (tmp_path / "redis-server").write_text(f"#!/bin/sh\necho Redis server v={version} sha=0\n")
            (tmp_path / "redis-server").chmod(0o755)
            assert (find_program("redis") is not None) is found
        find_program.cache_clear()
        (tmp_path / "redis-server").unlink()
        with pytest.raises(ServerFailed, match=r"no redis-server, version 7.0 or later"), Server("redis"):
            pass
    finally:
        find_program.cache_clear()
