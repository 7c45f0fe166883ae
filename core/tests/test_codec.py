"""The JSON codec: what is read equals what was written, whatever is odd about it (G2), up to 8 MiB (G3)."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import random
import uuid
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deerflow_backends import codec
from deerflow_backends.errors import Corrupt, InvalidArgument

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", "\0", "a.b", "$set", "__proto__", "\u2028", "\U0001f98c", "\u202e", "e\u0301", "\u00e9", '"\\']
)
integers = st.integers() | st.sampled_from([2**53 + 1, 2**63, -(2**64) - 1, 10**3999, -(10**4000) + 1])
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 1e-320, 5e-324, 1e22, 1.0, 0.1])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equality as G2 has it: strict in types, -0.0 is not 0.0, the order of keys does not matter."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same value, its keys in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@given(values)
@example({"a": [1, 1.0, True, -0.0, 0, 1e-320, "\0", 10**3999]})
def test_what_is_read_equals_what_was_written(value: Any) -> None:
    """G2: every JSON value comes back equal, types included, and fresh."""
    assert same(codec.decode(codec.encode(value)), value)
    assert same(codec.decode(codec.canonical(value)), value)


@given(values, values, st.randoms(use_true_random=False))
@example(1, 1.0, random.Random(1))
@example(1, True, random.Random(1))
@example(0.0, -0.0, random.Random(1))
@example([{"b": 1, "a": {"d": 1, "c": 2}}], [{"a": {"c": 2, "d": 1}, "b": 1}], random.Random(1))
def test_canonical_bytes_are_equal_exactly_if_the_values_are(one: Any, other: Any, chance: random.Random) -> None:
    """G2: equality is type-strict, -0.0 differs from 0.0, key order does not matter."""
    assert (codec.canonical(one) == codec.canonical(other)) == same(one, other)
    assert codec.canonical(shuffled(one, chance)) == codec.canonical(one)


def test_depth_to_200() -> None:
    """G2: 200 levels are kept, one more is refused."""
    assert codec.decode(codec.encode(nested(200))) == nested(200)
    with pytest.raises(InvalidArgument, match="200 deep"):
        codec.encode(nested(201))
    with pytest.raises(InvalidArgument, match="200 deep"):
        codec.encode(nested(100_000))


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: int
    at: datetime.date


class Message:
    """Shaped like a pydantic model, as LangChain's messages are."""

    def model_dump(self, *, mode: str) -> dict[str, object]:
        return {"content": "hi", "mode": mode}


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, (2,)), [1, [2]]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        (Name("n"), "n"),
        ({Name("n"): 1}, {"n": 1}),
        (Colour.RED, "red"),
        ([Level.HIGH], [3]),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), "2026-01-02T03:04:05.000006+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        ({"p": Point(1, datetime.date(2026, 1, 2))}, {"p": {"x": 1, "at": "2026-01-02"}}),
        ([Message()], [{"content": "hi", "mode": "json"}]),
    ],
)
def test_other_objects_go_through_one_hook(value: Any, read: Any) -> None:
    """G2: tuples become lists, and objects what `to_json` makes of them."""
    assert same(codec.decode(codec.encode(value)), read)


cycle: list[Any] = []
cycle.append({"again": cycle})


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "data"),
        ({"messages": [1, 2, 3, {"usage": math.inf}]}, "data.messages[3].usage"),
        ([[-math.inf]], "data[0][0]"),
        ("\ud800", "data"),
        ({"a": {"b c": ["x\udfff"]}}, "data.a['b c'][0]"),
        ({"a": {"\ud800": 1}}, "a key of data.a"),
        ({1: 2}, "data"),
        ({"a": {None: 2}}, "data.a"),
        ({"a": {True: 2}}, "data.a"),
        ([10**4000], "data[0]"),
        ([-(10**4000)], "data[0]"),
        ({"a": object()}, "data.a"),
        ({"a": b"bytes"}, "data.a"),
        ({"a": {1, 2}}, "data.a"),
        ({"a": Colour}, "data.a"),
        (cycle, "data[0].again"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_place(value: Any, place: str) -> None:
    """G2: nothing is turned silently into something else; the error names where it is."""
    for encoder in (codec.encode, codec.canonical):
        with pytest.raises(InvalidArgument) as caught:
            encoder(value, "data")
        assert caught.value.place == place


def test_a_value_that_is_there_twice_is_no_cycle() -> None:
    """One object in two places is written twice."""
    shared = (1,)
    assert codec.decode(codec.encode({"a": shared, "b": [shared]})) == {"a": [1], "b": [[1]]}


def test_size_to_8_mib() -> None:
    """G3: exactly 8 MiB of JSON text is accepted, one byte more is not."""
    fits = "x" * (codec.MAX_BYTES - 2)
    assert len(codec.encode(fits)) == codec.MAX_BYTES
    with pytest.raises(InvalidArgument, match=f"must be at most {codec.MAX_BYTES} bytes as JSON, not"):
        codec.encode(fits + "x")


@pytest.mark.parametrize("data", [b"", b"{", b"nul", b"\xff", b'"\x01', b"[" * 100_000])
def test_damaged_text_is_corrupt(data: bytes) -> None:
    """What is no JSON is reported as damage, never read as something else."""
    with pytest.raises(Corrupt):
        codec.decode(data)


def test_an_object_must_be_one() -> None:
    """Bodies, facts and metadata are JSON objects."""
    assert codec.canonical_object({"b": 1, "a": 2}, "body") == b'{"a":2,"b":1}'
    no_objects: list[Any] = [[], None, "text", 1]
    for value in no_objects:
        with pytest.raises(InvalidArgument, match="body must be a JSON object"):
            codec.canonical_object(value, "body")
