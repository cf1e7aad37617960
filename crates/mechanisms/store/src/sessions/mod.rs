//! Sessions, leases and the call journal: tables and their queries.
