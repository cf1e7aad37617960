//! omnirun-sandboxes
