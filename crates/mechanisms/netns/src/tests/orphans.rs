//! What is left when an owner dies.
