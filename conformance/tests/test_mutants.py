"""The kit's proof of itself: every deliberate fault is noticed, by the checks that look for it."""

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from deerflow_conformance.checks import checks_of
from deerflow_conformance.kill_matrix import matrix
from deerflow_conformance.mutants import SEEDS, Mutant, all_mutants, judge_mutant, mutant, run_mutant
from deerflow_conformance.promises import CAPABILITIES, PROMISES, promises_of
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.results import State
from deerflow_conformance.runs import Run

ROOT = Path(__file__).parents[2]
MUTANTS = all_mutants()
SERVED = [mutated for mutated in MUTANTS if mutated.served]


def named(mutated: Mutant) -> str:
    return f"{mutated.capability}-{mutated.number}-{mutated.name}"


@pytest.mark.parametrize("mutated", [one for one in MUTANTS if not one.served], ids=named)
def test_a_mutant_dies(mutated: Mutant) -> None:
    """Each check that looks for it fails, with every seed and not by a crash; without the fault: test_reference."""
    survived = [str(outcome) for seed in SEEDS if (outcome := run_mutant(mutated, seed)).missed]
    assert survived == [], "\n".join(survived)


@pytest.mark.parametrize("mutated", SERVED, ids=named)
@pytest.mark.parametrize("seed", [SEEDS[0], *(pytest.param(seed, marks=pytest.mark.proof) for seed in SEEDS[1:])])
@pytest.mark.served
def test_a_mutant_of_the_served_backend_dies(mutated: Mutant, seed: int) -> None:
    """The same with a server of its own; without the fault: test_served.

    Where processes race, it has three chances with each seed.
    """
    outcome = judge_mutant(mutated, seed)
    assert not outcome.missed, str(outcome)


def test_there_are_enough() -> None:
    """Every capability has at least 25 mutants."""
    counts = Counter(mutated.capability for mutated in MUTANTS)
    assert all(counts[capability] >= 25 for capability in CAPABILITIES), counts


def test_every_promise_has_a_mutant() -> None:
    """There is no counted promise that nobody has broken to see that it is noticed."""
    broken = {mutated.number for mutated in MUTANTS}
    assert [promise.number for promise in PROMISES.values() if promise.counted and promise.number not in broken] == []


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_promise_of_a_capability_has_a_mutant(capability: str) -> None:
    """A general promise is broken in each capability that it applies to, as the reference shows."""
    (reference,) = (one for one in REFERENCE if one.capability == capability)
    broken = {mutated.number for mutated in MUTANTS if mutated.capability == capability}
    whole = [promise.number for promise in promises_of(reference.capability) if promise.number not in broken]
    run = Run(reference)
    try:
        assert [number for number in whole if run.judge(number).state is not State.NOT_APPLICABLE] == []
    finally:
        run.close()


def test_every_check_has_a_mutant() -> None:
    """No check is there that was never seen to fail; those of L3 need more than one process."""
    seen = {(mutated.number, name) for mutated in MUTANTS for name in mutated.by}
    checks = [check for number in PROMISES for check in checks_of(number) if check.level != "L3"]
    assert [f"{one.number} {one.name}" for one in checks if (one.number, one.name) not in seen] == []


def test_the_kill_matrix_is_of_these_mutants() -> None:
    """The page in the docs is what `python -m deerflow_conformance.mutants --write docs/kill-matrix.md` writes."""
    assert (ROOT / "docs/kill-matrix.md").read_text(encoding="utf-8") == matrix(MUTANTS)


def test_the_kill_matrix_is_written_when_all_are_noticed(tmp_path: Path) -> None:
    """The command runs the mutants that are asked for, in processes of their own, and writes of all or not at all."""
    command = [sys.executable, "-m", "deerflow_conformance.mutants"]
    some = subprocess.run([*command, "-k", "S2 (rivals|seqs)"], capture_output=True, text=True, check=True)
    assert some.stdout == "2 mutants, 0 times missed\n"
    page = tmp_path / "page.md"
    both = subprocess.run([*command, "-k", "S2", "--write", str(page)], capture_output=True, text=True, check=False)
    assert (both.returncode, page.exists()) == (2, False)


def test_the_kill_matrix_takes_text_as_text() -> None:
    """What Markdown would take for a mark is text in the page."""
    marked = dataclasses.replace(MUTANTS[0], sentence="<b> a|b *c* __d__", by=("one", "two"))
    assert r"| \<b> a\|b \*c\* \__d\__ | `one`, `two` |" in matrix([marked])


def test_mutants_register_by_promise_with_a_docstring() -> None:
    """A mutant names a promise of its capability and says what is wrong, under a name of its own."""
    with pytest.raises(ValueError, match="memory has no promise 'S1'"):
        mutant("S1", "memory", by="any")

    def undocumented() -> None: ...

    with pytest.raises(ValueError, match="docstring"):
        mutant("S1", "stream_bridge", by="any")(undocumented)
    first = MUTANTS[0]
    with pytest.raises(ValueError, match="two mutants"):
        mutant(first.number, first.capability, by="any")(first.patch)


def test_a_mutant_must_die_by_the_checks_that_it_names() -> None:
    """That another check of its promise notices is not enough, and a check that is not there is an error."""
    (dying,) = (one for one in MUTANTS if one.name == "a_refused_event_takes_a_seq")
    outcome = run_mutant(Mutant("S2", "stream_bridge", "x", "y", ("each_stream_has_a_higher_epoch",), dying.patch))
    assert list(outcome.missed) == ["each_stream_has_a_higher_epoch"]
    assert str(outcome).endswith("each_stream_has_a_higher_epoch with seed 0 notices nothing")
    with pytest.raises(LookupError, match="no_such_check"):
        run_mutant(Mutant("S2", "stream_bridge", "x", "y", ("no_such_check",), dying.patch))
