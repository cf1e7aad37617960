//! For programs on the host.
