//! The driver of the core: threads, sockets and the ring (tokio-uring).
//!
//! Owns everything that touches the system: it reads and sends bytes, looks at the clock, draws the
//! seed of the hash tables and moves mail between shards. Must never look into what the bytes mean.
//!
//! ```text
//! acceptor --socket--> shard-0 ... shard-N     one thread each: a ring, a core, a mailbox
//!                        |  ^
//!                        +--+ mail: one block for each destination a turn
//! ```

mod acceptor;
mod address;
mod alarm;
mod asker;
mod buffers;
mod cancel;
mod cgroup;
mod clock;
mod config;
mod connection;
mod dial;
mod dialled;
mod door;
mod error;
#[cfg(feature = "fabric")]
mod fabric_options;
mod fabric_thread;
#[cfg(feature = "fabric")]
mod fabric_view;
mod feed;
mod letter;
mod listener;
mod md5;
mod memory;
#[cfg(feature = "fabric")]
pub(crate) mod nats;
mod policy;
mod probe;
mod reload;
mod send;
mod server;
mod signals;
mod socket;
mod succession;
mod sys;
mod transfer;
mod truce;
mod turns;
mod worker;

pub use self::asker::Asker;
#[cfg(feature = "cli")]
pub(crate) use self::config::{CORES_MAX, DRAIN_TIME_S_MAX, MEMORY_MIB, SEGMENT_BYTES};
pub use self::config::{SEGMENT_BYTES_MAX_DEFAULT, ServerConfig};
pub use self::dial::RETRY_INTERVAL;
pub(crate) use self::dialled::ServerState;
#[cfg(feature = "http")]
pub(crate) use self::door::ConnectionsMax;
pub use self::error::ServeError;
#[cfg(feature = "fabric")]
pub use self::fabric_options::{FabricAddress, FabricName, FabricOptions};
#[cfg(feature = "cli")]
pub(crate) use self::fabric_options::{
    FabricAddressError, HEARTBEAT_S, HOLD_S, LEASE_S, REPLICAS, RESTART_S, STALE_S,
};
#[cfg(feature = "fabric")]
pub use self::fabric_view::{FabricView, ServerSeen, StreamSeen};
pub(crate) use self::letter::Feed;
#[cfg(feature = "http")]
pub(crate) use self::listener::listen;
#[cfg(feature = "http")]
pub(crate) use self::md5::Md5Keys;
pub use self::md5::{MD5_KEY_BYTES_MAX, Md5Error, Md5Key};
pub use self::memory::MemoryMax;
#[cfg(feature = "http")]
pub(crate) use self::memory::MemoryView;
pub use self::policy::{PolicyConfig, PolicyFileError};
pub use self::probe::{ProbeError, explain, probe, runtime_builder};
pub use self::server::{Server, serve};
pub use self::signals::Signals;
#[cfg(feature = "cli")]
pub(crate) use self::succession::{HANDOVER_S, HANDOVER_S_DEFAULT};
pub use self::succession::{Handover, HandoverOptions};
#[cfg(feature = "cli")]
pub(crate) use self::sys::host_name;
pub use self::sys::{raise_descriptor_limit, receive_ready, survive_file_size_limit};
