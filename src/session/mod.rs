//! The state machine of one connection and its timers, without I/O.
//!
//! Owns what may be said when: `transition` is the table, [`Session`] walks it and keeps the
//! timers. Must never touch a socket, look at a clock, or know what an UPDATE says.
//!
//! The driver hands in what happened and does what the [`Verdict`] says. After every call it may
//! ask [`Session::next_deadline`] when to call [`Session::on_timer`] again.

mod machine;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walks;

pub(crate) use machine::{KEEPALIVE_INTERVAL_S_DEFAULT, KEEPALIVE_INTERVAL_S_MAX};
pub use machine::{Session, SessionConfig, Verdict};
pub use table::{CloseReason, Direction, State};
