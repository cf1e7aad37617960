//! omnirun-sim
