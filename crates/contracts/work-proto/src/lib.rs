//! omnirun-work-proto
