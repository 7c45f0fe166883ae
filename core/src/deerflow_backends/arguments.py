"""What callers pass, checked before anything is sent: one place, one wording, for every backend."""

from __future__ import annotations

import math
from typing import Any

from deerflow_backends.errors import InvalidArgument

MAX_IDENTIFIER_BYTES = 512
MAX_TEXT_BYTES = 8 * 1024
MAX_TOKEN_BYTES = 64
MAX_PAGE = 1_000


def check_identifier(place: str, value: Any) -> str:
    """Return *value* if it is a ``str`` of 1 to 512 UTF-8 bytes, else raise `InvalidArgument`."""
    return _text(place, value, 1, MAX_IDENTIFIER_BYTES)


def check_optional_identifier(place: str, value: Any) -> str | None:
    """Return *value* if it is None or an identifier."""
    return None if value is None else check_identifier(place, value)


def check_text(place: str, value: Any) -> str:
    """Return *value* if it is a ``str`` of at most 8 KiB, empty included."""
    return _text(place, value, 0, MAX_TEXT_BYTES)


def check_token(place: str, value: Any) -> str:
    """Return *value* if it is a ``str`` of 1 to 64 UTF-8 bytes."""
    return _text(place, value, 1, MAX_TOKEN_BYTES)


def _text(place: str, value: Any, least: int, most: int) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(place, f"must be a str, not {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(place, f"has a lone surrogate at index {error.start}") from None
    if size < least:
        raise InvalidArgument(place, "must not be empty")
    if size > most:
        raise InvalidArgument(place, f"must be at most {most} UTF-8 bytes, not {size}")
    return value if type(value) is str else str.__str__(value)


def check_integer(place: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """Return *value* if it is an ``int`` (no ``bool``) within the bounds."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(place, f"must be an int, not {type(value).__name__}")
    if least is not None and value < least:
        raise InvalidArgument(place, f"must be {least} or more, not {_shown(value)}")
    if most is not None and value > most:
        raise InvalidArgument(place, f"must be at most {most}, not {_shown(value)}")
    return int(value)


def _shown(value: int) -> str:
    return str(value) if -(10**20) < value < 10**20 else "a number of more than 20 digits"


def check_seconds(place: str, value: Any, *, zero: bool = False) -> float:
    """Return *value* as a float if it is a finite number of seconds: more than 0, or with *zero* 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(place, f"must be a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds > MAX_SECONDS:
        raise InvalidArgument(place, f"must be a finite number of seconds up to {MAX_SECONDS:.0f}")
    if seconds < 0 or (seconds == 0 and not zero):
        raise InvalidArgument(place, f"must be {'0 or more' if zero else 'more than 0'}, not {value!r}")
    return seconds


#: A thousand years: sums of it with today still fit every server's clock.
MAX_SECONDS = 31_557_600_000.0


def check_page_limit(value: Any) -> int:
    """Return *value* if it is a page size of 1 to 1,000."""
    return check_integer("limit", value, least=1, most=MAX_PAGE)
