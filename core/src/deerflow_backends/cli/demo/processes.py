"""The program's side of its child processes: started with a clean environment, heard, and always ended."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deerflow_backends.codec import decode
from deerflow_backends.errors import ConfigError

_READY_SECONDS: Final = 30.0
_END_SECONDS: Final = 4.0


class DemoFailed(Exception):
    """The demo could not go on; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Child:
    """One process that the program started.

    Attributes:
        name: For people.
        process: It.
        log: The file that its stderr goes to.
        ready: What it said of itself when it was ready.
    """

    name: str
    process: Process
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where a gateway replica listens."""
        return f"http://127.0.0.1:{self.ready['port']}"

    async def hear(self) -> dict[str, Any]:
        """Return the next thing that the process reports.

        Raises:
            ConfigError: It could not open what is configured.
            DemoFailed: It failed otherwise, or ended.
        """
        line = await self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            code = await self.process.wait()
            raise DemoFailed(f"{self.name} ended with exit code {code}{self._last_words()}")
        said: dict[str, Any] = decode(line)
        if "error" in said:
            raise ConfigError(said["error"]) if said["ours_to_fix"] else DemoFailed(f"{self.name}: {said['error']}")
        return said

    def tell(self) -> None:
        """Let the process begin what it is waiting to do."""
        if self.process.stdin:
            self.process.stdin.write(b"\n")

    async def kill(self) -> None:
        """End the process with SIGKILL: it gets no chance to close anything."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


class Children:
    """All the processes that the program started, see `children`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._started: list[Child] = []

    async def start(self, name: str, module: str, *arguments: str) -> Child:
        """Start *module* as a process; it may not be ready yet."""
        log = self._folder / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
                env=self._environment,
                # Ctrl-C at the terminal is for the program alone: it ends its children in its own order.
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._started.append(child)
        return child

    async def ready(self, child: Child) -> Child:
        """Wait until a started process says that it is ready. Raises as `Child.hear` does."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                child.ready.update(await child.hear())
        except TimeoutError:
            raise DemoFailed(f"{child.name} was not ready within {_READY_SECONDS:.0f} s") from None
        return child

    async def end(self) -> list[str]:
        """Ask every process to end by closing its stdin; return the names of those that did not do it well."""
        unwell = []
        for child in self._started:
            if child.process.stdin:
                child.process.stdin.close()
        for child in self._started:
            try:
                async with asyncio.timeout(_END_SECONDS):
                    code = await child.process.wait()
            except TimeoutError:
                code = None
            if code != 0:
                unwell.append(child.name)
        return unwell

    async def kill(self) -> None:
        """End whatever is still there, at once."""
        for child in self._started:
            with suppress(ProcessLookupError):
                child.process.kill()
        for child in self._started:
            await child.process.wait()

    def forget(self, child: Child) -> None:
        """Leave a process that was killed on purpose out of `end`."""
        self._started.remove(child)


@asynccontextmanager
async def children(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Children]:
    """Yield a place to start processes in; when it is left, however it is left, none of them is alive."""
    started = Children(folder, environment)
    try:
        yield started
    finally:
        await started.kill()


def environment(configuration: Path, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with nothing in it that configures backends but *configuration*.

    Args:
        configuration: The configuration file that the children read.
        secrets: More variables, to which that file refers.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("DEERFLOW_BACKENDS_") and name.upper() != "DEER_FLOW_CONFIG_PATH"
    }
    return kept | {"DEERFLOW_BACKENDS_CONFIG": str(configuration)} | dict(secrets)
