//! The library's face: one [`MetalBond`] is a client, a server, or both.
//!
//! Owns what the caller asked for (subscriptions, announcements, servers) and passes it on. Must never
//! wait for the network, nor fail because a server is away.
//!
//! ```
//! use metalbond_uring::api::{
//!     Config, Destination, MetalBond, NextHop, RouteClient, RouteError, Vni,
//! };
//!
//! /// Prints what it is told.
//! struct Printer;
//!
//! impl RouteClient for Printer {
//!     fn add_route(&mut self, vni: Vni, to: Destination, via: NextHop) -> Result<(), RouteError> {
//!         println!("{vni}: {to} via {via}");
//!         Ok(())
//!     }
//!     fn remove_route(&mut self, vni: Vni, to: Destination, via: NextHop) -> Result<(), RouteError> {
//!         println!("{vni}: no more {to} via {via}");
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let metalbond = MetalBond::new(Config::default(), Printer)?;
//! metalbond.subscribe(Vni(100))?;
//! metalbond.announce_route(Vni(100), "10.0.1.0/24".parse()?, "2001:db8::1".parse()?)?;
//! metalbond.add_peer("[::1]:4711", None)?; // connects, and connects again, in the background
//! assert_eq!(metalbond.subscribed_vnis(), [Vni(100)]);
//! metalbond.shutdown();
//! # Ok(())
//! # }
//! ```

mod client_thread;
mod metalbond;
mod netlink;

#[cfg(feature = "http")]
pub use metalbond::HttpOptions;
pub use metalbond::{Error, MetalBond};
pub use netlink::NetlinkClient;

pub use crate::client::{DummyClient, RouteClient, RouteError};
#[cfg(feature = "http")]
pub use crate::http::HttpError;
#[doc(inline)]
pub use crate::io::ServerConfig as Config;
pub use crate::io::{
    MD5_KEY_BYTES_MAX, Md5Error, Md5Key, MemoryMax, PolicyConfig, PolicyFileError, ProbeError,
    RETRY_INTERVAL, ServeError,
};
#[doc(inline)]
pub use crate::kernel::KernelConfig as NetlinkClientConfig;
pub use crate::kernel::{
    HOPS_DEFAULT, HOPS_MAX, KernelError, KernelWatch, METALBOND_RT_PROTO, NexthopObjects,
};
pub use crate::policy::{Mistake, NextHopPolicy, NextHopPolicyError, PolicyError};
pub use crate::session::State;
pub use crate::shard::Limits;
pub use crate::types::{
    Destination, HostPort, HostPortError, NextHop, NextHopType, Pace, ParseError, ReflectOwn,
    Route, Vni,
};
