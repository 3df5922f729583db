//! A node from outside: its threads, and what is asked of them.
//!
//! Owns the start and the end of the acceptor and the shards. Must never touch a peer's bytes.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::acceptor::{Acceptor, Dispatcher, ShardHandle};
use super::asker::{About, Asker};
use super::clock::Clock;
use super::config::{CORES_MAX, ServerConfig};
use super::dialled::{DialOrder, ServerState};
use super::door::{ConnectionsMax, Door, Vacated};
use super::error::ServeError;
use super::fabric_thread::{fabric_mailbox, identity, start_fabric};
use super::letter::{Feed, Letter};
use super::md5::Md5Keys;
use super::memory::MemoryWatch;
use super::signals::{Signals, acceptor_runtime};
use super::succession::{Claimed, Handover, Succession, Ties};
use super::truce::Truce;
use super::turns::ThreadStart;
use super::{listener, probe, reload, sys, turns};
use crate::policy::{AnnouncePolicy, Policy};
use crate::shard::{Budgets, Ledger, Limits, Shard, ShardConfig};
use crate::types::{ShardId, Time};
use crate::vital;

/// Serves until SIGINT or SIGTERM, then shuts down gracefully; or until another process has taken over, then it ends the
/// process. What `started` returns is kept meanwhile.
///
/// # Errors
/// If the server cannot start: see [`ServeError`].
pub fn serve<T, E: From<ServeError>>(
    config: ServerConfig,
    mut handover: Option<Handover>,
    mut signals: Signals,
    started: impl FnOnce(&Asker) -> Result<T, E>,
) -> Result<(), E> {
    let runtime = acceptor_runtime()?;
    runtime.block_on(async {
        if config.listen.is_empty() {
            return Err(ServeError::NoAddress.into());
        }
        // Before the file is read: a SIGHUP meanwhile has it read again.
        let reload_asked = config.policy.announce_file.is_some().then(|| signals.reload_asked());
        if let Some(handover) = &handover {
            handover.judge(&config)?;
        }
        let claimed = handover.as_mut().and_then(|handover| handover.claimed().as_mut());
        let running = tokio::select! {
            running = Running::start(&config, claimed) => running,
            // It waits for an address.
            () = signals.received() => return Ok(()),
        };
        let running = running.inspect_err(|error| {
            handover.iter().for_each(|handover| handover.refuse(error));
        })?;
        let Some((running, is_ending)) =
            hand_over(&config, running, handover, &mut signals).await?
        else {
            return Ok(());
        };
        running.log();
        let Running { acceptor, threads, asker, rules, mut fatal, .. } = running;
        if let (Some(asked), Some(rules)) = (reload_asked, rules) {
            reload::when_asked(config.policy, rules, asker.clone(), asked)?;
        }
        let _kept = started(&asker)?;
        let mut failed = None;
        let stop = async {
            tokio::select! {
                () = async { if !is_ending { signals.received().await } } => {}
                Some(why) = fatal.recv() => failed = Some(why),
            }
        };
        let result = acceptor.run(stop).await;
        join(threads);
        result.map_err(|source| ServeError::Start { what: "the acceptor", source })?;
        failed.map_or(Ok(()), |why| Err(ServeError::Fabric(why).into()))
    })
}

/// Takes over from another process, if there is one that has offered that, and hands over to the next one later. Returns
/// whether a signal to end came meanwhile; None if it came before anything was taken.
async fn hand_over(
    config: &ServerConfig,
    mut running: Running,
    handover: Option<Handover>,
    signals: &mut Signals,
) -> Result<Option<(Running, bool)>, ServeError> {
    let Some(mut handover) = handover else { return Ok(Some((running, false))) };
    let mailboxes = running.acceptor.dispatcher.mailboxes();
    let Some(claimed) = handover.claimed().take() else {
        let Running { ties, acceptor, .. } = &running;
        handover.serve(config, mailboxes, ties.clone(), &acceptor.listeners)?;
        return Ok(Some((running, false)));
    };
    let signed = claimed.signed_networks();
    // Whatever goes wrong there, the other process goes on: what is left of this one must not touch a connection.
    match claimed.succeed(running.acceptor.dispatcher, running.ties.fabric.clone(), signals).await?
    {
        Succession::Ending => Ok(None),
        Succession::Taken { dispatcher, is_ending } => {
            running.acceptor.dispatcher = dispatcher;
            let Running { ties, acceptor, keys, .. } = &running;
            for listener in &acceptor.listeners {
                if let Err(error) =
                    listener::adopt(listener, config.segment_bytes_max, keys, &signed)
                {
                    warn!(%error, "a listening socket stays as the other server had it");
                }
            }
            handover.serve_on(config, mailboxes, ties.clone(), &acceptor.listeners);
            Ok(Some((running, is_ending)))
        }
    }
}

