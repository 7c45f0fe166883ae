-- What agents remember. Times are microseconds since 1970. In user_id and agent_name '' stands for None.

CREATE TABLE memory_users (
    user_id TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE memory_bodies (
    user_id TEXT NOT NULL,
    agent_name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (user_id, agent_name)
) STRICT;

CREATE TABLE memory_facts (
    user_id TEXT NOT NULL,
    agent_name TEXT NOT NULL,
    fact_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    category TEXT,
    value BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, agent_name, fact_id)
) STRICT;

-- A page of one category.
CREATE INDEX memory_facts_by_category ON memory_facts (user_id, agent_name, category, fact_id)
    WHERE category IS NOT NULL;
