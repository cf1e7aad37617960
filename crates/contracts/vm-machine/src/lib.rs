//! omnirun-vm-machine
