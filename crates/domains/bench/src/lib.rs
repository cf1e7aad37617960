//! omnirun-bench
