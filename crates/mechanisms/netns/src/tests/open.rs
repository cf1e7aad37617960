//! With an uplink.
