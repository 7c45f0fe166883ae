"""What is to be reached: the scenarios' goals, those of backends that are not installed included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results import Figure, Outcome


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one figure of a scenario.

    Attributes:
        scenario: By its name.
        figure: By its name in the outcome.
        bound: In *unit*, which is the figure's.
        unit: Empty if the figure's name says it.
        at_least: Whether the figure must reach the bound; else it must not exceed it.
        backends: Those that it is for; empty: all that offer the capability.
        exempt: Those that the contract itself exempts.
    """

    scenario: str
    figure: str
    bound: float
    unit: str
    at_least: bool
    backends: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()

    def concerns(self, backend: str) -> bool:
        """Whether it is a goal for *backend*."""
        return backend not in self.exempt and (not self.backends or backend in self.backends)

    def is_reached(self, figure: Figure) -> bool:
        """Whether the figure, a median where there are rounds, is within the bound."""
        return figure.value >= self.bound if self.at_least else figure.value <= self.bound

    def text(self) -> str:
        """Say it in a few signs."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:,g}"


GOALS = (
    Goal("publish_one", "throughput / raw", 0.75, "x", at_least=True, backends=("redis",)),
    Goal("publish_one", "throughput / raw", 0.6, "x", at_least=True, backends=("postgres", "mongo", "sqlite")),
    Goal("publish_64", "throughput / naive", 4, "x", at_least=True, backends=("redis",)),
    Goal("publish_64", "throughput / naive on Redis", 1, "x", at_least=True, backends=("postgres",)),
    Goal("publish_64", "throughput / raw one by one", 8, "x", at_least=True, backends=("mongo",)),
    Goal("deliver", "reader CPU, naive / ours", 12, "x", at_least=True, backends=("redis",)),
    Goal("deliver", "p99, naive / ours", 30, "x", at_least=True, backends=("redis",)),
    Goal("crowd", "connections", 8, "", at_least=False, backends=("redis", "postgres", "mongo")),
    Goal("crowd", "handles and threads for the crowd", 8, "", at_least=False),
    Goal("crowd", "delivered", 100, "%", at_least=True),
    Goal("growth", "cost at most / at fewest subscribers", 1.5, "x", at_least=False),
    Goal("replay", "events/s / raw range read", 0.5, "x", at_least=True),
    Goal("memory_apply", "large / small memory", 1.3, "x", at_least=False, exempt=("files",)),
    Goal("thread_pages", "late / first page", 2, "x", at_least=False),
    Goal("thread_pages", "many / few threads", 2, "x", at_least=False),
    Goal("counters", "records/s", 500_000, "", at_least=True),
    Goal("counters", "calls that waited", 0, "", at_least=False),
    Goal("counters", "reads and writes by the caller", 0, "", at_least=False),
    Goal("idle", "CPU", 3, "% of a core", at_least=False),
    Goal("import", "CPU over bare Python", 120, "ms", at_least=False),
    Goal("import", "heavy modules", 0, "", at_least=False),
)


def goal_of(outcome: Outcome, figure: Figure) -> Goal | None:
    """Return the goal for a figure of *outcome*, if it has one."""
    for goal in GOALS:
        if (goal.scenario, goal.figure) == (outcome.scenario, figure.name) and goal.concerns(outcome.backend):
            return goal
    return None


def verdict(outcome: Outcome, figure: Figure) -> str:
    """Say whether the figure's goal was reached, and else by how much not; empty without a goal."""
    goal = goal_of(outcome, figure)
    if goal is None:
        return ""
    if goal.is_reached(figure):
        return "reached"
    if not goal.bound:
        return f"missed by {figure.value:,g}"
    return f"missed by {abs(figure.value / goal.bound - 1):.0%}"


def not_run(backends: Sequence[str]) -> list[Goal]:
    """Return the goals that are for other backends alone than *backends*."""
    return [goal for goal in GOALS if goal.backends and not {*goal.backends} & {*backends}]
