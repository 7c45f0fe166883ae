"""``python -m deerflow_conformance.mutants``: run the mutants, and write down who noticed them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from deerflow_conformance.kill_matrix import matrix, survived_in
from deerflow_conformance.mutants import all_mutants


def main() -> int:
    """Run them; 1 if any is missed, and then nothing is written."""
    parser = argparse.ArgumentParser(prog="python -m deerflow_conformance.mutants", description=__doc__)
    parser.add_argument("-k", metavar="PATTERN", default="", help="only those whose capability, promise or name has it")
    parser.add_argument(
        "--write", metavar="PAGE", type=Path, help="write the kill matrix, of all mutants, to this page"
    )
    arguments = parser.parse_args()
    if arguments.k and arguments.write:
        parser.error("--write is of all mutants: leave out -k")
    mutants = all_mutants()
    chosen = [
        place
        for place, one in enumerate(mutants)
        if re.search(arguments.k, f"{one.capability} {one.number} {one.name}")
    ]
    # Each in a fresh interpreter: a fork would take over locks and threads.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as executor:
        survived = [line for lines in executor.map(survived_in, chosen) for line in lines]
    sys.stdout.writelines(f"{line}\n" for line in [*survived, f"{len(chosen)} mutants, {len(survived)} times missed"])
    if arguments.write and not survived:
        arguments.write.write_text(matrix(mutants), encoding="utf-8")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
