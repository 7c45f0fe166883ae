"""The command ``deerflow-backends``. Importing this package loads nothing but itself: its libraries are an extra."""

from __future__ import annotations

import sys
from typing import Final

#: Shells and timeouts(1) expect this of a program that was interrupted.
INTERRUPTED: Final = 130


def main() -> int:
    """Run the command with the arguments of this process and return its exit code.

    Codes: 0 good, 1 what was checked is bad, 2 wrong usage, configuration or installation, 130 interrupted.
    """
    try:
        from deerflow_backends.cli.app import run  # noqa: PLC0415  # not before we know whether it can be imported
    except ModuleNotFoundError as error:
        return missing_extra("cli", error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return run(sys.argv[1:])


def missing_extra(extra: str, error: ModuleNotFoundError) -> int:
    """Say in one line which extra to install, and return the exit code 2; a missing module of our own is raised."""
    library = (error.name or "").partition(".")[0]
    if library in {"", "deerflow_backends"}:
        raise error
    remedy = f'pip install "deerflow-backends[{extra}]"'
    print(f"error: {library} is not installed, which this command needs: {remedy}", file=sys.stderr)  # noqa: T201
    return 2
