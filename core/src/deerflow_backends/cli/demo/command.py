"""The command ``demo``: what it prints, and its exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Final

from rich.text import Text

from deerflow_backends import plugins
from deerflow_backends.cli.demo.acts import Setup, Stage
from deerflow_backends.cli.demo.processes import DemoFailed
from deerflow_backends.cli.demo.program import Outcome, perform
from deerflow_backends.cli.demo.show import as_json as outcome_as_json
from deerflow_backends.cli.demo.show import stage, summary
from deerflow_backends.cli.output import console, print_errors, print_json, printable

#: Where the demo writes unless told otherwise: apart from what gateways have there, whose options may be others.
_NAMESPACE: Final = "deerflow_demo"


def demonstrate(backend: str, settings: Mapping[str, str], *, keep: bool, as_json: bool) -> int:
    """Run the demo, print what came of it, and return 0 only if all of it held."""
    out = console()
    setup = Setup(backend, settings, _namespace(backend, settings), keep)
    if not as_json:
        place = "in a temporary folder" if setup.temporary else f"in the namespace {setup.namespace or 'that it has'}"
        out.print(Text.assemble(("deerflow-backends demo", "bold"), f" on {printable(backend)}, {printable(place)}\n"))
    try:
        with stage(out, silent=as_json) as shown:
            outcome = asyncio.run(_perform(setup, shown))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except DemoFailed as error:
        if as_json:
            print_json({"ok": False, "error": str(error)})
        print_errors([str(error)])
        return 1
    if as_json:
        print_json(outcome_as_json(outcome))
    else:
        out.print()
        out.print(summary(outcome))
        _say_what_is_kept(setup, outcome)
    return 0 if outcome.ok else 1


async def _perform(setup: Setup, stage: Stage) -> Outcome:
    """Perform, and let SIGTERM and SIGHUP end it as Ctrl-C does: by cancelling, leaving nothing behind.

    A KeyboardInterrupt, raised wherever the program happens to be, could be swallowed by a callback or a destructor.
    """
    performing = asyncio.create_task(perform(setup, stage))
    for ending in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(ending, performing.cancel)
    return await performing


def _namespace(backend: str, settings: Mapping[str, str]) -> str | None:
    """Return the namespace to write to; None if the backend takes no settings.

    Raises:
        PluginError: There is no such backend, or it cannot be used.
    """
    return settings.get("namespace", _NAMESPACE) if plugins.load(backend).settings_model() else None


def _say_what_is_kept(setup: Setup, outcome: Outcome) -> None:
    if outcome.kept is None:
        return
    command = f"deerflow-backends tail {outcome.run_id}"
    if setup.temporary:
        command = f"DEERFLOW_BACKENDS_CONFIG={outcome.kept / 'deerflow-backends.yaml'} {command}"
    else:  # values may be secrets
        settings = dict.fromkeys(setup.settings, "...")
        if setup.namespace is not None:
            settings["namespace"] = setup.namespace
        options = [f"--backend {setup.backend}", *(f"--set {name}={value}" for name, value in settings.items())]
        command = " ".join([command, *options])
    console().print(Text(f"\nKept in {outcome.kept}; read the run again with\n  {command}"), soft_wrap=True)
