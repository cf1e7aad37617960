//! omnirun-worker
