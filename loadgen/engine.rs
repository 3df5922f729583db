//! The run as a whole: the shards' threads, the server, and the waits between them.
//!
//! Owns every wait of a run; each has a limit, and says what it waited for. Must never touch a peer: shards do.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use metalbond_uring::types::Action;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::child::Reflector;
use crate::clock::{Clock, seconds};
use crate::hostile::Deeds;
use crate::latency::Latency;
use crate::peer::{AtOnce, Part};
use crate::plan::{PeerSet, Plan};
use crate::progress::Progress;
use crate::restart::Restart;
use crate::shard::{self, CheckReply, Command};
use crate::shared::{Behaviour, Counts, Shared};
use crate::stage::{Recorder, Upgrade};
use crate::stream::Stream;
use crate::upgrade::{self, Meeting};

/// How often a wait looks at the counters.
const POLL: Duration = Duration::from_millis(2);
/// Without deliveries for so long, views are compared even if not all expected updates have come.
const QUIET_NS: u64 = 100_000_000;
/// How long a shard may take for an answer.
const SHARD_LIMIT: Duration = Duration::from_secs(30);
/// How long a reflector may take between closing its connections and its end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long views may stay wrong without a delivery when updates were wrong, too.
const HOPELESS_S: f64 = 1.0;
/// The longest that one wait may take beyond its plan, whatever moves.
const WAIT_LIMIT_S: f64 = 600.0;

/// The server that a run is about.
pub struct Server {
    /// The reflector that loadgen started, if it did.
    pub child: Option<Reflector>,
    /// One more beside it, for comparison.
    pub other: Option<Reflector>,
    /// Its flags, for starting it again; without `--listen`.
    pub flags: Vec<String>,
    /// Where it is; or where they are, of `--targets`.
    pub targets: Vec<SocketAddr>,
    /// Its process, if known.
    pub pid: Option<u32>,
    /// Where it and its successor meet; to go last.
    pub _meeting: Option<Meeting>,
}

/// A run: shards that obey, a server that is watched, and stages that are recorded.
pub struct Engine {
    shared: Arc<Shared>,
    commands: Vec<UnboundedSender<Command>>,
    server: Server,
    patience_s: f64,
    recorder: Recorder,
    progress: Progress,
}

impl Engine {
    /// Starts the shards.
    ///
    /// # Errors
    /// If a thread or its ring cannot be had.
    pub fn start(
        plan: Plan,
        behaviour: Behaviour,
        server: Server,
        shards: usize,
        patience_s: f64,
        progress: Progress,
    ) -> anyhow::Result<Engine> {
        let shared = Arc::new(Shared::new(plan, Clock::start(), behaviour, shards));
        let (ready, readiness) = mpsc::channel::<io::Result<()>>();
        let mut commands = Vec::new();
        for index in 0..shards {
            let (sender, receiver) = unbounded_channel();
            let (shared, ready) = (Arc::clone(&shared), ready.clone());
            std::thread::Builder::new()
                .name(format!("loadgen-{index}"))
                .spawn(move || shard::run(index, shared, receiver, &ready))
                .context("cannot start a thread")?;
            commands.push(sender);
        }
        for _ in 0..shards {
            let ring = readiness.recv_timeout(SHARD_LIMIT).context("a thread did not start")?;
            ring.map_err(|error| metalbond_uring::internals::io::explain(&error))?;
        }
        let recorder = Recorder::new(Arc::clone(&shared), server.pid);
        Ok(Engine { shared, commands, server, patience_s, recorder, progress })
    }

    /// The shape of the run.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// How many deliveries bring what these peers announce at the moment to all others but `without`.
    pub fn announced_deliveries(&self, peers: &[u32], without: &[u32]) -> u64 {
        let announced = |first_bit, routes| self.shared.announced_among(first_bit, routes);
        self.plan().deliveries_of(peers, without, announced)
    }

    /// The clock, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// The name of the stages' scenario.
    pub fn scenario(&mut self, name: &'static str) {
        self.recorder.scenario(name);
    }

    /// Where the server is, or the first of several.
    pub fn target(&self) -> SocketAddr {
        self.server.targets[0]
    }

