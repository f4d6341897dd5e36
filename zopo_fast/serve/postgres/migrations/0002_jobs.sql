-- Optimize jobs of a fleet of servers. Their queue is procrastinate's own tables.

CREATE TABLE job (
    id text COLLATE "C" PRIMARY KEY,
    key text UNIQUE,               -- idempotency key of the creation
    state text NOT NULL,
    run int NOT NULL DEFAULT 0,    -- number of the newest run: earlier runs may not write any more
    is_cancelled boolean NOT NULL DEFAULT false,
    queue text NOT NULL,           -- of the servers that can run the job
    phase text,
    saved bytea NOT NULL,          -- JSON: name, model, progress
    request bytea NOT NULL,        -- JSON: body of the creation
    result bytea                   -- JSON
);

CREATE TABLE job_event (
    job text COLLATE "C" NOT NULL REFERENCES job ON DELETE CASCADE,
    number int NOT NULL,
    kind text NOT NULL,
    data bytea NOT NULL,           -- JSON
    PRIMARY KEY (job, number)
);

-- Mirror of the study file of each job: one row a transaction.
CREATE TABLE job_log (
    job text COLLATE "C" NOT NULL REFERENCES job ON DELETE CASCADE,
    number int NOT NULL,
    data bytea NOT NULL,           -- statements, compressed
    writer uuid NOT NULL,          -- tells whose row it is when the answer to an insert was lost
    PRIMARY KEY (job, number)
);
ALTER TABLE job_log ALTER COLUMN data SET STORAGE EXTERNAL;  -- compressed already
