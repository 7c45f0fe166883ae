"""What the checks write, drawn as data: identifiers that collide where a backend is careless, JSON at its edges.

Names come from a small pool: two drawn from all of Unicode would never collide, and nothing would be tested.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from deerflow_backends.threads import PINNED_KEY

MAX_IDENTIFIER_BYTES: Final = 512
MAX_DEPTH: Final = 200
MAX_DIGITS: Final = 4_000

#: Different identifiers, of which one or another pair is one to a careless store: by case, normal form, collation,
#: padding, number, escape, separator, pattern, or because the store has a meaning for them.
IDENTIFIERS: Final[tuple[str, ...]] = (
    *("a", "A", "å", "A\u030a", "\u212b", "é", "e\u0301", "É", "ß", "ss", "i", "I", "ı", "İ", "ﬁ", "fi", "K", "\u212a"),
    *("run", "run:", "run:1", "run:1:", "run/1", "run.1", "run-1", "run1", "{run}", "{run}:1", "run}", "{", "}", "{}"),
    *("*", "a*", "?", "[a]", "_", "a_", "a%", "%", "%41", "%%", ".", "..", "../a", "/", "//", "a.b", "a..b", "~"),
    *("$", "$set", "$where", "__proto__", "constructor", "toString", "None", "null", "nil", "NULL", "true", "NaN"),
    *("0", "00", "1", "1.0", "01", "1e0", "+1", "-0", "0-0", "1-1"),
    *("'", '"', "''", "' OR 1=1 --", "\\", "\\x41", "\\u0041", "`", "<a>", "&amp;", ";", "a=b", "a&b", "#", "@", "|"),
    *(" ", "a ", " a", "a b", "\t", "\n", "a\n", "\r\n", "\x00", "a\x00", "a\x00b", "\x1f", "\x7f", "\x85", "\xa0"),
    *("\u200b", "a\u200b", "\u202eabc", "abc", "\u200fabc", "\ufeffa", "\u2028", "ｎ", "n", "中文", "ね", "مرحبا"),
    # Ordered differently by UTF-8 and by UTF-16.
    *("\uffff", "\ue000", "\U0001f600", "\U0010ffff", "\U0001f469\u200d\U0001f467"),
    *("x" * 511, "x" * 512, "x" * 511 + "y", "X" * 512, "é" * 256, "\U0001f600" * 128),
)

#: Users of whom a careless store takes some for one, or for nobody.
USERS: Final = ("ann", "Ann", "ann:", "é", "e\u0301", "None")

#: Keys of metadata that mean something to one store or another.
KEYS: Final = ("k", "K", "a.b", "$set", "", "' OR 1=1 --", PINNED_KEY, "__proto__", "user_id")

#: Values of which a careless comparison takes some for equal.
LOOKALIKES: Final[tuple[Any, ...]] = (
    *(1, 1.0, True, "1", 0, 0.0, -0.0, False, "", None),
    *([], [1], [1.0], {}, {"a": 1}, {"a": True}),
)

#: What is no identifier, by what is wrong with it. None is left to those who do not allow it.
BAD_IDENTIFIERS: Final[tuple[Any, ...]] = (
    *("", "x" * 513, "é" * 256 + "a", "\U0001f600" * 129, "x" * 100_000),
    *("\ud800", "a\udfffb", "\udc00\ud800"),
    *(5, True, 1.5, b"a", ("a",), ["a"], {"a": 1}),
)


def identifiers() -> st.SearchStrategy[str]:
    """Draw identifiers that collide where a backend is careless, and some of any characters."""
    anything = st.text(max_size=64).filter(lambda text: 1 <= len(text.encode()) <= MAX_IDENTIFIER_BYTES)
    return st.one_of(st.sampled_from(IDENTIFIERS), st.sampled_from(IDENTIFIERS), anything)


def bad_identifiers() -> st.SearchStrategy[Any]:
    """Draw what is no identifier."""
    return st.sampled_from(BAD_IDENTIFIERS)


def nested(depth: int, *, innermost: Any = None, mixed: bool = False) -> Any:
    """Return *depth* lists in each other, or with *mixed* lists and dicts by turns, around *innermost*."""
    value = innermost
    for level in range(depth):
        value = {"d": value} if mixed and level % 2 else [value]
    return value


#: JSON values that one store or another changes: none of these may come back as anything but itself.
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, 1.0, 0.0, -0.0, -1, "", "1", "null", "\x00", "a\x00b", "\ufeff", "\u2028\u2029"),
    *(2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10 ** (MAX_DIGITS - 1)),
    *(10**MAX_DIGITS - 1, -(10**MAX_DIGITS) + 1),
    *(0.1, 1e-320, 5e-324, 1.7976931348623157e308, -1e-5, 1e16, 1e22, 123456789.123456789, 2.0**63),
    *("é", "e\u0301", "\U0001f600", "\x7f", "\x1f", '"\\/\b\f\n\r\t', "</script>", "{}", "[]", "\uffff", "\U0010ffff"),
    *([], {}, [[]], [{}], [None], [1, 1.0, True, "1"], [0.0, -0.0, 0, False], {"": ""}, {"": {"": []}}),
    {"a.b": 1, "a": {"b": 2}, "$set": {"$inc": 3}, "$": 4, ".": 5, "\x00": 6, "__proto__": {"x": 7}, "constructor": 8},
    {"b": 1, "a": 2, "A": 3, "é": 4, "e\u0301": 5, " ": 6, "0": 7, "00": 8, "_id": 9, "%s": 10, "{run}": 11},
    {"$date": "2020-01-01T00:00:00Z", "$oid": "507f1f77bcf86cd799439011", "__type__": "x", "py/object": "os.system"},
    nested(100),
    nested(150, innermost=1.0, mixed=True),
)


def json_values() -> st.SearchStrategy[Any]:
    """Draw JSON values, many at the edges of what stores keep, at most 160 deep."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=12),
    )
    keys = st.one_of(st.sampled_from(("a", "A", "", ".", "a.b", "$set", "$", "\x00", "__proto__")), st.text(max_size=6))
    trees = st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
        max_leaves=8,
    )
    return st.one_of(st.sampled_from(VALUES), trees)


