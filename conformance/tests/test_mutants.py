"""The kit's proof of itself: every deliberate fault is noticed, by the checks of the promise that it breaks."""

from collections import Counter

import pytest

from deerflow_conformance.mutants import Mutant, all_mutants, mutant, run_mutant
from deerflow_conformance.promises import CAPABILITIES
from deerflow_conformance.texts import result_text

MUTANTS = all_mutants()


@pytest.mark.parametrize("mutated", MUTANTS, ids=lambda mutated: f"{mutated.number}-{mutated.name}")
def test_a_mutant_dies(mutated: Mutant) -> None:
    """Its promise fails, by what a check looks for and not by a crash; without the fault it holds: test_reference."""
    outcome = run_mutant(mutated)
    assert outcome.killed, f"{mutated.sentence}\n{result_text(outcome.result, 'this test')}"


def test_there_are_enough() -> None:
    """Every capability has at least six mutants."""
    counts = Counter(mutated.capability for mutated in MUTANTS)
    assert all(counts[capability] >= 6 for capability in CAPABILITIES), counts


def test_mutants_register_by_promise_with_a_docstring() -> None:
    """A mutant names a promise of its capability and says what is wrong, under a name of its own."""
    with pytest.raises(ValueError, match="memory has no promise 'S1'"):
        mutant("S1", "memory")

    def undocumented() -> None: ...

    with pytest.raises(ValueError, match="docstring"):
        mutant("S1", "stream_bridge")(undocumented)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two mutants"):
        mutant(MUTANTS[0].number, MUTANTS[0].capability)(MUTANTS[0].patch)
