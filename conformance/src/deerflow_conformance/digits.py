"""Programs out of drawn numbers: drawing each of their parts by itself takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

#: Bytes of a drawn number: more than the parts of any one step have choices.
_SIZE: Final = 12
_numbers = st.binary(min_size=_SIZE, max_size=_SIZE)


class Digits:
    """The digits of a number, to a new base each time. Those of 0, towards which programs are shortened, are 0."""

    def __init__(self, drawn: bytes) -> None:
        self._number = int.from_bytes(drawn)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of *options*; put the simplest first."""
        self._number, index = divmod(self._number, len(options))
        return options[index]

    def upto(self, most: int) -> int:
        """Return a number from 0 to *most*."""
        return self.pick(range(most + 1))


def from_number(decode: Callable[[Digits], T]) -> st.SearchStrategy[T]:
    """Draw what *decode* makes of one number."""
    return _numbers.map(lambda drawn: decode(Digits(drawn)))


def from_steps(
    decode: Callable[[Digits, list[Digits]], T], *, least: int | None = None, most: int
) -> st.SearchStrategy[T]:
    """Draw what *decode* makes of one number and of one for each of *least* to *most* steps.

    Where *least* is not given it is half of *most*: left to itself Hypothesis draws mostly few. A step whose number is
    0 is left out, so that a program is shortened to any number of steps, none included.
    """

    def decoded(drawn: tuple[bytes, list[bytes]]) -> T:
        return decode(Digits(drawn[0]), [Digits(step) for step in drawn[1] if any(step)])

    steps = st.lists(_numbers, min_size=most // 2 if least is None else least, max_size=most)
    return st.tuples(_numbers, steps).map(decoded)
