//! omnirun-floor
fn main() {}
