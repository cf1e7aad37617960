//! omnirun-guest
fn main() {}
