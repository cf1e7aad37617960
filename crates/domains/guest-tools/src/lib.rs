//! omnirun-guest-tools
