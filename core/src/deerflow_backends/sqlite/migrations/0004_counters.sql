-- How models do. Buckets are named by their start, in seconds since 1970; sums are signed.

CREATE TABLE counter_totals (
    model_name TEXT NOT NULL PRIMARY KEY,
    calls INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    positive INTEGER NOT NULL,
    negative INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE counter_buckets (
    bucket INTEGER NOT NULL,
    model_name TEXT NOT NULL,
    calls INTEGER NOT NULL,
    successes INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    positive INTEGER NOT NULL,
    negative INTEGER NOT NULL,
    PRIMARY KEY (bucket, model_name)
) STRICT, WITHOUT ROWID;

-- A model's buckets: its window, and its reset.
CREATE INDEX counter_buckets_by_model ON counter_buckets (model_name, bucket);

-- Recordings that must not be counted again until then, in microseconds since 1970.
CREATE TABLE counter_tokens (
    token TEXT NOT NULL PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX counter_tokens_by_time ON counter_tokens (expires_at);
