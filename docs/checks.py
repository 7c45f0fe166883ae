"""Write, or compare, the page that says what tests each promise: ``docs/checks.md``.

``python docs/checks.py`` exits with 1 if the page is not what the kit has; ``--write`` writes it anew.
"""

import argparse
import sys
from pathlib import Path

from deerflow_conformance.checks import checks_of
from deerflow_conformance.promises import CAPABILITIES, CONTRACT_VERSION, PROMISES

PAGE = Path(__file__).with_name("checks.md")
HEAD = f"""\
# What tests each promise

Written by `python docs/checks.py --write`. The promises of contract {CONTRACT_VERSION}, each with the checks that
decide it and the level at which each runs ([the levels](testing-a-backend.md#levels)). What each promise says in full:
[promises.md](promises.md); which deliberate faults the checks must notice: [kill-matrix.md](kill-matrix.md).
`deerflow-conformance promises --checks` shows the same.
"""


def page() -> str:
    """Return the page as it should be."""
    lines = [HEAD]
    for promise in PROMISES.values():
        if not promise.counted:
            continue
        whose = "all" if len(promise.capabilities) == len(CAPABILITIES) else promise.capabilities[0]
        lines += [
            f"## {promise.number}",
            "",
            f"{promise.sentence} ({whose})",
            "",
            "| level | check | |",
            "|---|---|---|",
        ]
        for check in checks_of(promise.number):
            sentence = check.sentence.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
            lines.append(f"| {check.level} | `{check.name}` | {sentence} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Compare the page with the kit, or with ``--write`` write it."""
    parser = argparse.ArgumentParser(description="What tests each promise: docs/checks.md.")
    parser.add_argument("--write", action="store_true", help="write the page")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE.name} is not what the kit has: run python docs/checks.py --write")
    return 1


if __name__ == "__main__":
    sys.exit(main())
