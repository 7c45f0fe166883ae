"""The checks of arguments: any identifier is allowed (G1), and what is refused is named with the remedy."""

from __future__ import annotations

import enum
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import arguments
from deerflow_backends.errors import InvalidArgument


class Name(enum.StrEnum):
    """A str that is more than a str."""

    MODEL = "model"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128))
def test_every_character_is_allowed(text: str) -> None:
    """G1: any text of 1 to 512 UTF-8 bytes is an identifier, and stays as it is."""
    assert arguments.check_identifier("run_id", text) == text


@pytest.mark.parametrize(("size", "character"), [(512, "x"), (256, "é"), (128, "\U0001f98c")])
def test_identifiers_are_measured_in_utf8_bytes(size: int, character: str) -> None:
    """G1: 512 bytes fit, one character more does not."""
    assert arguments.check_identifier("run_id", character * size) == character * size
    with pytest.raises(InvalidArgument, match="run_id must be at most 512 UTF-8 bytes, not 51"):
        arguments.check_identifier("run_id", character * size + "x")


@pytest.mark.parametrize("value", ["", "\ud800", "a\udfffb", None, 1, b"x", ["x"], math.nan])
def test_what_is_no_identifier(value: Any) -> None:
    """G1: empty, a lone surrogate, or no str: refused, naming the argument."""
    with pytest.raises(InvalidArgument) as caught:
        arguments.check_identifier("model_name", value)
    assert caught.value.place == "model_name"


def test_a_subclass_of_str_becomes_a_plain_str() -> None:
    """Two spellings of one identifier are one key everywhere."""
    checked = arguments.check_identifier("model_name", Name.MODEL)
    assert type(checked) is str
    assert checked == "model"


def test_none_where_it_is_allowed() -> None:
    """None is the shared user or the user-wide part, and nothing else is."""
    assert arguments.check_optional_identifier("user_id", None) is None
    with pytest.raises(InvalidArgument):
        arguments.check_optional_identifier("user_id", "")


def test_text_and_tokens() -> None:
    """A display name may be empty and 8 KiB long, a token has 1 to 64 bytes."""
    assert arguments.check_text("display_name", "") == ""
    assert arguments.check_text("display_name", "x" * 8192) == "x" * 8192
    for bad in ("x" * 8193, "\udc00", 1):
        with pytest.raises(InvalidArgument):
            arguments.check_text("display_name", bad)
    assert arguments.check_token("token", "x" * 64) == "x" * 64
    for no_token in ("", "x" * 65, b"t"):
        with pytest.raises(InvalidArgument):
            arguments.check_token("token", no_token)


@pytest.mark.parametrize("value", [0, 11, -1, 10**5000, -(10**5000), True, 1.0, "1", None], ids=type)
def test_integers_out_of_range(value: Any) -> None:
    """A bool, a float, or a number out of range is refused, however many digits it has."""
    with pytest.raises(InvalidArgument, match="limit must be"):
        arguments.check_integer("limit", value, least=1, most=10)


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e300, 10**400, -(10**400), True, "1"])
def test_seconds_out_of_range(value: Any) -> None:
    """Seconds are finite and more than 0."""
    with pytest.raises(InvalidArgument, match="ttl must be"):
        arguments.check_seconds("ttl", value)


def test_seconds_and_pages_in_range() -> None:
    """0 seconds where it has a meaning; pages of 1 to 1,000."""
    assert arguments.check_seconds("delay", 0, zero=True) == 0.0
    assert arguments.check_seconds("ttl", 3) == 3.0
    assert [arguments.check_page_limit(limit) for limit in (1, 1_000)] == [1, 1_000]
    for limit in (0, 1_001, None, 1.5):
        with pytest.raises(InvalidArgument, match="limit must be"):
            arguments.check_page_limit(limit)
