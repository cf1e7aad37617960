//! Images: kernel, initramfs and base disk of a template, built from Debian packages.

mod image;

pub use image::{Image, Template};
