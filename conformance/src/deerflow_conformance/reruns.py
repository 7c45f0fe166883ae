"""One check of one promise again, in this process and with its whole traceback: for a debugger, or for prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deerflow_conformance.checks import Check
    from deerflow_conformance.conformances import Conformance


def rerun(
    target: str,
    number: str,
    check: str,
    *,
    capability: str | None = None,
    connection: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: float = 1.0,
) -> None:
    """Run one check with the programs that *seed* draws, and let out what it raises.

    Args:
        target: ``path/to/test_file.py::function``, or a plugin's name.
        number: The promise's.
        check: The check's name, as failures show it.
        capability: Of a plugin: whose promise.
        connection: Of a plugin: its settings.
        seed: What the run that failed had.
        budget: What it had.

    Raises:
        BrokenUse: There is no such target or check, or a setting is still to be filled in.
    """
    from deerflow_conformance.bench import Bench  # noqa: PLC0415  # loads Hypothesis, which the text below does not need
    from deerflow_conformance.checks import checks_of  # noqa: PLC0415
    from deerflow_conformance.harness import HARNESS_CHECKS  # noqa: PLC0415
    from deerflow_conformance.results import BrokenUse  # noqa: PLC0415
    from deerflow_conformance.servers import switch  # noqa: PLC0415

    if missing := [name for name, value in (connection or {}).items() if value is ...]:
        raise BrokenUse(f"fill in {', '.join(f'connection[{name!r}]' for name in missing)}: it may be a secret")
    conformance = _found(target, capability, connection or {})
    known = HARNESS_CHECKS if number == "L0" else checks_of(number)
    wanted = next((one for one in known if one.name == check), None)
    if wanted is None:
        raise BrokenUse(f"{number} has no check {check!r}; it has {', '.join(one.name for one in known)}")
    bench = Bench(conformance, seed=seed, budget=budget)
    try:
        switch(conformance.start, "start")
        for one in (*HARNESS_CHECKS, wanted):
            bench.begin(one)
            one.function(bench)
    finally:
        bench.close()
        switch(conformance.stop, "stop")


def _found(target: str, capability: str | None, connection: Mapping[str, Any]) -> Conformance:
    from deerflow_conformance.conformances import FileRecipe, conform_plugin  # noqa: PLC0415
    from deerflow_conformance.replica_process import conformance_of  # noqa: PLC0415
    from deerflow_conformance.results import BrokenUse  # noqa: PLC0415

    path, separator, name = target.partition("::")
    if separator:
        return conformance_of(FileRecipe(path, "conformance_rerun", name))
    if target == "inprocess":
        from deerflow_conformance.reference import REFERENCE  # noqa: PLC0415

        offered = list(REFERENCE)
    else:
        offered = conform_plugin(target, connection=connection).conformances()
    for one in offered:
        if one.capability == capability:
            return one
    raise BrokenUse(f"{target} offers no {capability!r}; it offers {', '.join(one.capability for one in offered)}")


def rerun_text(conformance: Conformance, check: Check, *, seed: int, budget: float) -> str:
    """Return a program that runs *check* again; a plugin's settings that may be secret are to be filled in."""
    path, name = getattr(conformance.recipe, "path", None), getattr(conformance.recipe, "name", "")
    if sys.modules.get("deerflow_conformance.reference") is not None and conformance.plugin == "inprocess":
        path = None
    arguments = [f"{path}::{name}" if path else conformance.plugin, check.number, check.name]
    lines = [f"    {argument!r}," for argument in arguments]
    if path is None:
        lines.append(f"    capability={conformance.capability!r},")
        if connection := getattr(conformance.recipe, "connection", {}):
            lines.append(f"    connection={_connection_text(conformance.plugin, connection)}")
    lines.append(f"    seed={seed},")
    if budget != 1:
        lines.append(f"    budget={budget!r},")
    return "\n".join(["from deerflow_conformance import rerun", "", "rerun(", *lines, ")"])


def _connection_text(plugin: str, connection: Mapping[str, Any]) -> str:
    """Return *connection* as Python that can be run once what may be secret is filled in."""
    from deerflow_conformance.privacy import shown_settings  # noqa: PLC0415  # loads pydantic

    shown = shown_settings(plugin, connection)
    texts = {
        name: repr(str(value) if isinstance(value, PurePath) else value) if shown[name] == value else "..."
        for name, value in connection.items()
    }
    remark = "  # fill in what is ..." if "..." in texts.values() else ""
    return f"{{{', '.join(f'{name!r}: {text}' for name, text in texts.items())}}},{remark}"
