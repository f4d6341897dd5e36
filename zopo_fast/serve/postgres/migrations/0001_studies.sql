-- Studies of a fleet of servers. One row of `study_log` holds the events of one request, so that a request
-- conflicts with those of other replicas as a whole.

CREATE TABLE study (
    id text COLLATE "C" PRIMARY KEY,
    meta text NOT NULL,            -- JSON: name, settings, creation time, idempotency key
    key text UNIQUE,               -- idempotency key of the creation
    prompts bytea,                 -- JSON list of the texts, compressed; NULL: the pool has embeddings only
    dtype text NOT NULL,
    embeddings bytea NOT NULL      -- little-endian rows
);
ALTER TABLE study ALTER COLUMN embeddings SET STORAGE EXTERNAL;  -- floats do not compress

CREATE TABLE study_log (
    study text COLLATE "C" NOT NULL REFERENCES study ON DELETE CASCADE,
    version int NOT NULL,          -- number of the first event of the row
    events bytea NOT NULL,         -- JSON
    request uuid NOT NULL,         -- tells whose row it is when the answer to an insert was lost
    PRIMARY KEY (study, version)
);
