"""The kill matrix: every mutant, what is wrong with it, and the checks that notice, as a page of Markdown."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from deerflow_conformance.mutants import SEEDS, Mutant, all_mutants, judge_mutant
from deerflow_conformance.promises import PROMISES

_HEAD = """\
# Kill matrix

<!-- Written by: python -m deerflow_conformance.mutants --write docs/kill-matrix.md -->

How the conformance kit proves itself. A mutant is a backend with one deliberate fault. Each breaks one promise, and
each check in its row fails because of it, by what it looks for and not by a crash, with every seed of {seeds}. Without
the fault the same checks pass. A mutant that only another check notices counts as missed, and the build fails; so it
does where a promise has no mutant, or a check was never seen to fail.

Mutants of the kit's served backend live in processes of their own, where the seed does not decide alone what meets
what: they have three chances with each seed. Plain `nox` runs them with the first one, `nox -s proof` with the others.

| capability | mutants | promises broken | checks that notice |
|---|--:|--:|--:|
"""


def matrix(mutants: Sequence[Mutant]) -> str:
    """Return the page of *mutants*, which are grouped by capability and promise already."""
    text = _HEAD.format(seeds=f"{', '.join(map(str, SEEDS[:-1]))} and {SEEDS[-1]}")
    groups = [(name, [*group]) for name, group in itertools.groupby(mutants, lambda one: one.capability)]
    for name, group in [*groups, ("all", [*mutants])]:
        checks = {(one.number, check) for one in group for check in one.by}
        text += f"| {name} | {len(group)} | {len({one.number for one in group})} | {len(checks)} |\n"
    for name, group in groups:
        text += f"\n## {name}\n"
        for number, broken in itertools.groupby(group, lambda one: one.number):
            text += f"\n**{number}** {_escaped(PROMISES[number].sentence)}\n\n{_table(broken)}"
    return text


def _table(mutants: Iterable[Mutant]) -> str:
    rows = (
        f"| `{one.name}` | {_escaped(one.sentence)} | {', '.join(f'`{check}`' for check in one.by)} |\n"
        for one in mutants
    )
    return "| mutant | what is wrong | noticed by |\n|---|---|---|\n" + "".join(rows)


def _escaped(sentence: str) -> str:
    """Return text of which Markdown takes nothing for a mark of its own."""
    return re.sub(r"[\\<*|]|__", r"\\\g<0>", sentence)


def survived_in(place: int) -> list[str]:
    """Run the mutant at that place among all with every seed; say which checks missed it."""
    mutated = all_mutants()[place]
    return [str(outcome) for seed in SEEDS if (outcome := judge_mutant(mutated, seed)).missed]
