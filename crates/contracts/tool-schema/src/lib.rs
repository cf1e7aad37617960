//! omnirun-tool-schema
