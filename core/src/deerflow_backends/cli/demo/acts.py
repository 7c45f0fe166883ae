"""The acts of the demo: who is started, what they are made to do, who is killed, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import httpx

from deerflow_backends.cli.demo.clients import Client
from deerflow_backends.cli.demo.processes import Child, Children
from deerflow_backends.cli.demo.script import EVENTS, NODES
from deerflow_backends.cli.demo.verify import (
    Published,
    Rivalry,
    Verdict,
    judge_counters,
    judge_failover,
    judge_memory,
    judge_streams,
    judge_threads,
)
from deerflow_backends.errors import ConfigError

#: How long each client rests after an event: most read at full speed, some cannot keep up with the worker.
PAUSES_SECONDS: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.003, 0.005, 0.007)
#: Replica A is killed once so many events are published.
KILL_AFTER: Final = 200
_PAGE: Final = 3

_GATEWAY: Final = "deerflow_backends.cli.demo.gateway"
_WORKER: Final = "deerflow_backends.cli.demo.worker"
_FORGET: Final = "deerflow_backends.cli.demo.forget"

_GOOD: Final[Mapping[str, int]] = {"successes": 1}
_BAD: Final[Mapping[str, int]] = {"failures": 1}
_LIKED: Final[Mapping[str, int]] = {"successes": 1, "positive": 1}
_DISLIKED: Final[Mapping[str, int]] = {"successes": 1, "negative": 1}


class Stage(Protocol):
    """Where the program shows what it is doing."""

    def step(self, text: str) -> None:
        """Begin a step; the one before it is done."""

    def watch(self, clients: Sequence[Client], published: Sequence[Published]) -> None:
        """Show how far the clients and the worker are, in the step that has begun; no clients: show that no longer."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the demo runs on.

    Attributes:
        backend: The backend of all four capabilities.
        settings: Its connection's settings, as text.
        namespace: Where all is written, None if the backend has but one place.
        keep: Leave the folder, and in the backend what was written.
    """

    backend: str
    settings: Mapping[str, str]
    namespace: str | None = None
    keep: bool = False

    @property
    def temporary(self) -> bool:
        """Whether all that is written is in a folder of the demo's own."""
        return self.backend == "sqlite" and "path" not in self.settings


