//! omnirun-guest-bin
