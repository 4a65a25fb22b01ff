-- The queue file. A hit's row stays in `hits` from its acceptance until it is purged;
-- `delivered` and `held` are narrow tables beside it, so that recording an outcome
-- does not write the hit again. No index beside the key: lanes live in memory, fed by
-- a cursor in order of id (docs/design/0003, 0004).

-- One row a boot: the offset of its forward-only clock to wall time, in milliseconds.
CREATE TABLE boots (
    boot      INTEGER PRIMARY KEY,
    boot_id   TEXT    NOT NULL UNIQUE,
    offset_ms INTEGER NOT NULL
) STRICT;

-- `flags`: 1 = may already have reached the collection server, 2 = requeued by a person.
-- `sum`: CRC-32 of lane, boot, received_ms and content, the proof that a row is whole.
-- `suites`: the part of the request's report suites this row stands for; NULL = all.
CREATE TABLE hits (
    id          INTEGER PRIMARY KEY,
    lane        INTEGER NOT NULL,
    boot        INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    flags       INTEGER NOT NULL DEFAULT 0,
    suites      TEXT,
    content     BLOB    NOT NULL,
    sum         INTEGER NOT NULL
) STRICT;

-- Taken by Adobe, and kept a while for people to look at.
CREATE TABLE delivered (
    id     INTEGER PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    status INTEGER NOT NULL,
    ts     INTEGER
) STRICT;

-- Waiting for a person to say something, e.g. a report suite's timestamp mode.
CREATE TABLE held (
    id     INTEGER PRIMARY KEY,
    lane   INTEGER NOT NULL,
    suites TEXT    NOT NULL,
    reason TEXT    NOT NULL
) STRICT;

-- Refused for good, or buried after its attempts: kept until a person decides.
CREATE TABLE dead (
    id          INTEGER PRIMARY KEY,
    lane        INTEGER NOT NULL,
    boot        INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    flags       INTEGER NOT NULL,
    suites      TEXT,
    content     BLOB    NOT NULL,
    sum         INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    status      INTEGER,
    tries       INTEGER NOT NULL,
    died_ms     INTEGER NOT NULL
) STRICT;

-- The promise's equation, changed in the transaction that changes the hits:
-- accepted = waiting + delivered + dead + expired + discarded.
CREATE TABLE ledger (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    last_id       INTEGER NOT NULL DEFAULT 0,
    accepted      INTEGER NOT NULL DEFAULT 0,
    waiting       INTEGER NOT NULL DEFAULT 0,
    delivered     INTEGER NOT NULL DEFAULT 0,
    dead          INTEGER NOT NULL DEFAULT 0,
    expired       INTEGER NOT NULL DEFAULT 0,
    discarded     INTEGER NOT NULL DEFAULT 0,
    held          INTEGER NOT NULL DEFAULT 0,
    ambiguous     INTEGER NOT NULL DEFAULT 0,
    waiting_bytes INTEGER NOT NULL DEFAULT 0,
    CHECK (accepted = waiting + delivered + dead + expired + discarded),
    CHECK (waiting >= 0 AND dead >= 0 AND held >= 0 AND held <= waiting AND waiting_bytes >= 0)
) STRICT;
INSERT INTO ledger (one) VALUES (1);

-- Counts of what is no hit of ours (requests never accepted, resent copies), by name;
-- and what a person asked for.
CREATE TABLE tallies (
    name  TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT;
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
