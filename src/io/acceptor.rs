//! Accepts connections and gives each to a shard; stops the shards at the end.
//!
//! Owns the listening sockets and the order of a shutdown. Must never touch a peer's bytes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{JoinSet, LocalSet};
use tracing::{debug, info, warn};

use super::door::{Door, Place, Refusal, Refused, Vacated};
use super::letter::Letter;
use super::memory::MemoryWatch;
use super::truce::{Recess, Truce};
use crate::shard::STRANGERS;
use crate::types::ShardId;

/// How long to wait before trying again when no descriptor is free.
const PAUSE: Duration = Duration::from_millis(50);

/// How long shards may take to hear that nothing is withdrawn any more.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two shares of peers that end.
const DRAIN_STEP: Duration = Duration::from_millis(100);

/// How long the last peers may take to get what is pending for them when the server shuts down.
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
    pub(super) vacated: Vacated,
    /// See [`ServerConfig::drain_time`](super::ServerConfig::drain_time).
    pub(super) drain_time: Duration,
    /// Sockets to listen on besides, as they come.
    pub(super) more: UnboundedReceiver<TcpListener>,
    /// Yields None when all shards have ended.
    pub(super) ended: UnboundedReceiver<()>,
    /// The fabric's thread, if there is one. It ends after the shards.
    pub(super) fabric: Option<UnboundedSender<Letter>>,
    /// From handovers.
    pub(super) recesses: UnboundedReceiver<Recess>,
    pub(super) truce: Truce,
    /// Watches as long as there is an acceptor.
    pub(super) _memory: MemoryWatch,
}

impl Acceptor {
    /// Accepts until `stop` completes; then drains the shards and ends their threads.
    ///
    /// # Errors
    /// If the listening sockets cannot be watched (no descriptor left at the start).
    pub(super) async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        LocalSet::new().run_until(self.run_here(stop)).await
    }

    async fn run_here(mut self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let dispatcher = Rc::new(self.dispatcher);
        let mut listening = Listening::new(Rc::clone(&dispatcher));
        let mut listeners = self.listeners.drain(..);
        let watched: io::Result<()> = listeners.try_for_each(|listener| listening.add(listener));
        drop(listeners);
        tokio::pin!(stop);
        while watched.is_ok() {
            tokio::select! {
                () = &mut stop => break,
                Some(address) = self.vacated.recv() => dispatcher.door.borrow_mut().forget(address),
                Some(listener) = self.more.recv() => {
                    if let Err(error) = listening.add(listener) {
                        warn!(%error, "cannot listen");
                    }
                }
                Some(recess) = self.recesses.recv() => listening.obey(recess).await,
            }
        }
        // Whoever waits for an answer there hears that there is none.
        drop(self.recesses);
        self.truce.end().await;
        // Refused from now on: a reconnecting peer finds the next instance, or tries again.
        listening.end().await;
        let peers = dispatcher.peers();
        info!(peers, "shutting down");
        let (told, mut all_told) = tokio::sync::mpsc::unbounded_channel();
        dispatcher.send_all(|| Letter::StopWithdrawing(told.clone()));
        drop(told);
        let _ = tokio::time::timeout(TELL_TIMEOUT, all_told.recv()).await;
        // The other reflectors hear of it while peers are drained.
        self.fabric.iter().for_each(|fabric| drop(fabric.send(Letter::Drain(usize::MAX))));
        dispatcher.drain(self.drain_time).await;
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, dispatcher.drained()).await;
        if drained.is_err() {
            let peers = dispatcher.peers();
            warn!(peers, "closing connections that did not drain in time");
        }
        dispatcher.stop();
        while self.ended.recv().await.is_some() {}
        self.fabric.iter().for_each(|fabric| drop(fabric.send(Letter::Stop)));
        watched
    }
}

/// The sockets that are listened on, each with a task that accepts.
struct Listening {
    dispatcher: Rc<Dispatcher>,
    listeners: Vec<Rc<AsyncFd<TcpListener>>>,
    tasks: JoinSet<()>,
    is_recess: bool,
}

impl Listening {
    fn new(dispatcher: Rc<Dispatcher>) -> Listening {
        Listening { dispatcher, listeners: Vec::new(), tasks: JoinSet::new(), is_recess: false }
    }