    /// The place of the last server in `--targets`.
    pub fn last_home(&self) -> u16 {
        self.server.targets.len() as u16 - 1
    }

    /// Where another server is, on the same CPU, if loadgen has started one.
    pub fn other_target(&self) -> Option<SocketAddr> {
        self.server.other.as_ref().map(Reflector::address)
    }

    /// Adds what hostile peers have done so far in this stage.
    pub fn hostile(&mut self, deeds: Deeds) {
        self.recorder.hostile(deeds);
    }

    /// Adds what spoils the stage's figures.
    pub fn warn(&mut self, warning: &str) {
        self.recorder.warn(warning.to_owned());
    }

    /// Begins a stage that should bring this many deliveries.
    pub fn begin(&mut self, name: &str, deliveries: u64) {
        self.tell(|| Command::CountShares);
        self.recorder.begin(name, deliveries);
        self.progress.begin(name, deliveries);
    }

    /// Ends the stage: all went well.
    pub fn end(&mut self) {
        if let Some(stage) = self.recorder.end(None) {
            self.progress.end(stage);
        }
    }

    /// Ends the stage that failed, if one has begun.
    pub fn fail(&mut self, reason: &str) {
        if let Some(stage) = self.recorder.end(Some(reason)) {
            self.progress.end(stage);
        }
    }

    /// What was recorded, and what was found.
    pub fn finish(self) -> (Recorder, Vec<String>) {
        self.shared.over.store(true, Ordering::Relaxed);
        (self.recorder, self.shared.findings())
    }

    /// Tells all shards.
    pub fn tell(&self, command: impl Fn() -> Command) {
        for shard in &self.commands {
            // Fails only if a shard's thread has ended: the wait that follows says so.
            let _ = shard.send(command());
        }
    }

    /// Connects peers and waits until all are established.
    ///
    /// # Errors
    /// If not all are in time.
    pub fn connect(&mut self, peers: &PeerSet, at_once: AtOnce) -> anyhow::Result<()> {
        let before = self.shared.counts();
        self.tell(|| Command::Connect(Arc::clone(peers), at_once));
        let wanted = self.plan().connections(peers);
        self.wait(0.0, |counts| {
            let done = counts.established - before.established;
            (done >= wanted)
                .then_some(())
                .ok_or(format!("{done} of {wanted} peers to be established"))
        })?;
        self.recorder.peers(self.connected());
        Ok(())
    }

    /// Closes connections and waits until they are; their routes are gone.
    ///
    /// # Errors
    /// If they are not in time.
    pub fn disconnect(&mut self, peers: &PeerSet) -> anyhow::Result<()> {
        let before = self.shared.counts();
        self.shared.withdraw_all(peers);
        self.tell(|| Command::Disconnect(Arc::clone(peers)));
        self.wait_left(&before, self.plan().connections(peers))
    }

    /// Kills the reflector that loadgen started, and starts it again; without one, closes all
    /// connections. Returns when all connections are gone.
    ///
    /// # Errors
    /// If it does not start again, or connections stay.
    pub fn restart(&mut self, peers: &PeerSet) -> anyhow::Result<()> {
        if self.server.child.is_none() {
            return self.disconnect(peers);
        }
        let before = self.shared.counts();
        self.shared.withdraw_all(peers);
        self.tell(|| Command::ExpectClose(Arc::clone(peers)));
        // The shards must have taken that in before connections break.
        self.check()?;
        drop(self.server.child.take());
        self.wait_left(&before, self.plan().connections(peers))?;
        let child = Reflector::start(self.target(), &self.server.flags)?;
        self.server.pid = Some(child.pid());
        self.recorder.watch(self.server.pid);
        self.server.child = Some(child);
        Ok(())
    }