@dataclass(frozen=True, slots=True)
class BadValue:
    """What JSON cannot carry.

    Attributes:
        value: A dict that holds it.
        place: Where in the dict it is: what an error's message must contain.
        name: What it is, for a failure's message.
    """

    value: dict[Any, Any]
    place: str
    name: str

    def __repr__(self) -> str:
        return f"<{self.name} at {self.place or 'the top'}>"


class _Unknown:
    """Of a type that nobody registered with the codec."""


@functools.cache
def _very_deep() -> Any:
    """A value that is deeper than any stack; made once, since it takes a while."""
    return nested(100_000)


def bad_values() -> list[BadValue]:
    """Make one of each kind of value that JSON cannot carry, fresh ones, since some contain themselves."""
    in_list: list[Any] = [1]
    in_list.append(in_list)
    in_dict: dict[str, Any] = {}
    in_dict["again"] = {"deeper": in_dict}
    shallow = {
        "NaN": math.nan,
        "infinity": math.inf,
        "minus infinity": -math.inf,
        "a lone surrogate": "a\ud800",
        "another lone surrogate": "\udfff",
        "a set": {1, 2},
        "bytes": b"bytes",
        "an object": _Unknown(),
        "a function": nested,
        "an integer of 4,001 digits": 10**MAX_DIGITS,
        "a negative integer of 4,001 digits": -(10**MAX_DIGITS),
    }
    bad = [BadValue({"messages": [0, 1, 2, {"usage": value}]}, "messages[3].usage", n) for n, value in shallow.items()]
    return [
        *bad,
        BadValue({"usage": math.nan}, "usage", "NaN"),
        BadValue({"a": [(math.inf,)]}, "a[0][0]", "infinity in a tuple"),
        BadValue({"messages": [{"usage": {1: "a"}}]}, "messages[0].usage", "an int as a key"),
        BadValue({"messages": {None: 1}}, "messages", "None as a key"),
        BadValue({"messages": {True: 1}}, "messages", "a bool as a key"),
        BadValue({"messages": {b"a": 1}}, "messages", "bytes as a key"),
        BadValue({"messages": {("a",): 1}}, "messages", "a tuple as a key"),
        BadValue({"messages": {"a\ud800": 1}}, "messages", "a lone surrogate in a key"),
        BadValue({"loop": in_list}, "loop", "a list that contains itself"),
        BadValue({"loop": in_dict}, "loop", "a dict that contains itself"),
        BadValue({"deep": nested(MAX_DEPTH)}, "", "201 levels"),
        BadValue({"deep": nested(MAX_DEPTH, mixed=True)}, "", "201 mixed levels"),
        BadValue({"deep": _very_deep()}, "", "100,001 levels"),
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and True differ, -0.0 and 0.0 too; key order does not matter."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(item, other[key]) for key, item in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(same(item, opposite) for item, opposite in zip(one, other, strict=True))
    if isinstance(one, float):
        return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)
    return bool(one == other)