/// A server that runs beside the caller, for tests and for embedding. It leaves signals alone.
///
/// Dropping it shuts it down and waits for that.
pub struct Server {
    local_addresses: Vec<SocketAddr>,
    segment_bytes_max: u16,
    keys: Md5Keys,
    /// Takes sockets to listen on.
    listeners: mpsc::UnboundedSender<TcpListener>,
    asker: Asker,
    stop: Option<oneshot::Sender<()>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds, starts the shards and returns while they serve. Takes up to 10 s if an address has to be
    /// waited for.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn start(config: ServerConfig) -> Result<Server, ServeError> {
        let runtime = acceptor_runtime()?;
        let running = runtime.block_on(Running::start(&config, None))?;
        running.log();
        let Running {
            acceptor, threads, local_addresses, listeners, asker, keys, mut fatal, ..
        } = running;
        let segment_bytes_max = config.segment_bytes_max;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let result = runtime.block_on(acceptor.run(async move {
                tokio::select! {
                    _ = stopped => {}
                    Some(why) = fatal.recv() => error!("the server ends: fabric: {why}"),
                }
            }));
            if let Err(error) = result {
                warn!(%error, "the acceptor could not start");
            }
            join(threads);
        };
        let acceptor = vital::spawn("acceptor", serve)
            .map_err(|source| ServeError::Start { what: "the acceptor's thread", source })?;
        Ok(Server {
            local_addresses,
            segment_bytes_max,
            keys,
            listeners,
            asker,
            stop: Some(stop),
            acceptor: Some(acceptor),
        })
    }

    /// The first address it was started with, with the port that it really has.
    ///
    /// # Panics
    /// If there was none.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addresses[0]
    }

    /// Listens on one more address, which is not waited for. Returns it with the port that it really has.
    ///
    /// # Errors
    /// [`ServeError::AddressInUse`] or [`ServeError::Bind`].
    pub fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let listener = listener::listen(address, self.segment_bytes_max, &self.keys)?;
        let address = listener.local_addr().unwrap_or(address);
        // Fails only while it shuts down.
        let _ = self.listeners.send(listener);
        Ok(address)
    }

    /// Attaches the node's own route client: from now on `sink` gets its frames, until it returns
    /// false. To be called once, before everything below.
    pub fn attach_client(&self, sink: impl Fn(Feed) -> bool + Send + 'static) {
        self.tell(Letter::Attach(Box::new(sink)));
    }

    /// Connects to a server (name or address, and port), from `local_ip` if given, and connects
    /// again whenever the connection is lost.
    pub fn dial(&self, server: String, local_ip: Option<IpAddr>) -> Arc<ServerState> {
        let state = Arc::<ServerState>::default();
        let order = DialOrder {
            server,
            local_ip,
            segment_bytes_max: self.segment_bytes_max,
            keys: self.keys.clone(),
            state: Arc::clone(&state),
        };
        self.tell(Letter::Dial(order));
        state
    }

    /// Ends what [`Server::dial`] began.
    pub fn hang_up(&self, server: &str) {
        self.tell(Letter::HangUp(server.to_owned()));
    }

    /// Has something done to the core of the node's shard, soon.
    pub fn call(&self, call: impl FnOnce(&mut Shard, Time) + Send + 'static) {
        self.tell(Letter::Call(Box::new(call)));
    }

    /// Asks its shards.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Tells the shard of the node's own route client, which dials its servers too.
    fn tell(&self, letter: Letter) {
        self.asker.tell_first(letter);
    }

    /// All addresses it listens on.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Begins a graceful shutdown; [`Server::join`] waits for its end.
    pub fn shutdown(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Shuts down, if that has not begun, and waits until all threads have ended.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shutdown();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A server whose shards run and whose acceptor is about to.
struct Running {
    acceptor: Acceptor,
    threads: Vec<JoinHandle<()>>,
    local_addresses: Vec<SocketAddr>,
    listeners: mpsc::UnboundedSender<TcpListener>,
    asker: Asker,
    keys: Md5Keys,
    /// For handovers.
    ties: Ties,
    /// Those of the policy's file.
    rules: Option<Arc<AnnouncePolicy>>,
    /// Why it has to end, if it has to.
    fatal: mpsc::UnboundedReceiver<String>,
}

impl Running {
    /// `claimed` is what another process offers, if one does.
    async fn start(
        config: &ServerConfig,
        mut claimed: Option<&mut Claimed>,
    ) -> Result<Running, ServeError> {
        config.judge()?;
        let (rules, policy) = config.policy.load()?;
        probe::probe()?;
        let keys = Md5Keys::read(&config.tcp_md5)?;
        let descriptors = sys::raise_descriptor_limit();
        let mut inherited = Vec::new();
        let mut addresses = config.listen.clone();
        addresses.retain(|address| {
            let socket = claimed.as_mut().and_then(|claimed| claimed.inherit(*address));
            let is_missing = socket.is_none();
            inherited.extend(socket);
            is_missing
        });
        let listeners = match addresses[..] {
            // Of a node that only dials, or all are there.
            [] => inherited,
            _ => {
                let bytes_max = config.segment_bytes_max;
                listener::listen_all(&addresses, bytes_max, &keys, inherited).await?
            }
        };
        let local_addresses: Vec<_> =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let clock =
            claimed.as_ref().map_or_else(Clock::start, |claimed| Clock::continuing(claimed.time()));
        let ledger = Arc::<Ledger>::default();
        let (fatal_sender, fatal) = mpsc::unbounded_channel();
        let fabric = fabric_mailbox(config);
        let takes_over = claimed.is_some();
        let hash_seed = claimed.map_or_else(new_hash_seed, |claimed| claimed.hash_seed);
        let Started { dispatcher, vacated, mut threads, ended } = start_shards(
            config,
            hash_seed,
            policy.as_ref(),
            clock,
            Arc::clone(&ledger),
            fabric.as_ref().map(|(mailbox, _)| mailbox.clone()),
        )?;
        let (fabric, letters) = fabric.unzip();
        let mailboxes = dispatcher.mailboxes();
        match start_fabric(config, clock, letters, mailboxes, fatal_sender, takes_over) {
            Ok(thread) => threads.extend(thread),
            Err(source) => {
                dispatcher.stop();
                join(threads);
                return Err(ServeError::Start { what: "the fabric's thread", source });
            }
        }
        let memory = MemoryWatch::start(config.memory_max, clock, Arc::clone(&ledger))?;
        match descriptors {
            Ok(limit) if !listeners.is_empty() => warn_of_few_descriptors(limit, config.peers_max),
            Ok(_) => {}
            Err(error) => warn!(%error, "the limit of open descriptors stays as it is"),
        }
        let about = About {
            began_at: clock.began_at(),
            local_addresses: local_addresses.clone(),
            connections_max: ConnectionsMax::of(config),
            refused: dispatcher.refused(),
            memory: memory.seen(),
            ledger,
            fabric: fabric.clone(),
        };
        let asker = Asker::new(dispatcher.mailboxes(), about);
        let (more_listeners, more) = mpsc::unbounded_channel();
        let (recesses_sender, recesses) = mpsc::unbounded_channel();
        let truce = Truce::default();
        let ties = Ties {
            clock,
            hash_seed,
            recesses: recesses_sender,
            truce: truce.clone(),
            fabric: fabric.clone(),
            keys: keys.clone(),
        };
        let acceptor = Acceptor {
            listeners,
            dispatcher,
            vacated,
            drain_time: config.drain_time,
            more,
            ended,
            fabric,
            recesses,
            truce,
            _memory: memory,
        };
        let listeners = more_listeners;
        Ok(Running {
            acceptor,
            threads,
            local_addresses,
            listeners,
            asker,
            keys,
            ties,
            rules,
            fatal,
        })
    }

    /// Says that it serves.
    fn log(&self) {
        let shards = self.asker.shards().count();
        if !self.keys.is_empty() {
            info!("connections with addresses of --tcp-md5 are signed (TCP MD5)");
        }
        for address in &self.local_addresses {
            info!(shards, "listening on {address}");
        }
    }
}

/// Of the memory that there may be: what slow peers have still to be told, which is closed beyond that, ...
const QUEUES_PERCENT: u64 = 15;
/// ... and logs, beyond which readers become slow peers.
const LOGS_PERCENT: u64 = 10;

/// Each peer takes one. To be called when everything else has those that it needs.
fn warn_of_few_descriptors(limit: u64, peers_max: u32) {
    /// For what is accepted to be refused, for names to be resolved, and the like.
    const SPARE: u64 = 8;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    let fitting = limit.saturating_sub(open + SPARE);
    if fitting < u64::from(peers_max) {
        warn!(
            "descriptors: {limit} allow about {fitting} peers, --peers-max is {peers_max}: raise `ulimit -n` \
             (systemd: LimitNOFILE)"
        );
    }
}

/// Shards that run, and what the acceptor gives them sockets by.
struct Started {
    dispatcher: Dispatcher,
    vacated: Vacated,
    threads: Vec<JoinHandle<()>>,
    /// Yields None when all have ended.
    ended: mpsc::UnboundedReceiver<()>,
}

/// Starts all shards and waits until each has its ring. Those already started end when one fails.
fn start_shards(
    config: &ServerConfig,
    hash_seed: [u64; 4],
    policy: Option<&Arc<Policy>>,
    clock: Clock,
    ledger: Arc<Ledger>,
    fabric: Option<mpsc::UnboundedSender<Letter>>,
) -> Result<Started, ServeError> {
    // With a fabric one mailbox more has to have a number.
    let shards = shard_count(config.cores).min(CORES_MAX - u16::from(fabric.is_some()));
    let budget_bytes = config.memory_max.budget_bytes();
    let (handles, mailboxes): (Vec<_>, Vec<_>) = (0..shards)
        .map(|_| {
            let (mailbox, receiver) = mpsc::unbounded_channel();
            let peers = Default::default();
            (ShardHandle { mailbox, peers }, receiver)
        })
        .unzip();
    let (end, ended) = mpsc::unbounded_channel();
    let (ready, readiness) = std_mpsc::channel();
    let mut threads = Vec::new();
    let mut started = Ok(());
    for (index, mailbox) in (0..shards).zip(mailboxes) {
        let start = ThreadStart {
            shard: shard_config(
                config,
                (ShardId(index), hash_seed),
                shards,
                policy.cloned(),
                budget_bytes,
                Arc::clone(&ledger),
            ),
            clock,
            mailbox,
            // The fabric is behind them.
            shards: handles.iter().map(|it| it.mailbox.clone()).chain(fabric.clone()).collect(),
            peers: handles[usize::from(index)].peers.clone(),
            ready: ready.clone(),
            ended: end.clone(),
        };
        match vital::spawn(format!("shard-{index}"), move || turns::run(start)) {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                started = Err(ServeError::Start { what: "a shard's thread", source });
                break;
            }
        }
    }
    drop((ready, end));
    for result in readiness.iter().take(threads.len()) {
        if let Err(error) = result {
            started = Err(probe::explain(&error).into());
        }
    }
    if let Err(error) = started {
        for shard in &handles {
            let _ = shard.mailbox.send(Letter::Stop);
        }
        join(threads);
        return Err(error);
    }
    let (door, vacated) = Door::new(config, ledger);
    Ok(Started { dispatcher: Dispatcher::new(handles, door), vacated, threads, ended })
}