    /// Starts another reflector beside loadgen's own, with this many shards, and waits until it has taken over
    /// and the old one has ended as it should.
    ///
    /// # Errors
    /// If that does not come to pass, or a connection is lost.
    pub fn upgrade(&mut self, cores: u32) -> anyhow::Result<()> {
        let mut old = self.server.child.take().context("there is no reflector of loadgen's own")?;
        let begun_ns = self.now_ns();
        let flags = upgrade::with_cores(&self.server.flags, cores);
        let mut new = Reflector::begin(self.target(), &flags)?;
        self.recorder.watch_also(new.pid());
        if let Err(error) = self.wait_taken_over(&mut old, &mut new, begun_ns) {
            // It serves on, or said why it does not: no peer is to be lost on top of that.
            self.server.child = Some(old);
            return Err(error);
        }
        let (gone, told) =
            (self.recorder.watch_no_more(old.pid()), old.line_with(upgrade::HANDED_OVER));
        self.recorder.upgrade(Upgrade {
            cores,
            took_s: seconds(self.now_ns() - begun_ns),
            told_pause_ms: told.as_deref().and_then(upgrade::told_ms),
            old_rss_bytes_peak: gone.and_then(|gone| gone.rss_bytes_peak),
            new_rss_bytes_peak: self.recorder.rss_bytes_peak(new.pid()),
        });
        (self.server.pid, self.server.child) = (Some(new.pid()), Some(new));
        Ok(())
    }

