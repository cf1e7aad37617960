//! The child by itself.

fn main() -> std::process::ExitCode {
    omnirun_egress::child::main()
}
