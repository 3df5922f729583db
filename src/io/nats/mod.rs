//! The engine of the fabric: NATS JetStream, on a thread of its own.
//!
//! Owns the connection, and hands the core what comes over it. Must never keep a shard waiting: their mail is taken at
//! once, whatever the engine does.

mod driver;
mod fault;
mod forget;
mod link;
mod reader;
mod retry;
mod stream;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::LocalSet;

use self::driver::Driver;
pub use self::fault::Fault;
pub use self::forget::{ForgetError, forget};
pub use self::link::{Acks, Connected, Link, Publication};
pub use self::reader::{Delivered, Feed};
use super::clock::Clock;
use super::fabric_options::FabricOptions;
use super::letter::Letter;
use crate::fabric::{Fabric, FabricConfig, Timers};
use crate::types::ShardId;
use crate::vital;

/// What the fabric's thread starts with.
pub(super) struct FabricStart {
    pub(super) options: FabricOptions,
    pub(super) clock: Clock,
    pub(super) mailbox: UnboundedReceiver<Letter>,
    /// The mailboxes of all shards, by index.
    pub(super) shards: Vec<UnboundedSender<Letter>>,
    /// Told if there is no sense in trying again.
    pub(super) fatal: UnboundedSender<String>,
    /// Whether it is told to begin ([`Letter::Thaw`]), when another process has handed over.
    pub(super) waits: bool,
}

/// Starts the thread. It runs until [`Letter::Stop`].
///
/// # Errors
/// The system's, if there is no room for it.
pub(super) fn start(start: FabricStart) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let FabricStart { options, clock, mailbox, shards, fatal, waits } = start;
    let config = core_config(&options, clock, shards.len());
    let fabric = Fabric::new(clock.now(), config);
    let driver = Driver { options, clock, fabric, mailbox, shards, fatal, waits };
    vital::spawn("fabric", move || {
        // Its tasks end within the runtime: what they hold may have a last word to say there.
        runtime.block_on(async { LocalSet::new().run_until(driver.run()).await });
        // A name may still be being looked up: nobody waits for that.
        runtime.shutdown_background();
    })
}

fn core_config(options: &FabricOptions, clock: Clock, shards: usize) -> FabricConfig {
    let began_at = clock.began_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    FabricConfig {
        fabric: options.address.fabric.to_string(),
        name: options.name.to_string(),
        incarnation: u64::try_from(began_at.as_nanos()).unwrap_or(u64::MAX),
        shards: u16::try_from(shards).expect("judge() bounds the shards"),
        // Random, so that nobody can choose keys that collide. A RandomState is seeded by the system.
        hash_seed: std::array::from_fn(|_| RandomState::new().hash_one(ShardId::MAX)),
        routes_max: options.routes_max,
        in_flight_max: IN_FLIGHT_MAX,
        timers: Timers {
            heartbeat: options.heartbeat,
            lease_lifetime: options.lease,
            stale: options.stale_time,
            restart: options.restart_time,
            hold: options.hold_time,
            ..Timers::default()
        },
        without: None,
    }
}

/// Publications without an answer, at a time.
const IN_FLIGHT_MAX: usize = 4_096;