    fn wait_taken_over(
        &mut self,
        old: &mut Reflector,
        new: &mut Reflector,
        begun_ns: u64,
    ) -> anyhow::Result<()> {
        let (mut has_ended, mut listens) = (false, false);
        while !(has_ended && listens) {
            has_ended = old.has_finished().context("the old reflector")?;
            listens = listens || new.listens(Duration::ZERO).context("the new reflector")?;
            self.poll()?;
            let waited_s = seconds(self.now_ns() - begun_ns);
            if waited_s > self.patience_s {
                let what =
                    if listens { "the old reflector to end" } else { "the new one to listen" };
                bail!("gave up after {waited_s:.0} s of waiting for {what}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// From now on connections to the last server may end, since somebody restarts it, and peers come back to it.
    pub fn expect_restart(&mut self, duration_s: f64) {
        let home = self.last_home();
        let target = self.server.targets[usize::from(home)];
        let restart = Restart::of(self.plan(), home);
        assert!(self.shared.restart.set(restart).is_ok(), "one server is restarted in a run");
        self.progress
            .note(&format!("restart the server at {target} now: updates flow for {duration_s} s"));
    }

    /// Waits until all these peers are back at the server that was restarted.
    ///
    /// # Errors
    /// If nobody restarted it, or not all come back in time.
    pub fn wait_returned(&mut self, peers: u64) -> anyhow::Result<()> {
        let target = self.server.targets[usize::from(self.last_home())];
        if self.shared.counts().dropped == 0 {
            bail!(
                "the server at {target} was not restarted: none of its {peers} connections ended while updates \
                 flowed; a longer --duration-s"
            );
        }
        self.wait(0.0, |counts| {
            let back = counts.returned;
            (back >= peers)
                .then_some(())
                .ok_or(format!("{back} of {peers} peers to be back at {target}"))
        })
    }

    /// Lets peers subscribe to all their VNIs; returns at once.
    pub fn subscribe(&self, peers: &PeerSet) {
        self.tell(|| Command::Subscribe(Arc::clone(peers)));
    }

    /// Waits until the server has answered a KEEPALIVE of each peer, so that it has read all before.
    ///
    /// # Errors
    /// If not all are answered in time.
    pub fn barrier(&mut self, peers: &PeerSet) -> anyhow::Result<()> {
        let before = self.shared.counts();
        self.tell(|| Command::Barrier(Arc::clone(peers)));
        let wanted = self.plan().connections(peers);
        self.wait(0.0, |counts| {
            let done = counts.barriers - before.barriers;
            (done >= wanted)
                .then_some(())
                .ok_or(format!("{done} of {wanted} KEEPALIVEs to be answered"))
        })
    }

    /// Lets peers announce or withdraw all their routes, and waits until all is sent: as fast as the
    /// server takes it, or at a rate.
    ///
    /// # Errors
    /// If the server does not take it in time.
    pub fn announce(
        &mut self,
        peers: &PeerSet,
        action: Action,
        rate_per_s: Option<f64>,
    ) -> anyhow::Result<()> {
        if let Some(rate_per_s) = rate_per_s {
            let updates = peers.iter().map(|&peer| self.plan().routes_of(peer)).sum();
            let stream = Stream {
                announcers: Arc::clone(peers),
                rate_per_s,
                start_ns: self.now_ns(),
                updates,
                routes_each: u32::MAX,
            };
            return self.stream(stream);
        }
        self.announce_part(peers, action, Part::All)
    }

    /// Lets peers announce or withdraw a part of their routes as fast as the server takes it, and waits until
    /// all is sent.
    ///
    /// # Errors
    /// If the server does not take it in time.
    pub fn announce_part(
        &mut self,
        peers: &PeerSet,
        action: Action,
        part: Part,
    ) -> anyhow::Result<()> {
        let before = self.shared.counts();
        self.tell(|| Command::Announce(Arc::clone(peers), action, part));
        let wanted = self.plan().connections(peers);
        self.wait(0.0, |counts| {
            let done = counts.jobs - before.jobs;
            (done >= wanted)
                .then_some(())
                .ok_or(format!("{done} of {wanted} peers to send their routes"))
        })
    }

    /// Sends updates on a schedule, and waits until all are sent.
    ///
    /// # Errors
    /// If that takes much longer than the schedule.
    pub fn stream(&mut self, stream: Stream) -> anyhow::Result<()> {
        self.stream_amid(stream, |_| Ok(()))
    }

    /// The same, while something else is done.
    ///
    /// # Errors
    /// Those of both.
    pub fn stream_amid(
        &mut self,
        stream: Stream,
        other: impl FnOnce(&mut Engine) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let before = self.shared.counts();
        let planned_s = stream.updates as f64 / stream.rate_per_s;
        let stream = Arc::new(stream);
        self.tell(|| Command::Stream(Arc::clone(&stream)));
        other(self)?;
        let wanted = self.commands.len() as u64;
        self.wait(planned_s, |counts| {
            let (done, sent) = (counts.streams - before.streams, counts.sent - before.sent);
            let updates = stream.updates;
            (done >= wanted)
                .then_some(())
                .ok_or(format!("{sent} of {updates} scheduled updates to be sent"))
        })
    }

    /// Begins to measure latencies.
    pub fn measure(&self) {
        self.tell(|| Command::Measure(None));
    }

    /// Ends measuring, and adds what was measured to the stage.
    ///
    /// # Errors
    /// If a shard does not answer.
    pub fn measured(&mut self) -> anyhow::Result<()> {
        let mut sum = Latency::new();
        for latency in self.ask(|reply| Command::Measure(Some(reply)))? {
            sum.add(&latency);
        }
        self.recorder.latency(sum);
        Ok(())
    }

    /// Waits for this long, while the server is watched.
    ///
    /// # Errors
    /// If a connection is lost meanwhile.
    pub fn rest(&mut self, duration_s: f64) -> anyhow::Result<()> {
        let until_ns = self.now_ns() + (duration_s * 1e9) as u64;
        let clock = self.shared.clock;
        self.wait(duration_s, |_| {
            (clock.now_ns() >= until_ns).then_some(()).ok_or("time to pass".to_owned())
        })
    }

    /// Waits until every established peer has exactly the routes that it should have.
    ///
    /// # Errors
    /// If they do not get there, with the first differences.
    pub fn converge(&mut self) -> anyhow::Result<()> {
        let expected = self.recorder.expected_deliveries();
        let mut last = (Counts::default(), self.now_ns());
        let mut checked_ns = 0;
        let begun_ns = self.now_ns();
        loop {
            self.poll()?;
            let counts = self.recorder.counts();
            let now_ns = self.now_ns();
            let moved =
                (counts.deliveries, counts.faults()) != (last.0.deliveries, last.0.faults());
            if moved {
                last = (counts, now_ns);
            }
            let quiet_ns = now_ns - last.1;
            let due = counts.deliveries >= expected || quiet_ns > QUIET_NS;
            if due && now_ns - checked_ns > QUIET_NS / 4 {
                let reply = self.check()?;
                checked_ns = self.now_ns();
                if reply.peers == 0 {
                    self.recorder.shares(reply.shares);
                    return Ok(());
                }
                let waited_s = seconds(now_ns - begun_ns);
                // What was damaged or lost on the way does not come again.
                let hopeless = counts.damage() > 0 && seconds(quiet_ns) > HOPELESS_S;
                if hopeless || seconds(quiet_ns) > self.patience_s || waited_s > WAIT_LIMIT_S {
                    self.recorder.difference(&reply.difference);
                    return Err(not_converged(&reply, seconds(quiet_ns)));
                }
            }
            std::thread::sleep(POLL);
        }
    }

    /// Compares all views now.
    ///
    /// # Errors
    /// If a shard does not answer.
    pub fn check(&self) -> anyhow::Result<CheckReply> {
        let mut sum = CheckReply::default();
        for reply in self.ask(Command::Check)? {
            sum.peers += reply.peers;
            sum.difference.merge(&reply.difference);
            sum.first.extend(reply.first);
            sum.shares.extend(reply.shares);
        }
        Ok(sum)
    }

    fn connected(&self) -> u64 {
        let counts = self.shared.counts();
        let gone = counts.left + counts.lost + counts.resets + counts.dropped;
        counts.established.saturating_sub(gone)
    }

    fn wait_left(&mut self, before: &Counts, wanted: u64) -> anyhow::Result<()> {
        let before = *before;
        let result = self.wait(0.0, |counts| {
            let done = counts.left - before.left;
            (done >= wanted).then_some(()).ok_or(format!("{done} of {wanted} connections to end"))
        });
        self.recorder.peers(self.connected());
        result
    }

    fn ask<R>(&self, command: impl Fn(mpsc::Sender<R>) -> Command) -> anyhow::Result<Vec<R>> {
        let (reply, replies) = mpsc::channel();
        self.tell(|| command(reply.clone()));
        (0..self.commands.len())
            .map(|_| {
                replies
                    .recv_timeout(SHARD_LIMIT)
                    .context("waited 30 s for a thread of loadgen to answer")
            })
            .collect()
    }

    /// Waits until `done`. While it is not, it says in words what is waited for. Gives up when nothing
    /// has moved for the patience beyond `planned_s`.
    fn wait(
        &mut self,
        planned_s: f64,
        done: impl Fn(&Counts) -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let begun_ns = self.now_ns();
        let (mut last, mut moved_ns) = (self.shared.counts().advance(), begun_ns);
        loop {
            let counts = self.poll()?;
            let Err(waiting) = done(&counts) else {
                return Ok(());
            };
            let now_ns = self.now_ns();
            if counts.advance() != last {
                (last, moved_ns) = (counts.advance(), now_ns);
            }
            let (waited_s, still_s) = (seconds(now_ns - begun_ns), seconds(now_ns - moved_ns));
            let late = waited_s > planned_s + self.patience_s;
            if late && (still_s > self.patience_s || waited_s > planned_s + WAIT_LIMIT_S) {
                bail!(
                    "gave up after {waited_s:.0} s of waiting for {waiting}; is the server stuck or overloaded?"
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Looks at everything once: counters, costs, progress, the health of the server.
    fn poll(&mut self) -> anyhow::Result<Counts> {
        self.recorder.sample();
        self.progress.update(&self.recorder.counts());
        let counts = self.shared.counts();
        // Where connections broke, the end of the reflector is the reason, and is seen a little later.
        let limit = if counts.lost > 0 { END_LIMIT } else { Duration::ZERO };
        if let Some(words) = self.server.child.as_mut().and_then(|child| child.ended(limit)) {
            bail!(words);
        }
        if counts.lost > 0 {
            let first = self.shared.findings();
            let lost = counts.lost;
            let plural = if lost == 1 { "connection was" } else { "connections were" };
            return Err(anyhow!("{lost} {plural} lost; first: {}", first.join("; ")));
        }
        Ok(counts)
    }
}

fn not_converged(reply: &CheckReply, quiet_s: f64) -> anyhow::Error {
    let peers = if reply.peers == 1 { "peer has" } else { "peers have" };
    anyhow!(
        "{} {peers} not what they should: {} routes missing, {} that should be gone, and nothing came \
         for {quiet_s:.0} s. First: {}",
        reply.peers,
        reply.difference.missing,
        reply.difference.stale,
        reply.first.join("; ")
    )
}
