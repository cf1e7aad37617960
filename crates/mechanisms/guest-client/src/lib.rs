//! omnirun-guest-client
