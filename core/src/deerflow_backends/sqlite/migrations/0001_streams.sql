-- Streams of runs. Times are microseconds since 1970.

-- One row: `change` grows with every write to a stream; no stream removed whole had an epoch above `epoch`.
CREATE TABLE marks (
    change INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) STRICT;

INSERT INTO marks (change, epoch) VALUES (0, 0);

-- A run's stream, or once cleaned the trace that is left of it. Numbers of streams are never used again.
CREATE TABLE heads (
    stream INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    cleaned INTEGER NOT NULL,
    prior_epoch INTEGER,
    prior_seq INTEGER,
    expires_at INTEGER NOT NULL,
    cleanup_at INTEGER,
    incarnation TEXT NOT NULL,
    change INTEGER NOT NULL
) STRICT;

-- What other processes have changed since one looked last.
CREATE INDEX heads_by_change ON heads (change);

-- What is to be freed.
CREATE INDEX heads_by_due ON heads (min(expires_at, ifnull(cleanup_at, expires_at)));

CREATE TABLE events (
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    event TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

-- Streams whose events nobody can see any more, to be removed in small portions.
CREATE TABLE discarded (
    stream INTEGER NOT NULL PRIMARY KEY
) STRICT;
