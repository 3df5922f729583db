//! Kernel routes.

pub mod plan;
