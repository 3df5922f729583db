//! What the comparison and the curves share: runs of loadgen against a fresh server over some link, and medians.
//!
//! Owns no measurement of its own. Must never know what a figure is good for.

pub mod binaries;
pub mod link;
pub mod run;
pub mod summary;
