//! Accepts connections and gives each to a shard; stops the shards at the end.
//!
//! Owns the listening sockets and the order of a shutdown. Must never touch a peer's bytes.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::letter::Letter;
use crate::shard::STRANGERS;

/// How long to wait before trying again when no descriptor is free.
const PAUSE: Duration = Duration::from_millis(50);

/// How long shards may take to hear that nothing is withdrawn any more.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long peers may take to get what is pending for them when the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A shard as the acceptor sees it.
#[derive(Clone)]
pub(super) struct ShardHandle {
    pub(super) mailbox: UnboundedSender<Letter>,
    /// Sockets handed over and not yet released.
    pub(super) peers: Arc<AtomicUsize>,
}

/// The running server but for its shards' threads.
pub(super) struct Acceptor {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) dispatcher: Dispatcher,
    /// Sockets to listen on besides, as they come.
    pub(super) more: UnboundedReceiver<TcpListener>,
    /// Yields None when all shards have ended.
    pub(super) ended: UnboundedReceiver<()>,
}

impl Acceptor {
    /// Accepts until `stop` completes; then drains the shards and ends their threads.
    ///
    /// # Errors
    /// If the listening sockets cannot be watched (no descriptor left at the start).
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let dispatcher = Arc::new(self.dispatcher);
        let mut listening = JoinSet::new();
        let mut watched = Ok(());
        for listener in self.listeners.drain(..) {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    listening.spawn(Arc::clone(&dispatcher).accept_loop(listener));
                }
                Err(error) => watched = Err(error),
            }
        }
        tokio::pin!(stop);
        while watched.is_ok() {
            tokio::select! {
                () = &mut stop => break,
                Some(listener) = self.more.recv() => {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => {
                            listening.spawn(Arc::clone(&dispatcher).accept_loop(listener));
                        }
                        Err(error) => warn!(%error, "cannot listen"),
                    }
                }
            }
        }
        // Refused from now on: a reconnecting peer finds the next instance, or tries again.
        listening.shutdown().await;
        let peers = dispatcher.peers();
        info!(peers, "shutting down");
        let (told, mut all_told) = tokio::sync::mpsc::unbounded_channel();
        dispatcher.send_all(|| Letter::StopWithdrawing(told.clone()));
        drop(told);
        let _ = tokio::time::timeout(TELL_TIMEOUT, all_told.recv()).await;
        dispatcher.send_all(|| Letter::Drain);
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, dispatcher.drained()).await;
        if drained.is_err() {
            let peers = dispatcher.peers();
            warn!(peers, "closing connections that did not drain in time");
        }
        dispatcher.send_all(|| Letter::Stop);
        while self.ended.recv().await.is_some() {}
        watched
    }
}

/// Gives sockets to shards.
pub(super) struct Dispatcher {
    shards: Vec<ShardHandle>,
    peers_max: usize,
    allow: Vec<IpNet>,
    full: AtomicBool,
    pub(super) refused: Arc<Refused>,
}

/// Connections that were closed at once.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// There were as many as there may be.
    pub(super) peers_max: AtomicU64,
    /// Their addresses are not among those that may come.
    pub(super) not_allowed: AtomicU64,
}

impl Dispatcher {
    /// For at least one shard, and at most `peers_max` peers on all of them, from the addresses of `allow` (empty:
    /// from all).
    pub(super) fn new(shards: Vec<ShardHandle>, peers_max: u32, allow: Vec<IpNet>) -> Dispatcher {
        assert!(!shards.is_empty());
        Dispatcher {
            shards,
            peers_max: usize::try_from(peers_max).unwrap_or(usize::MAX),
            allow,
            full: AtomicBool::new(false),
            refused: Arc::default(),
        }
    }

    /// The mailboxes of all shards, by index.
    pub(super) fn mailboxes(&self) -> Vec<UnboundedSender<Letter>> {
        self.shards.iter().map(|shard| shard.mailbox.clone()).collect()
    }

