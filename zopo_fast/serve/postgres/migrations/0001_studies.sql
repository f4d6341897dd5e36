-- Studies of a fleet of servers. One row of `study_log` holds all events of one commit, so that the requests of a
-- commit conflict with those of other servers as a whole.

CREATE TABLE study (
    id text COLLATE "C" PRIMARY KEY,
    key text UNIQUE,               -- idempotency key of the creation
    meta text NOT NULL             -- JSON: name, settings, creation time, digest of the creation
);

-- The pool, in parts because a value has at most 1 GB.
CREATE TABLE study_part (
    study text COLLATE "C" NOT NULL REFERENCES study ON DELETE CASCADE,
    kind text NOT NULL,            -- prompts: JSON list; embeddings: little-endian rows
    number int NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (study, kind, number)
);
ALTER TABLE study_part ALTER COLUMN data SET STORAGE EXTERNAL;  -- floats do not compress

CREATE TABLE study_log (
    study text COLLATE "C" NOT NULL REFERENCES study ON DELETE CASCADE,
    version int NOT NULL,          -- number of the first event of the row
    round uuid NOT NULL,           -- commit: tells whose row it is when the answer to an insert was lost
    events bytea NOT NULL,         -- JSON
    PRIMARY KEY (study, version)
);
