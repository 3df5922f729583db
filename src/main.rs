//! metalbond-uring.

fn main() {}
