CREATE TABLE vms (
    id         TEXT PRIMARY KEY,
    owner      TEXT NOT NULL,           -- id of the owner process; its lock says whether it lives
    kind       TEXT NOT NULL,           -- boot: a cold boot that becomes a snapshot; clone: a sandbox
    state      TEXT NOT NULL,           -- starting, pooled, claimed, ending
    run_dir    TEXT NOT NULL,
    purpose    TEXT NOT NULL,           -- for people: what it serves
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX vms_owner ON vms (owner);
