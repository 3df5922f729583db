//! The commands `completions` and `man` of loadgen.
//!
//! Owns what it is called there. Must never run anything.

use metalbond_uring::internals::cli::{Exit, Program};

use crate::cli::{GRAMMAR, PROGRAM};

static MANUAL: Program = Program {
    name: PROGRAM,
    summary: "load a MetalBond server with simulated peers, and verify what they receive",
    own: &GRAMMAR,
    commands: &[],
    see_also: &["metalbond-uring(1)"],
};

/// What to print, if one of the two is asked for.
pub fn asked(args: &[&str]) -> Option<Exit> {
    matches!(args, ["completions" | "man", ..]).then(|| MANUAL.text(args))
}