/// Random, so that nobody can choose routes that collide. A RandomState is seeded by the system.
fn new_hash_seed() -> [u64; 4] {
    std::array::from_fn(|at| RandomState::new().hash_one(at))
}

fn shard_count(cores: u16) -> u16 {
    if cores > 0 {
        return cores;
    }
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cpus).unwrap_or(u16::MAX).min(CORES_MAX)
}

fn shard_config(
    config: &ServerConfig,
    (id, hash_seed): (ShardId, [u64; 4]),
    shards: u16,
    policy: Option<Arc<Policy>>,
    budget_bytes: Option<u64>,
    ledger: Arc<Ledger>,
) -> ShardConfig {
    ShardConfig {
        id,
        shards,
        hash_seed,
        keepalive_interval_s: config.keepalive_interval_s,
        reflect_own: config.reflect_own,
        pace: config.pace,
        limits: within(config.limits, budget_bytes, u64::from(shards)),
        stale_time: config.stale_time,
        budgets: Budgets::default(),
        policy,
        ledger,
        fabric: identity(config),
    }
}

/// The limits of one of so many shards: what is kept for slow peers fits into the memory that there is.
fn within(limits: Limits, budget_bytes: Option<u64>, shards: u64) -> Limits {
    let part = |percent: u64| budget_bytes.map_or(u64::MAX, |bytes| bytes / 100 * percent / shards);
    let log_bytes_max = usize::try_from(part(LOGS_PERCENT)).unwrap_or(usize::MAX);
    Limits {
        queue_bytes_max: (limits.queue_bytes_max / shards).min(part(QUEUES_PERCENT)),
        log_bytes_max: limits.log_bytes_max.min(log_bytes_max),
        ..limits
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A shard that panics ends the process, so there is no error to see here.
        let _ = thread.join();
    }
}
