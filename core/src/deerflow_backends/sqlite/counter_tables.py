"""The counters' tables: what recording and summing do in a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from deerflow_backends.buckets import Sums

#: How many rows one portion of a sweep removes of each kind at most.
SWEEP_ROWS: Final = 1_000

#: Takes a token, unless it is remembered: then no row changes (C2).
REMEMBER = """
INSERT INTO counter_tokens (token, expires_at) VALUES (:token, :expires_at)
ON CONFLICT (token) DO UPDATE SET expires_at = excluded.expires_at WHERE expires_at <= :now
"""


def take_token(connection: sqlite3.Connection, token: str, *, now: int, expires_at: int) -> bool:
    """Remember a token until then; False if it is remembered already."""
    values = {"token": token, "now": now, "expires_at": expires_at}
    return connection.execute(REMEMBER, values).rowcount == 1


ADD_TO_TOTALS = """
INSERT INTO counter_totals (model_name, calls, successes, failures, positive, negative)
VALUES (:model_name, :calls, :successes, :failures, :positive, :negative)
ON CONFLICT (model_name) DO UPDATE SET
    calls = calls + excluded.calls, successes = successes + excluded.successes,
    failures = failures + excluded.failures, positive = positive + excluded.positive,
    negative = negative + excluded.negative
"""

ADD_TO_BUCKETS = """
INSERT INTO counter_buckets (bucket, model_name, calls, successes, failures, positive, negative)
VALUES (:bucket, :model_name, :calls, :successes, :failures, :positive, :negative)
ON CONFLICT (bucket, model_name) DO UPDATE SET
    calls = calls + excluded.calls, successes = successes + excluded.successes,
    failures = failures + excluded.failures, positive = positive + excluded.positive,
    negative = negative + excluded.negative
"""


def add(connection: sqlite3.Connection, totals: Mapping[str, Sums], buckets: Mapping[tuple[int, str], Sums]) -> None:
    """Add to the sums of models, and of their buckets."""
    connection.executemany(ADD_TO_TOTALS, (_values(sums, model_name=name) for name, sums in totals.items()))
    connection.executemany(
        ADD_TO_BUCKETS, (_values(sums, bucket=bucket, model_name=name) for (bucket, name), sums in buckets.items())
    )


def _values(sums: Sums, **key: Any) -> dict[str, Any]:
    calls, successes, failures, positive, negative = sums
    return {
        **key,
        "calls": calls,
        "successes": successes,
        "failures": failures,
        "positive": positive,
        "negative": negative,
    }


TOTALS = """
SELECT calls, successes, failures, positive, negative FROM counter_totals WHERE model_name = :model_name
"""


def totals(connection: sqlite3.Connection, model_name: str) -> Sequence[int]:
    """Read one model's sums; nothing if it was never recorded."""
    return connection.execute(TOTALS, {"model_name": model_name}).fetchone() or ()


ALL_TOTALS = "SELECT model_name, calls, successes, failures, positive, negative FROM counter_totals"


def all_totals(connection: sqlite3.Connection) -> dict[str, Sequence[int]]:
    """Read each model's sums."""
    return _by_model(connection.execute(ALL_TOTALS))


#: By the index of a model's buckets.
WINDOW = """
SELECT sum(calls), sum(successes), sum(failures), sum(positive), sum(negative) FROM counter_buckets
 WHERE model_name = :model_name AND bucket BETWEEN :first AND :last HAVING count(*) > 0
"""


def window(connection: sqlite3.Connection, model_name: str, first: int, last: int) -> Sequence[int]:
    """Sum one model's buckets from *first* to *last*; nothing if there are none."""
    return connection.execute(WINDOW, {"model_name": model_name, "first": first, "last": last}).fetchone() or ()


#: By the buckets that are asked for: the plus keeps SQLite from reading all of them in the order of the models.
ALL_WINDOWS = """
SELECT model_name, sum(calls), sum(successes), sum(failures), sum(positive), sum(negative) FROM counter_buckets
 WHERE bucket BETWEEN :first AND :last GROUP BY +model_name
"""


def all_windows(connection: sqlite3.Connection, first: int, last: int) -> dict[str, Sequence[int]]:
    """Sum each model's buckets from *first* to *last*."""
    return _by_model(connection.execute(ALL_WINDOWS, {"first": first, "last": last}))


def _by_model(rows: Iterable[tuple[Any, ...]]) -> dict[str, Sequence[int]]:
    return {model_name: sums for model_name, *sums in rows}


RESET = (
    "DELETE FROM counter_totals WHERE model_name = :model_name",
    "DELETE FROM counter_buckets WHERE model_name = :model_name",
)


def reset(connection: sqlite3.Connection, model_name: str) -> None:
    """Remove a model, buckets too."""
    for statement in RESET:
        connection.execute(statement, {"model_name": model_name})


FORGET_TOKENS = """
DELETE FROM counter_tokens WHERE token IN (
    SELECT token FROM counter_tokens WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit
)
"""

REMOVE_BUCKETS = """
DELETE FROM counter_buckets WHERE (bucket, model_name) IN (
    SELECT bucket, model_name FROM counter_buckets WHERE bucket < :oldest ORDER BY bucket, model_name LIMIT :limit
)
"""


def sweep(connection: sqlite3.Connection, *, now: int, oldest: int) -> bool:
    """Remove some of the tokens that are forgotten and the buckets that no window reaches; True if there is more."""
    tokens = connection.execute(FORGET_TOKENS, {"now": now, "limit": SWEEP_ROWS}).rowcount
    buckets = connection.execute(REMOVE_BUCKETS, {"oldest": oldest, "limit": SWEEP_ROWS}).rowcount
    return SWEEP_ROWS in {tokens, buckets}
