//! For PID 1 and its children inside a microVM.
