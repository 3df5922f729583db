//! A route reflector for the MetalBond protocol, on io_uring.
//!
//! Bytes flow through these modules from top to bottom; each may use only those above it:
//!
//! | module | what it owns |
//! |---|---|
//! | [`vital`] | threads that the service cannot do without, and the way out of the process |
//! | [`types`] | VNIs, routes, ids, time: plain values |
//! | [`wire`] | frames and messages, and what is wrong with them |
//! | [`session`] | the state machine of one connection and its timers |
//! | [`log`] | encoded updates on their way: logs with cursors, bases, private queues |
//! | [`rib`] | route tables, sources, and the records that changes make |
//! | [`shard`] | the sans-IO core of one shard: the turn, peers, mail, jobs, pacing |
//! | [`io`] | the tokio-uring driver of the core: threads, sockets, mail between shards |
//! | [`kernel`] | received routes in the kernel's tables: what to change, and the netlink thread |
//! | [`api`] | the library's face: [`MetalBond`](api::MetalBond) and the route client |
//! | [`cli`] | the command line |

pub mod api;
pub mod cli;
pub mod io;
pub mod kernel;
pub mod log;
pub mod rib;
pub mod session;
pub mod shard;
pub mod types;
pub mod vital;
pub mod wire;