    async fn accept_loop(self: Arc<Self>, listener: tokio::net::TcpListener) {
        // Set from the first failure until nobody waits any more.
        let mut short = false;
        loop {
            let accepted = poll_fn(|context| {
                let polled = listener.poll_accept(context);
                if polled.is_pending() && std::mem::take(&mut short) {
                    info!("descriptors are free again: nobody waits for an accept any more");
                }
                polled
            })
            .await;
            match accepted.and_then(|(socket, remote)| Ok((for_ring(socket)?, remote))) {
                Ok((socket, remote)) => self.hand_over(socket, canonical(remote)),
                Err(error) if is_shortage(&error) => {
                    if !std::mem::replace(&mut short, true) {
                        warn!(%error, "cannot accept: new peers wait, the others are served");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                // The peer is gone already (ECONNABORTED), or another error of its connection.
                Err(error) => debug!(%error, "accept failed"),
            }
        }
    }

    fn hand_over(&self, socket: TcpStream, remote: SocketAddr) {
        if !self.allow.is_empty() && !self.allow.iter().any(|net| net.contains(&remote.ip())) {
            self.refused.not_allowed.fetch_add(1, Ordering::Relaxed);
            // The socket is closed as it is dropped.
            info!(target: STRANGERS, %remote, "refused: its address is not among those of --allow");
            return;
        }
        if self.peers() >= self.peers_max {
            self.refused.peers_max.fetch_add(1, Ordering::Relaxed);
            if !self.full.swap(true, Ordering::Relaxed) {
                let peers_max = self.peers_max;
                warn!(%remote, peers_max, "refusing connections: the maximum of peers is reached");
            }
            return;
        }
        if self.full.swap(false, Ordering::Relaxed) {
            info!("taking connections again");
        }
        let shard = self.least_loaded();
        shard.peers.fetch_add(1, Ordering::Relaxed);
        if shard.mailbox.send(Letter::Socket(socket, remote)).is_err() {
            shard.peers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The first of those with the fewest peers.
    fn least_loaded(&self) -> &ShardHandle {
        self.shards
            .iter()
            .min_by_key(|shard| shard.peers.load(Ordering::Relaxed))
            .expect("new() asserts that there is a shard")
    }

    fn peers(&self) -> usize {
        self.shards.iter().map(|shard| shard.peers.load(Ordering::Relaxed)).sum()
    }

    async fn drained(&self) {
        while self.peers() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn send_all(&self, letter: impl Fn() -> Letter) {
        for shard in &self.shards {
            let _ = shard.mailbox.send(letter());
        }
    }
}

/// An IPv4 peer at a socket of both families looks like IPv6: everybody knows it by its own address.
fn canonical(remote: SocketAddr) -> SocketAddr {
    match remote.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, remote.port()),
        // With its zone.
        IpAddr::V6(_) => remote,
    }
}

/// Takes an accepted socket from this thread's runtime. Blocking, since the ring would answer EAGAIN for
/// a socket that is not, instead of waiting.
fn for_ring(socket: tokio::net::TcpStream) -> io::Result<TcpStream> {
    let socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn dispatcher(shards: usize, peers_max: u32) -> (Dispatcher, Vec<UnboundedReceiver<Letter>>) {
        let (handles, mailboxes) = (0..shards)
            .map(|_| {
                let (mailbox, receiver) = mpsc::unbounded_channel();
                let peers = Arc::default();
                (ShardHandle { mailbox, peers }, receiver)
            })
            .unzip();
        (Dispatcher::new(handles, peers_max, Vec::new()), mailboxes)
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn fewest_peers_first_and_never_beyond_the_maximum() {
        let (dispatcher, mut mailboxes) = dispatcher(3, 7);
        let remote = "[::1]:1".parse().unwrap();
        dispatcher.shards[0].peers.store(2, Ordering::Relaxed);
        let mut clients = Vec::new();
        for _ in 0..6 {
            let (client, server) = pair();
            clients.push(client);
            dispatcher.hand_over(server, remote);
        }
        let received: Vec<usize> = mailboxes.iter_mut().map(|m| m.len()).collect();
        assert_eq!(received, [1, 2, 2]); // 2 + 5 = 7, and the sixth was refused
        assert!(dispatcher.full.load(Ordering::Relaxed));
        // The refused one sees its end at once.
        let mut last = clients.pop().unwrap();
        assert_eq!(io::Read::read(&mut last, &mut [0]).unwrap(), 0);
        dispatcher.shards[2].peers.store(0, Ordering::Relaxed);
        dispatcher.hand_over(pair().1, remote);
        assert!(!dispatcher.full.load(Ordering::Relaxed));
        assert_eq!(mailboxes[2].len(), 3);
    }

    #[test]
    fn only_who_is_allowed_comes_in() {
        let (mut dispatcher, mut mailboxes) = dispatcher(1, 7);
        dispatcher.allow = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let mut refused = Vec::new();
        for (remote, is_allowed) in [
            ("10.255.0.1:7", true),
            ("11.0.0.1:7", false),
            ("[2001:db8:1::7]:7", true),
            ("[2001:db9::7]:7", false),
            ("[::1]:7", false),
            ("[::ffff:10.0.0.1]:7", true),
        ] {
            let (client, server) = pair();
            dispatcher.hand_over(server, canonical(remote.parse().unwrap()));
            assert_eq!(mailboxes[0].try_recv().is_ok(), is_allowed, "{remote}");
            refused.extend((!is_allowed).then_some(client));
        }
        assert_eq!(dispatcher.refused.not_allowed.load(Ordering::Relaxed), 3);
        assert_eq!(dispatcher.refused.peers_max.load(Ordering::Relaxed), 0);
        for mut client in refused {
            assert_eq!(io::Read::read(&mut client, &mut [0]).unwrap(), 0);
        }
    }
}
