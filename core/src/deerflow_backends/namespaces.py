"""A key-value view of one user's threads, for callers that think in namespaces: key is thread id, value is metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator

from deerflow_backends.arguments import check_identifier
from deerflow_backends.codec import JSON
from deerflow_backends.errors import Conflict
from deerflow_backends.threads import ANY_USER, NewThread, Thread, ThreadIndex


def namespace(index: ThreadIndex, user_id: str) -> NamespaceView:
    """View the threads of *user_id* in *index* as keys and values (T10).

    Raises:
        InvalidArgument: *user_id* is no identifier.
    """
    return NamespaceView(index, check_identifier("user_id", user_id))


class NamespaceView:
    """One user's threads by key. Other users' threads are out of sight; errors are those of `ThreadIndex`."""

    def __init__(self, index: ThreadIndex, user_id: str) -> None:
        self._index = index
        self._user_id = user_id

    async def get(self, key: str) -> dict[str, JSON] | None:
        """Read a value, None if there is none."""
        thread = await self._index.get(key, user_id=self._user_id)
        return None if thread is None else thread.metadata

    async def put(self, key: str, value: dict[str, JSON]) -> None:
        """Create the key or replace its value, atomically: of rivals the last one's value stays, whole.

        Of a thread that is there already, everything but metadata and `updated_at` is kept.

        Raises:
            Conflict: A thread of another user, or one without owner, bears this key. Nothing was changed.
            BackendUnavailable: `maybe_written` says whether the value may be stored; putting it again is safe.
        """
        while True:  # each further turn means that a rival created or deleted the key in between
            if await self._index.update(key, user_id=self._user_id, metadata=value, replace=True) is not None:
                return
            try:
                await self._index.create(NewThread(key, self._user_id, metadata=value))
            except Conflict:
                taken = await self._index.get(key, user_id=ANY_USER)
                if taken is not None and taken.user_id != self._user_id:
                    raise Conflict(f"the key {key!r} is not free for this user; choose another") from None
            else:
                return

    async def delete(self, key: str) -> bool:
        """Remove a key; False if there was none."""
        return await self._index.delete(key, user_id=self._user_id)

    async def keys(self) -> AsyncIterator[str]:
        """Give the keys in the order of `ThreadIndex.list`, reading page by page."""
        async for thread in self._threads():
            yield thread.thread_id

    async def items(self) -> AsyncIterator[tuple[str, dict[str, JSON]]]:
        """Give keys and values in the order of `ThreadIndex.list`, reading page by page."""
        async for thread in self._threads():
            yield thread.thread_id, thread.metadata

    async def _threads(self) -> AsyncIterator[Thread]:
        cursor = None
        while True:
            page = await self._index.list(self._user_id, limit=100, cursor=cursor)
            for thread in page.items:
                yield thread
            cursor = page.next_cursor
            if cursor is None:
                return
