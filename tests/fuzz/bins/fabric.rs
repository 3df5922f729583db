//! The target of this name, for libFuzzer.
#![no_main]

#[path = "../../../benches/common/config.rs"]
mod config;
#[path = "../input.rs"]
mod input;
#[path = "../targets/fabric.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
