"""Listings that are read page by page while others write, drawn as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis.strategies import SearchStrategy

from deerflow_conformance.digits import Digits, from_number


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens between two pages: item number *index* is made, touched or removed."""

    kind: Literal["create", "touch", "remove"]
    index: int


@dataclass(frozen=True, slots=True)
class PagingProgram:
    """A listing read page by page while others write.

    Attributes:
        present: The items stored before the first page.
        limit: Of each page.
        between: What happens after each page.
    """

    present: tuple[int, ...]
    limit: int
    between: tuple[tuple[Disturbance, ...], ...]

    @property
    def disturbed(self) -> frozenset[int]:
        """The items that the program creates, touches or removes at any moment."""
        return frozenset(action.index for actions in self.between for action in actions)


_MOST = 12
_KINDS: tuple[Literal["create", "touch", "remove"], ...] = ("create", "touch", "remove")


def _program(digits: Digits) -> PagingProgram:
    # Multiplied by what has no divisor in common with their count, the items come in another order.
    step, start = digits.pick((1, 5, 7, 11)), digits.upto(_MOST - 1)
    present = [(start + step * number) % _MOST for number in range(_MOST)][: digits.upto(_MOST)]
    between = tuple(
        tuple(Disturbance(digits.pick(_KINDS), digits.upto(_MOST - 1)) for _ in range(digits.upto(2)))
        for _ in range(digits.upto(5))
    )
    return PagingProgram(tuple(present), 1 + digits.upto(3), between)


def paging_programs() -> SearchStrategy[PagingProgram]:
    """Draw listings of up to a dozen items, few a page, with writes between the pages."""
    return from_number(_program)