@dataclass(slots=True)
class Demo:
    """The demo while it runs: the names it uses, the processes it started, what it has seen."""

    setup: Setup
    processes: Children
    http: httpx.AsyncClient
    stage: Stage
    suffix: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    replicas: dict[str, Child] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    killed_after: int = 0
    threads: list[str] = field(default_factory=list)
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """The run that the worker streams."""
        return f"demo-run-{self.suffix}"

    @property
    def user_path(self) -> str:
        """Where a replica serves the demo's one user."""
        return f"/api/users/demo-user-{self.suffix}"

    async def perform(self) -> None:
        """Play all acts; what they showed is in `verdicts`. Raises as `Child.hear` does, and `httpx.HTTPError`."""
        self.stage.step("Gateway replicas A and B and a worker are started")
        worker = await self._start()
        self.stage.step("A user makes threads, models are called, on both replicas")
        await self._before()
        self.stage.step(f"The worker streams a run, {len(PAUSES_SECONDS)} clients read it from A")
        await self._stream(worker)
        self.stage.watch([], self.published)
        self.stage.step("A is started again: threads, memory and counters over both")
        await self.processes.ready(self.replicas["A"])
        await self._threads()
        await self._memory()
        await self._counters()
        self.stage.step("The processes are ended")

    async def _start(self) -> Child:
        arguments = (self.run_id, f"thread-{self.suffix}-run", f"demo-user-{self.suffix}", f"demo-{self.suffix}-")
        a = await self.processes.start("replica A", _GATEWAY)
        b = await self.processes.start("replica B", _GATEWAY)
        worker = await self.processes.start("worker", _WORKER, *arguments)
        for name, replica in (("A", a), ("B", b)):
            self.replicas[name] = await self.processes.ready(replica)
        for capability, reach in a.ready["reach"].items():
            if reach == "process":
                raise ConfigError(
                    f"{capability}: the backend {self.setup.backend!r} reaches one process only, and the demo has "
                    "several that must share it; choose another with --backend, or leave that out for sqlite"
                )
        return await self.processes.ready(worker)

    async def _before(self) -> None:
        for replica in ("A", "B", "A", "B"):
            await self._create_thread(replica)
        await self._call("A", NODES[0].model, _GOOD, _GOOD, _BAD)
        await self._call("B", NODES[1].model, _GOOD, _LIKED)
        # Reading flushes what A has counted but not stored yet: SIGKILL may lose the last second of it.
        await self._counts("A")

    async def _stream(self, worker: Child) -> None:
        replicas = [(name, replica.url) for name, replica in sorted(self.replicas.items())]
        self.clients = [Client(f"client {number}", pause) for number, pause in enumerate(PAUSES_SECONDS, 1)]
        self.stage.watch(self.clients, self.published)
        reading = [asyncio.create_task(client.read(self.http, self.run_id, replicas)) for client in self.clients]
        hearing = asyncio.create_task(self._hear(worker))
        try:
            await _until(lambda: all(client.replica for client in self.clients), *reading, hearing)
            worker.tell()
            await _until(lambda: len(self.published) >= KILL_AFTER, *reading, hearing)
            self.killed_after = len(self.published)
            self.processes.forget(self.replicas["A"])
            await self.replicas["A"].kill()
            self.stage.step("A is killed (SIGKILL), the clients read on from B")
            await hearing
            # The worker is done, some clients are still catching up: time enough for A to come back.
            self.replicas["A"] = await self.processes.start("replica A", _GATEWAY)
            await asyncio.gather(*reading)
        finally:
            for task in (hearing, *reading):
                task.cancel()
            await asyncio.gather(hearing, *reading, return_exceptions=True)
        self.threads.append(f"thread-{self.suffix}-run")
        for node in NODES:
            self._expect(node.model, _GOOD)
        readers = [client.reader() for client in self.clients]
        self.verdicts.append(judge_streams(self.published, readers, EVENTS))
        self.verdicts.append(judge_failover(readers, "A", "B", self.killed_after))

    async def _hear(self, worker: Child) -> None:
        """Note what the worker says it published, until it is done."""
        while "done" not in (said := await worker.hear()):
            self.published.append(Published(**said))

    async def _threads(self) -> None:
        for replica in ("A", "B"):
            await self._create_thread(replica)
        listings = {name: await self._list_threads(name) for name in sorted(self.replicas)}
        self.verdicts.append(judge_threads(self.threads[::-1], listings))

    async def _create_thread(self, replica: str) -> None:
        thread_id = f"thread-{self.suffix}-{len(self.threads)}"
        asked = {"thread_id": thread_id, "display_name": f"made on {replica}"}
        await self._ask(replica, "POST", f"{self.user_path}/threads", asked)
        self.threads.append(thread_id)

    async def _list_threads(self, replica: str) -> list[str]:
        listed: list[str] = []
        query: str | None = f"limit={_PAGE}"
        while query is not None:
            page = await self._ask(replica, "GET", f"{self.user_path}/threads?{query}")
            listed += [thread["thread_id"] for thread in page["threads"]]
            cursor = page["next_cursor"]
            query = None if cursor is None else f"limit={_PAGE}&cursor={cursor}"
        return listed

    async def _memory(self) -> None:
        facts = {
            "season": {"content": "Asks about deer in winter 🦌", "category": "knowledge"},
            "language": {"content": "喜欢用中文回答", "category": "preference"},
        }
        memory = f"{self.user_path}/memory"
        revision = (await self._ask("A", "GET", memory))["revision"]
        offers = {
            name: {"fact_id": fact_id, "value": value, "expected_revision": revision}
            for name, (fact_id, value) in zip("AB", facts.items(), strict=True)
        }
        answers = await asyncio.gather(*(self._post(name, memory, offer) for name, offer in offers.items()))
        refused = {name: answer for name, answer in zip(offers, answers, strict=True) if answer.status_code == 409}
        told = retry = None
        for name, answer in refused.items():
            told = answer.json()["found"]
            fresh = (await self._ask(name, "GET", memory))["revision"]
            retry = (await self._post(name, memory, offers[name] | {"expected_revision": fresh})).status_code
        found = {}
        for name in sorted(self.replicas):
            shown = await self._ask(name, "GET", memory)
            found[name] = (shown["revision"], shown["facts"])
        statuses = [answer.status_code for answer in answers]
        self.verdicts.append(judge_memory(Rivalry(revision, statuses, told, retry, facts, found)))

    async def _counters(self) -> None:
        await self._call("A", NODES[1].model, _GOOD, _BAD, _LIKED, _GOOD)
        await self._call("B", NODES[0].model, _GOOD, _DISLIKED, _GOOD)
        await self._counts("A")  # a replica's own counts are stored when it is read, or within the second
        found = {"B": await self._counts("B"), "A": await self._counts("A")}
        self.verdicts.append(judge_counters(self.counted, dict(sorted(found.items()))))

    async def _call(self, replica: str, model: str, *outcomes: Mapping[str, int]) -> None:
        """Let a replica count one call of *model* for each of *outcomes*."""
        path = f"/api/models/demo-{self.suffix}-{model}/calls"
        await asyncio.gather(*(self._ask(replica, "POST", path, dict(outcome)) for outcome in outcomes))
        for outcome in outcomes:
            self._expect(model, outcome)

    def _expect(self, model: str, outcome: Mapping[str, int]) -> None:
        names = ("calls", "successes", "failures", "positive", "negative")
        counts = self.counted.setdefault(model, dict.fromkeys(names, 0))
        for name, value in {"calls": 1, **outcome}.items():
            counts[name] += value

    async def _counts(self, replica: str) -> dict[str, dict[str, int]]:
        paths = {model: f"/api/models/demo-{self.suffix}-{model}" for model in self.counted}
        return {model: await self._ask(replica, "GET", path) for model, path in paths.items()}

    async def _ask(self, replica: str, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of one of a replica's endpoints, which must not refuse."""
        answer = await self.http.request(method, self.replicas[replica].url + path, json=body)
        return answer.raise_for_status().json()

    async def _post(self, replica: str, path: str, body: Any) -> httpx.Response:
        return await self.http.post(self.replicas[replica].url + path, json=body)

    async def forget(self) -> None:
        """Remove what the demo wrote, unless that is in the demo's own folder or was to be kept."""
        if self.setup.temporary or self.setup.keep or not self.threads:
            return
        models = {f"demo-{self.suffix}-{node.model}" for node in NODES}
        await self.processes.ready(
            await self.processes.start("clean-up", _FORGET, self.run_id, f"demo-user-{self.suffix}", *models)
        )


async def _until(condition: Callable[[], bool], *tasks: asyncio.Task[None]) -> None:
    """Wait until *condition* holds, or one of *tasks* fails: then raise its error."""
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.005)
