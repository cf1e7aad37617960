//! omnirun-store
