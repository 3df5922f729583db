//! Received routes in the kernel's routing tables, as tunnel routes (`encap ip6`) out of one link.
//!
//! Owns routes and nexthop objects with protocol number [`METALBOND_RT_PROTO`], as far as
//! [`plan::Ours`] goes. Must never change a route of anybody else, another client's neither, and
//! never let a caller wait for the kernel.
//!
//! `config` is what a caller wants, `plan` decides what to change and knows no kernel; `messages`, `seen` and `answers` are the bytes,
//! `netlink` and `events` the sockets, `blocks` whose nexthop ids are whose, `thread` the one thread that uses them; `strange` is
//! a kernel that says anything.

mod answers;
mod blocks;
mod config;
mod events;
mod messages;
mod netlink;
pub(crate) mod plan;
mod seen;
mod strange;
mod thread;

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::types::{Route, Vni};
use crate::vital;
use events::Events;
use netlink::Requests;
use plan::Plan;
use thread::{Command, NetlinkThread};

#[cfg(feature = "cli")]
pub(crate) use config::RESYNC_DEFAULT;
pub use config::{HOPS_DEFAULT, HOPS_MAX, KernelConfig, NexthopObjects};
pub use messages::METALBOND_RT_PROTO;
pub use plan::Counters;
pub use strange::StrangeKernel;

/// Longest alternative name of a link in bytes (ALTIFNAMSIZ without its closing zero).
const ALTERNATIVE_NAME_BYTES_MAX: usize = 127;

/// Why kernel routes cannot be managed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The name cannot be that of a link.
    #[error("'{0}' is no name of a link (expected 1 to 127 bytes without '/' and white space)")]
    LinkName(String),
    /// There is no such link.
    #[error(
        "there is no link '{0}' in this network namespace (expected an existing tunnel device; \
         `ip link` lists them)"
    )]
    NoLink(String),
    /// The kernel does not let this program change routes.
    #[error(
        "changing kernel routes is not permitted (expected the capability CAP_NET_ADMIN: run as \
         root, or grant it by AmbientCapabilities= or setcap)"
    )]
    NotPermitted,
    /// A netlink socket failed.
    #[error("netlink: {what}: {source}")]
    Netlink {
        /// What was attempted.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The thread could not be started.
    #[error("cannot start the netlink thread: {0}")]
    Thread(io::Error),
}

/// A handle to the netlink thread. No call waits for the kernel, and calls take effect in their
/// order; dropping the handle ends the thread and leaves the routes where they are.
#[derive(Debug)]
pub struct KernelRoutes {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl KernelRoutes {
    /// Starts the netlink thread in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the link does not exist, changing routes is not permitted, or a socket or the thread
    /// cannot be made.
    pub fn start(config: KernelConfig) -> Result<KernelRoutes, KernelError> {
        let name = &config.link_name;
        let is_odd = |byte: u8| byte == b'/' || byte == 0 || byte.is_ascii_whitespace();
        if !(1..=ALTERNATIVE_NAME_BYTES_MAX).contains(&name.len()) || name.bytes().any(is_odd) {
            return Err(KernelError::LinkName(name.clone()));
        }
        let failed = |what| move |source| KernelError::Netlink { what, source };
        let mut requests = Requests::open().map_err(failed("opening a socket"))?;
        let plan = Plan::new(config.clone());
        // Events before anything else is asked: what happens from now on is not missed.
        let events = Events::open(requests.port(), plan.mapped_tables())
            .map_err(failed("watching links and routes"))?;
        if requests.link(name).map_err(failed("looking up the link"))?.is_none() {
            return Err(KernelError::NoLink(name.clone()));
        }
        if !requests.may_change_routes().map_err(failed("asking for permission"))? {
            return Err(KernelError::NotPermitted);
        }
        let (waker, wake) = UnixStream::pair().map_err(KernelError::Thread)?;
        waker.set_nonblocking(true).map_err(KernelError::Thread)?;
        wake.set_nonblocking(true).map_err(KernelError::Thread)?;
        let shared = Arc::new(Shared {
            commands: Mutex::default(),
            counters: Mutex::default(),
            awake: AtomicBool::new(true),
            waker,
        });
        let thread = NetlinkThread::new(config, plan, Arc::clone(&shared), wake, requests, events);
        let thread = vital::spawn("netlink", || thread.run()).map_err(KernelError::Thread)?;
        Ok(KernelRoutes { shared, thread: Some(thread) })
    }

    /// A route is wanted: installed, if it can be.
    pub fn add(&self, vni: Vni, route: Route) {
        self.shared.push(Command::Add(vni, route));
    }

    /// A route is wanted no longer.
    pub fn remove(&self, vni: Vni, route: Route) {
        self.shared.push(Command::Remove(vni, route));
    }

    /// The servers have told what they know: routes of a former run that nobody has asked for go.
    pub fn sweep(&self) {
        self.shared.push(Command::Sweep);
    }

    /// Deletes all our routes in the mapped tables, those of a former run too.
    pub fn clear(&self) {
        self.shared.push(Command::Clear);
    }

    /// Something to look at the numbers with, while others use the handle.
    pub fn watch(&self) -> KernelWatch {
        KernelWatch { shared: Arc::clone(&self.shared) }
    }

    /// Waits until all that was asked for before is done, or failed and will be tried again later.
    /// Returns whether that was so within `timeout`.
    pub fn settle(&self, timeout: Duration) -> bool {
        let (sender, receiver) = mpsc::channel();
        self.shared.push(Command::Settle(sender));
        receiver.recv_timeout(timeout).is_ok()
    }

    /// The numbers as of the last batch.
    pub fn counters(&self) -> Counters {
        *lock(&self.shared.counters)
    }

    /// Ends the thread when all that was asked for is done, but after `patience` at the latest.
    /// The routes stay; call [`KernelRoutes::clear`] first if they are to go.
    pub fn shutdown(mut self, patience: Duration) {
        self.shared.push(Command::Shutdown(patience));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic has been reported already
        }
    }
}

impl Drop for KernelRoutes {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shared.push(Command::Shutdown(Duration::ZERO));
        }
    }
}

/// The numbers of a netlink thread, for whoever watches it.
#[derive(Clone, Debug)]
pub struct KernelWatch {
    shared: Arc<Shared>,
}

impl KernelWatch {
    /// As of the last batch.
    pub fn counters(&self) -> Counters {
        *lock(&self.shared.counters)
    }
}

/// What callers and the thread share.
#[derive(Debug)]
struct Shared {
    commands: Mutex<Vec<Command>>,
    counters: Mutex<Counters>,
    /// Whether the thread will look at the commands without being woken.
    awake: AtomicBool,
    waker: UnixStream,
}

impl Shared {
    fn push(&self, command: Command) {
        lock(&self.commands).push(command);
        if !self.awake.swap(true, Ordering::SeqCst) {
            // If the pipe is full, the thread has been woken already.
            let _ = (&self.waker).write(&[0]);
        }
    }

    fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }

    fn has_commands(&self) -> bool {
        !lock(&self.commands).is_empty()
    }

    fn publish(&self, counters: Counters) {
        *lock(&self.counters) = counters;
    }
}

/// A panic elsewhere leaves these plain values as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
