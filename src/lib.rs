//! A route reflector for the MetalBond protocol, on io_uring.
//!
//! Bytes flow through these modules from top to bottom; each may use only those above it:
//!
//! | module | what it owns |
//! |---|---|
//! | `vital` | threads that the service cannot do without, and the way out of the process |
//! | [`types`] | VNIs, routes, ids, time: plain values |
//! | `wire` | frames and messages, and what is wrong with them |
//! | `session` | the state machine of one connection and its timers |
//! | `log` | encoded updates on their way: logs with cursors and what laggards missed, bases |
//! | `policy` | what peers may announce: rules, and who judges a peer's routes |
//! | `rib` | route tables, sources, and the records that changes make |
//! | `handover` | what a server tells its successor: the schema |
//! | `client` | this node as a client: its wishes, the servers that it dialled, what is kept of lost ones, what its route client is told |
//! | `shard` | the sans-IO core of one shard: the turn, peers, mail, jobs, pacing |
//! | `fabric` | many reflectors as one: what each tells the others, through an engine that keeps it (feature `fabric`) |
//! | `io` | the tokio-uring driver of the core: threads, sockets, mail between shards |
//! | `http` | what the node knows, for people and programs, on a thread of its own (feature `http`) |
//! | `kernel` | received routes in the kernel's tables: what to change, and the netlink thread |
//! | [`api`] | the library's face: [`MetalBond`](api::MetalBond) and the route client |
//! | `cli` | the command line (feature `cli`) |
//!
//! Only [`api`] and [`types`] are for others to use. `cargo doc --document-private-items` shows the rest.
//!
//! The features `cli`, `fabric`, `http` and `loadgen` are on by default; `cli` and `loadgen` are for the two programs. The library alone:
//! `metalbond-uring = { version = "0.1", default-features = false }`.

#![warn(unreachable_pub)]

#[cfg(not(target_os = "linux"))]
compile_error!("metalbond-uring runs on Linux only (6.0 or newer): it is built on io_uring");

#[cfg(target_os = "linux")]
pub mod api;
#[cfg(all(target_os = "linux", feature = "cli"))]
mod cli;
#[cfg(target_os = "linux")]
mod client;
#[cfg(all(target_os = "linux", feature = "fabric"))]
mod fabric;
#[cfg(target_os = "linux")]
mod handover;
#[cfg(all(target_os = "linux", feature = "http"))]
mod http;
#[doc(hidden)]
#[cfg(target_os = "linux")]
pub mod internals;
#[cfg(target_os = "linux")]
mod io;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod log;
#[cfg(target_os = "linux")]
mod policy;
#[cfg(target_os = "linux")]
mod rib;
#[cfg(target_os = "linux")]
mod session;
#[cfg(target_os = "linux")]
mod shard;
#[cfg(target_os = "linux")]
pub mod types;
#[cfg(target_os = "linux")]
mod vital;
#[cfg(target_os = "linux")]
mod wire;
