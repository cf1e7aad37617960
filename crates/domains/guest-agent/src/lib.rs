//! omnirun-guest-agent
