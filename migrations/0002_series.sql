-- A point every five minutes for the chart of a day: what stood then, and the totals so far.
-- A few hundred rows at most; older ones go in the transaction that writes a new one.
CREATE TABLE series (
    at_s      INTEGER PRIMARY KEY,
    oldest_s  INTEGER NOT NULL,
    waiting   INTEGER NOT NULL,
    accepted  INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    dead      INTEGER NOT NULL
) STRICT;
