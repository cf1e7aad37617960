CREATE TABLE calls (
    hash         TEXT NOT NULL REFERENCES sessions (hash) ON DELETE CASCADE,
    call         TEXT NOT NULL,          -- tool use id
    state        TEXT NOT NULL CHECK (state IN ('started', 'finished', 'posted')),
    tool         TEXT NOT NULL,
    input_digest TEXT NOT NULL,
    input_bytes  INTEGER NOT NULL,
    sandbox      TEXT,
    started_ms   INTEGER NOT NULL,
    finished_ms  INTEGER,
    posted_ms    INTEGER,
    is_error     INTEGER,
    exit_code    INTEGER,
    output_bytes INTEGER,
    content      TEXT,                   -- the result, while it may still have to be posted
    PRIMARY KEY (hash, call)
) STRICT;
CREATE TABLE sessions (
    hash        TEXT PRIMARY KEY,        -- of origin, environment and session; names its folder
    origin      TEXT NOT NULL,
    environment TEXT NOT NULL,
    session     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('new', 'ready', 'removing')),
    template    TEXT NOT NULL,
    base        TEXT NOT NULL,           -- digest of the base that the disk is an overlay over, for ever
    disk_bytes  INTEGER NOT NULL,
    user        TEXT NOT NULL,           -- whom its tools run as, for ever
    seed        TEXT NOT NULL CHECK (seed IN ('none', 'due', 'done')),
    live_shell  INTEGER NOT NULL,        -- a VM holds, or held, the shell's state in memory
    created_ms  INTEGER NOT NULL,
    used_ms     INTEGER NOT NULL,
    keep_ms     INTEGER NOT NULL, memory TEXT,        -- how long after its last use the disk stays
    UNIQUE (origin, environment, session)
) STRICT;
CREATE INDEX sessions_base ON sessions (base);
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
