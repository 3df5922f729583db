//! The report.
use crate::stage::{Sample, Stage};
/// x
pub fn page(_a: &str, _s: &[Stage], _x: &[Sample], _v: &str) -> String {
    String::new()
}