    fn add(&mut self, listener: TcpListener) -> io::Result<()> {
        // SAFETY: the descriptor is the same for as long as the `AsyncFd` owns the listener.
        let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE)? };
        let listener = Rc::new(listener);
        self.listeners.push(Rc::clone(&listener));
        if !self.is_recess {
            self.accept(listener);
        }
        Ok(())
    }

    async fn obey(&mut self, recess: Recess) {
        match recess {
            Recess::Begin(begun) => {
                self.is_recess = true;
                // They wait only between two connections.
                self.tasks.shutdown().await;
                // Fails if it was given up.
                let _ = begun.send(());
            }
            Recess::End if std::mem::take(&mut self.is_recess) => {
                self.listeners.clone().into_iter().for_each(|listener| self.accept(listener));
            }
            Recess::End => {}
        }
    }

    fn accept(&mut self, listener: Rc<AsyncFd<TcpListener>>) {
        self.tasks.spawn_local(Rc::clone(&self.dispatcher).accept_loop(listener));
    }

    /// Closes the sockets.
    async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Gives sockets to shards.
pub(super) struct Dispatcher {
    shards: Vec<ShardHandle>,
    door: RefCell<Door>,
}

impl Dispatcher {
    /// For at least one shard; `door` says who may come.
    pub(super) fn new(shards: Vec<ShardHandle>, door: Door) -> Dispatcher {
        assert!(!shards.is_empty());
        Dispatcher { shards, door: RefCell::new(door) }
    }

    /// The mailboxes of all shards, by index.
    pub(super) fn mailboxes(&self) -> Vec<UnboundedSender<Letter>> {
        self.shards.iter().map(|shard| shard.mailbox.clone()).collect()
    }

    /// What is counted of those who may not come in.
    pub(super) fn refused(&self) -> Arc<Refused> {
        Arc::clone(self.door.borrow().refused())
    }

    /// Has all shards end.
    pub(super) fn stop(&self) {
        self.send_all(|| Letter::Stop);
    }

