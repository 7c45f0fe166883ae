"""LMDB's transactions with typed rows: a `Table` says what its rows are, a `Transaction` reads and writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from deerflow_backends import Corrupt

if TYPE_CHECKING:
    import lmdb

R = TypeVar("R")

_encode = msgspec.msgpack.Encoder().encode


class Table(Generic[R]):
    """A named database of LMDB whose values are rows of one kind: a NamedTuple, stored as MessagePack."""

    def __init__(self, name: str, row: type[R]) -> None:
        self.name = name
        self._decoder = msgspec.msgpack.Decoder(row)

    def decode(self, data: bytes) -> R:
        """Read a row, or raise `Corrupt`."""
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise Corrupt(f"a row of {self.name} cannot be read ({error}); restore the folder from a backup") from error


class Transaction:
    """One transaction: all that it reads is of one moment, all that it writes happens or nothing does."""

    def __init__(self, txn: lmdb.Transaction[bytes], handles: Mapping[str, lmdb._Database]) -> None:
        self._txn, self._handles = txn, handles

    def get(self, table: Table[R], key: bytes) -> R | None:
        """Read one row."""
        data = self._txn.get(key, db=self._handles[table.name])
        return None if data is None else table.decode(data)

    def put(self, table: Table[R], key: bytes, row: R) -> None:
        """Write one row, new or not."""
        self._txn.put(key, _encode(row), db=self._handles[table.name])

    def delete(self, table: Table[Any], key: bytes) -> None:
        """Remove one row, there or not."""
        self._txn.delete(key, db=self._handles[table.name])

    def scan(self, table: Table[R], start: bytes = b"", *, prefix: bytes = b"") -> Iterator[tuple[bytes, R]]:
        """Read rows in the order of their keys, from *start* on, as long as keys begin with *prefix*."""
        with self._txn.cursor(self._handles[table.name]) as cursor:
            if cursor.set_range(start):
                for key, data in cursor:
                    if not key.startswith(prefix):
                        return
                    yield key, table.decode(data)

    def remove(self, table: Table[Any], prefix: bytes) -> int:
        """Remove all rows whose keys begin with *prefix*, which is not empty; return how many there were."""
        count = 0
        with self._txn.cursor(self._handles[table.name]) as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                cursor.delete()  # and goes to the next; after the last one the key is empty
                count += 1
        return count

    def entries(self) -> int:
        """Count all rows."""
        return sum(self._txn.stat(handle)["entries"] for handle in self._handles.values())
