-- Which threads a user has. Times are microseconds since 1970. In user_id '' stands for a thread without owner.

CREATE TABLE threads (
    thread_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    assistant_id TEXT,
    display_name TEXT,
    status TEXT NOT NULL,
    metadata BLOB NOT NULL,
    pinned INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- A page of a listing: of a user's threads, of those of one status, of all threads, of all of one status.
CREATE INDEX threads_by_user ON threads (user_id, pinned, updated_at, thread_id);
CREATE INDEX threads_by_user_and_status ON threads (user_id, status, pinned, updated_at, thread_id);
CREATE INDEX threads_by_time ON threads (pinned, updated_at, thread_id);
CREATE INDEX threads_by_status ON threads (status, pinned, updated_at, thread_id);
