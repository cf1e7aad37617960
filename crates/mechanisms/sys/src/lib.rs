//! omnirun-sys
