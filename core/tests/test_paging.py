"""Cursors: opaque, bound to their listing, and of no use when damaged (T3, M6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends.errors import InvalidArgument
from deerflow_backends.paging import decode_cursor, encode_cursor

TYPES = (bool, int, str)
texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.tuples(st.booleans(), st.integers(-(2**63), 2**63 - 1), texts)
listings = st.tuples(st.just("threads"), st.none() | texts, st.none() | texts)


@given(listings, keys)
def test_a_cursor_gives_its_key_back(listing: tuple[Any, ...], key: tuple[Any, ...]) -> None:
    """T3: what a cursor stands for comes back, types included, from text that fits in a URL."""
    cursor = encode_cursor(listing, key)
    assert decode_cursor(listing, cursor, TYPES) == key
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(listings, listings, keys)
def test_a_cursor_of_another_listing_is_refused(
    listing: tuple[Any, ...], other: tuple[Any, ...], key: tuple[Any, ...]
) -> None:
    """T3: a foreign cursor is an error, never a page of something else."""
    if listing != other:
        with pytest.raises(InvalidArgument, match="cursor"):
            decode_cursor(other, encode_cursor(listing, key), TYPES)


@given(keys, st.data())
def test_a_damaged_cursor_is_refused(key: tuple[Any, ...], data: st.DataObject) -> None:
    """T3: any change of any character is noticed."""
    cursor = encode_cursor(("threads",), key)
    place = data.draw(st.integers(0, len(cursor) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_=+/é ").filter(lambda letter: letter != cursor[place]))
    for damaged in (cursor[:place] + letter + cursor[place + 1 :], cursor[:place], cursor + letter):
        with pytest.raises(InvalidArgument, match="cursor"):
            decode_cursor(("threads",), damaged, TYPES)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "\ud800", 7, b"AAAA", [], "A" * 10_000])
def test_what_never_was_a_cursor_is_refused(cursor: Any) -> None:
    """T3: whatever is passed as a cursor, it is an `InvalidArgument` or a cursor."""
    with pytest.raises(InvalidArgument, match="cursor"):
        decode_cursor(("threads",), cursor, TYPES)
