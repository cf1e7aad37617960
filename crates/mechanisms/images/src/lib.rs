//! omnirun-images