    async fn accept_loop(self: Rc<Self>, listener: Rc<AsyncFd<TcpListener>>) {
        // Set from the first failure until nobody waits any more.
        let mut short = false;
        loop {
            let accepted = poll_fn(|context| {
                let polled = poll_accept(&listener, context);
                if polled.is_pending() && std::mem::take(&mut short) {
                    info!("descriptors are free again: nobody waits for an accept any more");
                }
                polled
            })
            .await;
            match accepted {
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
        let guest = match self.door.borrow_mut().admit(remote.ip(), self.peers()) {
            Ok(guest) => guest,
            // The socket is closed as it is dropped.
            Err(refusal) => return log_refusal(refusal, remote),
        };
        let shard = self.least_loaded();
        let place = Place::new(&shard.peers, Some(guest));
        // Fails only when the shard has ended: then the letter is dropped with all that it has.
        let _ = shard.mailbox.send(Letter::Socket(socket, remote, place));
    }

    /// Where a connection is to live that comes from another process.
    pub(super) fn bring_in(&self, remote: SocketAddr) -> (ShardId, Place) {
        let shard = self.least_loaded();
        let guest = self.door.borrow_mut().bring_in(remote.ip());
        let place = Place::new(&shard.peers, Some(guest));
        let index = self.shards.iter().position(|it| std::ptr::eq(it, shard)).unwrap_or_default();
        (ShardId(u16::try_from(index).expect("there are at most 1,024")), place)
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

    /// Has all peers end, as many at a time as it takes to need so long.
    async fn drain(&self, over: Duration) {
        let steps =
            usize::try_from(over.as_millis() / DRAIN_STEP.as_millis()).unwrap_or(usize::MAX);
        let fleets: Vec<usize> =
            self.shards.iter().map(|shard| shard.peers.load(Ordering::Relaxed)).collect();
        for step in 0..steps {
            for (shard, fleet) in self.shards.iter().zip(&fleets) {
                let _ = shard.mailbox.send(Letter::Drain(share(*fleet, step, steps)));
            }
            if self.peers() == 0 {
                return;
            }
            tokio::time::sleep(DRAIN_STEP).await;
        }
        self.send_all(|| Letter::Drain(usize::MAX));
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

/// The next connection. Its socket waits in its operations, as the ring needs it: it would answer EAGAIN for another.
fn poll_accept(
    listener: &AsyncFd<TcpListener>,
    context: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    loop {
        let mut ready = ready!(listener.poll_read_ready(context))?;
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return Poll::Ready(accepted);
        }
    }
}

/// One place for each, so that the lines of each are counted by themselves.
fn log_refusal(refusal: Refusal, remote: SocketAddr) {
    match refusal {
        Refusal::NotAllowed => {
            info!(target: STRANGERS, %remote, "refused: its address is not among those of --allow")
        }
        Refusal::PeersMax => {
            warn!(target: STRANGERS, %remote, "refused: there are as many connections as --peers-max allows")
        }
        Refusal::PeersPerAddress => {
            warn!(
                target: STRANGERS,
                %remote,
                "refused: its address has as many connections as --peers-per-address-max allows"
            )
        }
        Refusal::HandshakesMax => {
            warn!(
                target: STRANGERS,
                %remote,
                "refused: as many connections as --handshakes-max allows have no session yet"
            )
        }
        Refusal::Memory => {
            warn!(target: STRANGERS, %remote, "refused: memory is short (--memory-max)")
        }
    }
}

/// How many of a fleet end at this step of so many: all together all of them, evenly.
fn share(fleet: usize, step: usize, steps: usize) -> usize {
    let until = |step: usize| fleet as u128 * step as u128 / steps as u128;
    (until(step + 1) - until(step)) as usize
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::io::ServerConfig;

    fn dispatcher(
        shards: usize,
        config: &ServerConfig,
    ) -> (Dispatcher, Vec<UnboundedReceiver<Letter>>) {
        let (handles, mailboxes) = (0..shards)
            .map(|_| {
                let (mailbox, receiver) = mpsc::unbounded_channel();
                let peers = Arc::default();
                (ShardHandle { mailbox, peers }, receiver)
            })
            .unzip();
        (Dispatcher::new(handles, Door::new(config, Arc::default()).0), mailboxes)
    }

    fn refused(dispatcher: &Dispatcher, reason: &str) -> u64 {
        let counts = dispatcher.refused().counts();
        counts.into_iter().find(|(kind, _)| *kind == reason).unwrap().1
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn fewest_peers_first_and_never_beyond_the_maximum() {
        let config = ServerConfig { peers_max: 7, ..ServerConfig::default() };
        let (dispatcher, mut mailboxes) = dispatcher(3, &config);
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
        assert_eq!(refused(&dispatcher, "peers_max"), 1);
        // The refused one sees its end at once.
        let mut last = clients.pop().unwrap();
        assert_eq!(io::Read::read(&mut last, &mut [0]).unwrap(), 0);
        while mailboxes[2].try_recv().is_ok() {}
        dispatcher.hand_over(pair().1, remote);
        assert_eq!(mailboxes[2].len(), 1);
        assert_eq!(refused(&dispatcher, "peers_max"), 1);
        // A shard that has ended keeps nobody's place: what is left are the two above.
        drop(mailboxes);
        assert_eq!(dispatcher.peers(), 2);
        dispatcher.hand_over(pair().1, remote);
        assert_eq!(dispatcher.peers(), 2);
    }

    #[test]
    fn a_fleet_ends_evenly_and_all_of_it() {
        for (fleet, steps) in [(1000, 10), (7, 50), (0, 3), (65_536, 7), (3, 36_000)] {
            let shares: Vec<_> = (0..steps).map(|step| share(fleet, step, steps)).collect();
            assert_eq!(shares.iter().sum::<usize>(), fleet, "{fleet} in {steps}");
            let first_half: usize = shares[..steps / 2].iter().sum();
            assert!(first_half.abs_diff(fleet / 2) <= 1 + fleet / steps, "{fleet} in {steps}");
            let (most, least) = (shares.iter().max().unwrap(), shares.iter().min().unwrap());
            assert!(most - least <= 1, "{fleet} in {steps}");
        }
    }

    #[test]
    fn only_who_is_allowed_comes_in() {
        let allow = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let config = ServerConfig { allow, ..ServerConfig::default() };
        let (dispatcher, mut mailboxes) = dispatcher(1, &config);
        let mut closed = Vec::new();
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
            closed.extend((!is_allowed).then_some(client));
        }
        assert_eq!(refused(&dispatcher, "not_allowed"), 3);
        assert_eq!(refused(&dispatcher, "peers_max"), 0);
        for mut client in closed {
            assert_eq!(io::Read::read(&mut client, &mut [0]).unwrap(), 0);
        }
    }
}
