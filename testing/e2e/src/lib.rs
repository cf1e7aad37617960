//! omnirun-e2e
