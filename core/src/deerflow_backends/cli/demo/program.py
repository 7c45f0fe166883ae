"""The demo from beginning to end: configured, performed, cleaned up, and what came of it."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from deerflow_backends.capabilities import CAPABILITIES
from deerflow_backends.cli.demo.acts import Demo, Setup, Stage
from deerflow_backends.cli.demo.processes import DemoFailed, children, environment
from deerflow_backends.cli.demo.script import EVENTS
from deerflow_backends.cli.demo.verify import Verdict, delivery_seconds
from deerflow_backends.errors import ConfigError

_DEADLINE_SECONDS: Final = 60.0
_CONFIGURATION: Final = "deerflow-backends.yaml"

#: What cannot be removed, a run's trace and the tokens of recordings, is gone so long after the demo.
_LEFT_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        backend: Its name.
        reach: How far its stream bridge carries.
        verdicts: One for each claim.
        seconds: How long all of it took.
        delivery: Median and 99th percentile in seconds from publish to arrival, None if too little arrived.
        run_id: The run that was streamed.
        kept: The folder that was left, if any.
    """

    backend: str
    reach: str
    verdicts: tuple[Verdict, ...]
    seconds: float
    delivery: tuple[float, float] | None
    run_id: str
    kept: Path | None

    @property
    def ok(self) -> bool:
        """Whether all of it held."""
        return all(verdict.ok for verdict in self.verdicts)


async def perform(setup: Setup, stage: Stage) -> Outcome:
    """Run the demo and return what came of it. No process and, unless asked for, no file is left, whatever happens.

    Raises:
        ConfigError: The backend cannot be opened, or its reach ends at the process.
        DemoFailed: It could not be finished.
    """
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="deerflow-demo-"))
    try:
        variables = configure(setup, folder)
        async with asyncio.timeout(_DEADLINE_SECONDS), children(folder, variables) as processes:
            async with httpx.AsyncClient(trust_env=False, timeout=10.0, limits=httpx.Limits()) as http:
                demo = Demo(setup, processes, http, stage)
                try:
                    await demo.perform()
                    unwell = await processes.end()
                except BaseException:
                    await processes.kill()
                    with suppress(ConfigError, DemoFailed):  # the first error is the one to tell
                        await demo.forget()
                    raise
            await demo.forget()
        seconds = time.monotonic() - begun
        return _outcome(demo, unwell, seconds, folder if setup.keep else None)
    except ConfigError as error:
        raise ConfigError(_as_given(str(error), folder / _CONFIGURATION)) from None
    except TimeoutError:
        raise DemoFailed(f"not finished within {_DEADLINE_SECONDS:.0f} s") from None
    except httpx.HTTPError as error:
        raise DemoFailed(f"a replica did not answer as it should: {type(error).__name__} {error}") from error
    finally:
        if not setup.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _as_given(message: str, configuration: Path) -> str:
    """Say of a mistake in the file, which nobody wrote by hand, what it is in the options."""
    message = re.sub(re.escape(str(configuration)) + r"(, line \d+)?", "the demo's options", message)
    return re.sub(r"connections\.\w+\.(\w+) \(.*?\): is required; .*", r"\1 is required; add --set \1=...", message)


def configure(setup: Setup, folder: Path) -> dict[str, str]:
    """Write the children's configuration into *folder* and return their environment. No setting is in the file."""
    secrets = {f"DEERFLOW_DEMO_SETTING_{number}": value for number, value in enumerate(setup.settings.values(), 1)}
    connection = dict(zip(setup.settings, (f"${name}" for name in secrets), strict=True))
    if setup.temporary:
        connection["path"] = str(folder / "data")
    if setup.namespace is not None:
        connection["namespace"] = setup.namespace
    configuration: dict[str, Any] = dict.fromkeys(CAPABILITIES, setup.backend)
    # The default keeps 256 events: a client further behind would rightly get a gap, and this shows a replay.
    configuration["stream_bridge"] = {"backend": setup.backend, "max_events": 2 * EVENTS}
    configuration["counters"] = {"backend": setup.backend, "token_seconds": _LEFT_SECONDS}
    if not setup.keep:
        configuration["stream_bridge"]["ttl_seconds"] = _LEFT_SECONDS
    if connection:
        configuration["connections"] = {setup.backend: connection}
    path = folder / _CONFIGURATION
    path.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
    return environment(path, secrets)


def _outcome(demo: Demo, unwell: Sequence[str], seconds: float, kept: Path | None) -> Outcome:
    ended = "All processes closed what they had open and ended." if not unwell else f"Not well: {list(unwell)}."
    verdicts = (*demo.verdicts, Verdict("processes", not unwell, ended, {"ended_badly": list(unwell)}))
    try:
        delivery = delivery_seconds(demo.published, [client.reader() for client in demo.clients])
    except ValueError:
        delivery = None
    reach = demo.replicas["B"].ready["reach"]["stream_bridge"]
    return Outcome(demo.setup.backend, reach, verdicts, seconds, delivery, demo.run_id, kept)
