"""The command ``deerflow-conformance``: hold a backend to its promises, and read and check reports of that."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

#: Shells and timeouts(1) expect this of a program that was interrupted.
INTERRUPTED: Final = 130
#: The same of one that was ended by SIGTERM.
TERMINATED: Final = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, or those of this process, and return its exit code.

    Codes: 0 conformant, 1 not, 2 wrong usage or nothing opens, 3 incomplete, 4 a defect of the kit, 130 interrupted,
    143 ended by SIGTERM.
    """
    try:
        # So late that Ctrl-C while loading is quiet, too.
        from deerflow_conformance.cli.app import run  # noqa: PLC0415
        from deerflow_conformance.cli.signals import terminations  # noqa: PLC0415
    except KeyboardInterrupt:
        return INTERRUPTED
    with terminations() as seen:
        code = run(sys.argv[1:] if arguments is None else arguments)
    return TERMINATED if seen and code == INTERRUPTED else code
