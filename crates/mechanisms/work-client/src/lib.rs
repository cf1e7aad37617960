//! omnirun-work-client
