"""Where a cluster's node sends us."""

import pytest

from deerflow_redis.topologies import Address, redirected

ASKED = Address("10.0.0.1", 7000)


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ("MOVED 3999 10.0.0.2:6381", Address("10.0.0.2", 6381)),
        ("3999 10.0.0.2:6381", Address("10.0.0.2", 6381)),
        ("ASK 3999 redis-2.example:6381", Address("redis-2.example", 6381)),
        ("MOVED 3999 2001:db8::2:6381", Address("2001:db8::2", 6381)),
        ("MOVED 3999 :6381", Address("10.0.0.1", 6381)),
    ],
)
def test_redirections_are_read(said: str, there: Address) -> None:
    """With or without its first word, for names and addresses of both kinds, and for a node without a name."""
    assert redirected(said, ASKED) == there
