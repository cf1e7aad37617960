//! `omnirun-guest`: PID 1 of every microVM. All of it is in `omnirun_guest_agent`.

fn main() {
    omnirun_guest_agent::run();
}
