"""Starts the server: ``python -m deerflow_conformance.mutants.served FOLDER PORT``."""

import asyncio
import sys
from pathlib import Path

from deerflow_conformance.mutants.served.faults import have_fault
from deerflow_conformance.mutants.served.server import run

if __name__ == "__main__":
    have_fault()
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
