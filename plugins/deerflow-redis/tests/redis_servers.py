"""Real Redis and Valkey servers for tests: one, a cluster, or a primary and a replica watched by sentinels.

All block and are context managers; `start` and `close` do the same. Nothing runs at import, so that the kit's helper
processes may import a test file again. Servers die, and their folders go, with the process that started them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_processes import Port, Program, ServerFailed, find_program, folder_of

Config = Mapping[str, str | Sequence[str]]

#: The environment variable with the address of a server that `standalone` takes instead of starting one.
GIVEN: Final = "DEERFLOW_TEST_REDIS_URL"
#: How long a server, a cluster or an election may take; so long only where something is wrong.
PATIENCE_SECONDS: Final = 30.0
HOST: Final = "127.0.0.1"
#: A replica is not kept waiting for further ones.
_REPLICATION: Final = {"repl-diskless-sync-delay": "0"}
#: Sentinels look around faster than usual, though not so often that what they know counts as old: of a replica they
#: ask each second while a primary is down, and must know it from the last three INFO periods. A machine that stalls
#: is no reason for them to do nothing.
_HURRY: Final = ("INFO-PERIOD", 1_000, "PING-PERIOD", 300, "PUBLISH-PERIOD", 200, "TILT-TRIGGER", 60_000)


class Started:
    """What can be started and closed, or used as a context manager."""

    def start(self) -> None:
        """Start it and wait until it can be used."""
        raise NotImplementedError

    def close(self) -> None:
        """Kill it, paused or not, and remove all that it kept; it may be started anew."""
        raise NotImplementedError

    @property
    def primaries(self) -> list[Server]:
        """The running servers that take writes."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server(Started):
    """One server process, which keeps its folder and port when it is stopped and started again.

    Attributes:
        config: Directives for its configuration file, such as ``{"appendonly": "yes"}``; of a sequence each is a line
            of its own. Without them it has no password and persists nothing. Read at each start.
    """

    def __init__(self, program: Program = "valkey", config: Config | None = None) -> None:
        self.config = dict(config or {})
        self._program: Program = program
        self._folder: Path | None = None
        self._ports: list[Port] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port on `HOST` that it listens on: the same from the first `start` to `close`."""
        return self._ports[0].number

    @property
    def bus_port(self) -> int:
        """The port on which it talks to the other nodes of its cluster."""
        return self._ports[1].number

    @property
    def url(self) -> str:
        """Its address, with the password of ``requirepass``."""
        password = self.config.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def primaries(self) -> list[Server]:
        """Itself, if it runs and is no replica."""
        return [self] if self.running and self.info("replication")["role"] == "master" else []

    def start(self) -> None:
        """Start it, after `stop` and `kill` with the data that it persisted, and wait until it answers."""
        self.launch()
        self.wait_until_it_answers()

    def launch(self) -> None:
        """Start it, and do not wait."""
        program = find_program(self._program)
        if program is None:
            raise ServerFailed(f"there is no {self._program}-server, version 7.0 or later, on this machine")
        if self.running:
            raise ServerFailed("the server is running already")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(dir=folder_of(os.getpid()).path))
            self._ports = [Port(), Port()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments(self._folder)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        folder_of(os.getpid()).add(self._process.pid)

    def stop(self) -> None:
        """Let it end in order, by SIGTERM: what it persists is complete."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Have it killed at once, by SIGKILL, paused or not."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """`stop` and `start` it."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stall it: its connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, paused or not, and remove all that it kept; it may be started anew."""
        if self._process is not None:
            self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None
        for port in self._ports:
            port.close()
        self._ports = []

    def client(self, *, database: int | None = None) -> redis.Redis:
        """Return a blocking client of *database*, else of the address's, without retries; the caller closes it."""
        url = self.url if database is None else urlsplit(self.url)._replace(path=f"/{database}").geturl()
        retry = Retry(NoBackoff(), 0)
        return redis.Redis.from_url(url, protocol=2, socket_timeout=5, socket_connect_timeout=5, retry=retry)

    def execute(self, *words: str | bytes | int) -> Any:
        """Send one command over a connection of its own and return the answer, texts as bytes."""
        with self.client() as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        """Return the fields of one section of INFO."""
        answer: dict[str, Any] = self.execute("INFO", section)
        return answer

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Look until *condition* holds, which may fail to reach a server.

        Raises:
            ServerFailed: It did not hold in time, or the server ended; the message has the end of its log.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _holds(condition):
            if not self.running or time.monotonic() > deadline:
                raise ServerFailed(f"waited in vain {what}; its log ends\n{self._log()}")
            time.sleep(0.005)

    def wait_until_it_answers(self) -> None:
        """Wait until it answers a PING, having read its data."""

        def answers() -> bool:
            # The number, for whatever else may listen on the port of a server that could not start there.
            process = self._process.pid if self._process is not None else 0
            return bool(self.execute("PING")) and self.info("server")["process_id"] == process

        self.wait(answers, f"until the server at {HOST}:{self.port} answers")

    def _arguments(self, folder: Path) -> list[str]:
        """Write the configuration file and return the arguments of the program."""
        path = folder / "server.conf"
        own = {
            "bind": HOST,
            "port": str(self.port),
            "cluster-port": str(self.bus_port),
            "save": '""',
            "appendonly": "no",
        }
        path.write_text(self._directives(**own), encoding="utf-8")
        return [str(path)]

    def _directives(self, **own: str) -> str:
        lines = [
            f"{name} {value}\n"
            for name, values in {**own, **self.config}.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        return "".join(lines)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ServerFailed("the server is not running")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait(PATIENCE_SECONDS)
            folder_of(os.getpid()).remove(self._process.pid)
            self._process = None

    def _log(self) -> str:
        return "" if self._folder is None else (self._folder / "log").read_text(encoding="utf-8")[-2_000:]


class Given(Server):
    """A server that somebody else runs: it is neither started nor stopped, and must let us use all of it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    @property
    def url(self) -> str:
        """The address that was given."""
        return self._url

    @property
    def running(self) -> bool:
        """Always."""
        return True

    def start(self) -> None:
        """See that it answers."""
        self.execute("PING")


def standalone(program: Program = "valkey", config: Config | None = None) -> Server:
    """Return a server to start, or the one that the environment variable `GIVEN` names, however that is set."""
    given = os.environ.get(GIVEN)
    return Given(given) if given else Server(program, config)


class Cluster(Started):
    """A cluster of *primaries*, each with *replicas*.

    Attributes:
        nodes: First those that begin as primaries, with equal shares of the slots; then their replicas, in turn.
    """

    def __init__(
        self, primaries: int = 3, *, replicas: int = 0, program: Program = "valkey", config: Config | None = None
    ) -> None:
        directives = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", **_REPLICATION, **(config or {})}
        self.nodes = [Server(program, directives) for _ in range(primaries * (1 + replicas))]
        self._shares = primaries
        self._formed = False

    @property
    def url(self) -> str:
        """The address of its first node."""
        return self.nodes[0].url

    @property
    def primaries(self) -> list[Server]:
        """The running nodes that are no replicas."""
        return [primary for node in self.nodes for primary in node.primaries]

    def start(self) -> None:
        """Start it, after `kill` at the same addresses, and wait until it is well and each replica is in sync."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until_it_answers()
        if self._formed:
            self.wait_until_in_sync()
            return
        first, replicas = self.nodes[0], self.nodes[self._shares :]
        for number, node in enumerate(self.nodes):
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # or they would have to settle equal ones
            if number < self._shares:
                begin, end = (16_384 * place // self._shares for place in (number, number + 1))
                node.execute("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
            if number:
                node.execute("CLUSTER", "MEET", HOST, first.port, first.bus_port)
        self.wait_until_well()
        for number, replica in enumerate(replicas):
            replica.execute("CLUSTER", "REPLICATE", self.nodes[number % self._shares].execute("CLUSTER", "MYID"))
        for replica in replicas:
            replica.wait(partial(_in_sync, replica), "until the replica is in sync")
        self._formed = True

    def kill(self) -> None:
        """Kill all nodes at once; what they know of the cluster stays, and what they persisted."""
        for node in self.nodes:
            node.kill()

    def home_of(self, slot: int) -> Server:
        """Return the running node that says that *slot* is its own."""
        for node in self.primaries:
            for first, last, owner, *_ in node.execute("CLUSTER", "SLOTS"):
                if first <= slot <= last and owner[1] == node.port:
                    return node
        raise ServerFailed(f"no node says that the slot {slot} is its own")

    def replicas_of(self, primary: Server) -> list[Server]:
        """Return the running nodes that replicate *primary*."""
        running = [node for node in self.nodes if node.running and node is not primary]
        return [node for node in running if node.info("replication").get("master_port") == primary.port]

    def fail_over(self, primary: Server) -> Server:
        """Kill a primary, wait until its replica takes writes in its place, and return that."""
        (replica,) = self.replicas_of(primary)
        primary.kill()
        replica.wait(lambda: replica.primaries == [replica], "until the replica is promoted")
        replica.wait(partial(self._is_ok, replica), "until the cluster is well without the killed node")
        return replica

    def hand_over(self, replica: Server) -> None:
        """Let a replica and its primary change places in order, which loses nothing."""
        replica.execute("CLUSTER", "FAILOVER")
        replica.wait(lambda: replica.primaries == [replica], "until the replica took over")
        self.wait_until_in_sync()

    def wait_until_in_sync(self) -> None:
        """Wait until each running node that is no primary has all that its primary has."""
        self.wait_until_well()
        for node in self.nodes:
            if node.running and not node.primaries:
                node.wait(partial(_in_sync, node), "until the replica is in sync")

    def begin_move(self, slot: int, target: Server) -> None:
        """Announce that *slot* goes to *target*: what is not at its home any more is asked for there."""
        source = self.home_of(slot)
        target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", source.execute("CLUSTER", "MYID"))
        source.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", target.execute("CLUSTER", "MYID"))

    def move_keys(self, slot: int, target: Server) -> int:
        """Move the keys that the home of *slot* has at present, and return how many."""
        source = self.home_of(slot)
        keys = source.execute("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        if keys:
            source.execute("MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)
        return len(keys)

    def finish_move(self, slot: int, target: Server) -> None:
        """Move what is left, and make *target* the home of *slot*."""
        source, name = self.home_of(slot), target.execute("CLUSTER", "MYID")
        while self.move_keys(slot, target):
            pass
        for node in (target, source, *(node for node in self.primaries if node not in (source, target))):
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", name)

    def move(self, slot: int, target: Server) -> None:
        """Make *target* the home of *slot*, with all its keys."""
        self.begin_move(slot, target)
        self.finish_move(slot, target)

    def wait_until_well(self) -> None:
        """Wait until each running node knows all the others and says that the cluster is well."""
        for node in self.nodes:
            if node.running:
                node.wait(partial(self._is_well, node), "until the cluster is well")

    def close(self) -> None:
        """Kill all nodes and remove all that they kept."""
        self._formed = False
        for node in self.nodes:
            node.close()

    def _is_well(self, node: Server) -> bool:
        return self._is_ok(node) and b"cluster_known_nodes:%d" % len(self.nodes) in _cluster_info(node)

    def _is_ok(self, node: Server) -> bool:
        return b"cluster_state:ok" in _cluster_info(node)


class Sentinel(Server):
    """A server that watches others. It keeps what it learns in its configuration file."""

    def _arguments(self, folder: Path) -> list[str]:
        path = folder / "server.conf"
        if not path.exists():
            path.write_text(self._directives(bind=HOST, port=str(self.port)), encoding="utf-8")
        return [str(path), "--sentinel"]


class Sentinels(Started):
    """A primary and a replica, watched by *count* sentinels, of which more than half must agree.

    Attributes:
        primary: The server that begins as the primary.
        replica: The one that begins as its replica.
        sentinels: Who watches them.
        service: The name that they watch them under.
    """

    service = "mymaster"

    def __init__(
        self,
        count: int = 3,
        *,
        program: Program = "valkey",
        config: Config | None = None,
        sentinel_config: Config | None = None,
    ) -> None:
        self.primary, self.replica = (Server(program, {**_REPLICATION, **(config or {})}) for _ in range(2))
        self.sentinels = [Sentinel(program, sentinel_config) for _ in range(count)]

    @property
    def url(self) -> str:
        """The address of the first sentinel."""
        return self.sentinels[0].url

    @property
    def nodes(self) -> list[str]:
        """The other sentinels, each as ``host:port``."""
        return [f"{HOST}:{sentinel.port}" for sentinel in self.sentinels[1:]]

    @property
    def primaries(self) -> list[Server]:
        """The running server that takes writes; for a moment after a failover it may be both."""
        return [*self.primary.primaries, *self.replica.primaries]

    def start(self) -> None:
        """Start all; wait until the replica is in sync, and each sentinel knows it and the other sentinels."""
        self.primary.start()
        self.replica.config["replicaof"] = f"{HOST} {self.primary.port}"
        self.replica.start()
        self.replica.wait(partial(_in_sync, self.replica), "until the replica is in sync")
        for sentinel in self.sentinels:
            sentinel.config = {
                **sentinel.config,
                "sentinel": [
                    f"monitor {self.service} {HOST} {self.primary.port} {len(self.sentinels) // 2 + 1}",
                    f"down-after-milliseconds {self.service} 2000",
                    f"failover-timeout {self.service} 2000",
                ],
            }
            sentinel.launch()
        for sentinel in self.sentinels:
            sentinel.wait_until_it_answers()
            sentinel.execute("SENTINEL", "DEBUG", *_HURRY)
        for sentinel in self.sentinels:
            sentinel.wait(partial(self._is_informed, sentinel), "until the sentinel knows the others")

    def fail_over(self) -> None:
        """Kill the primary, and `wait_until_promoted`."""
        self.primary.kill()
        self.wait_until_promoted()

    def wait_until_promoted(self, server: Server | None = None) -> None:
        """Wait until every sentinel names *server*, else the replica, as the primary and it alone takes writes."""
        server = server or self.replica
        for sentinel in self.sentinels:
            sentinel.wait(partial(self._names, sentinel, server), "until another server is named the primary")
        server.wait(lambda: self.primaries == [server], "until that server alone takes writes")

    def wait_until_in_sync(self, server: Server) -> None:
        """Wait until *server* is a replica, which sentinels see to, in sync, and each sentinel has taken note."""
        server.wait(partial(_in_sync, server), "until the server is a replica in sync")
        for sentinel in self.sentinels:  # one that has not would undo a promotion that another begins
            sentinel.wait(partial(self._sees_replica, sentinel, server), "until the sentinel sees a replica")

    def hand_over(self, replica: Server) -> None:
        """Have the sentinels promote a replica that is in sync, though the primary is well."""
        sentinel = self.sentinels[0]

        def is_begun() -> bool:
            try:
                sentinel.execute("SENTINEL", "FAILOVER", self.service)
            except exceptions.ResponseError:
                return False  # it does not know yet how well the replica is, or another failover is under way
            return True

        sentinel.wait(is_begun, "until the sentinel begins a failover")
        self.wait_until_promoted(replica)

    def detach_replica(self) -> None:
        """Pause the replica so that it lacks every write from now on; after `Server.resume` it catches up if it can.

        Within a second that it is paused no sentinel takes note.
        """
        self.replica.pause()
        # Paused alone, it would once resumed find in the system's buffers what was sent to it meanwhile.
        self.primary.execute("CLIENT", "KILL", "TYPE", "replica")

    def close(self) -> None:
        """Kill all and remove all that they kept."""
        for server in (*self.sentinels, self.replica, self.primary):
            server.close()

    def _is_informed(self, sentinel: Server) -> bool:
        words = sentinel.execute("SENTINEL", "MASTER", self.service)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        return (int(fields[b"num-slaves"]), int(fields[b"num-other-sentinels"])) == (1, len(self.sentinels) - 1)

    def _sees_replica(self, sentinel: Server, server: Server) -> bool:
        for words in sentinel.execute("SENTINEL", "REPLICAS", self.service):
            fields = dict(zip(words[::2], words[1::2], strict=True))
            if int(fields[b"port"]) == server.port:
                return (fields[b"role-reported"], fields[b"flags"]) == (b"slave", b"slave")
        return False

    def _names(self, sentinel: Server, server: Server) -> bool:
        _, port = sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return int(port) == server.port


def _cluster_info(node: Server) -> set[bytes]:
    return set(node.execute("CLUSTER", "INFO").split())


def _in_sync(replica: Server) -> bool:
    return bool(replica.info("replication").get("master_link_status") == "up")


def _holds(condition: Callable[[], bool]) -> bool:
    """Say whether *condition* holds; of a server that cannot be reached, or still reads its data, nothing does."""
    try:
        return condition()
    except (exceptions.AuthenticationError, exceptions.NoPermissionError):
        return True  # it answers; who else may ask is for the test to know
    except (exceptions.ConnectionError, exceptions.TimeoutError):
        return False
