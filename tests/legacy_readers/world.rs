//! One run of a case: a server, an announcer, and its readers, until all views are right or the case has failed.
//!
//! Owns what is announced and when. Must never wait without a deadline.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::common::process::Process;
use crate::common::{self, Peer};
use crate::net::Network;
use crate::reader::{self, Counts, Fed, Field, View};
use crate::rng::Rng;
use crate::sys;
use crate::table::route;

/// How often the views are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long bursts go on, at least: half of the time that a reader needs.
const BURSTS: Duration = Duration::from_millis(2_000);
const STOP_AFTER: Duration = Duration::from_millis(700);
const STOP: Duration = Duration::from_secs(1);
/// Two CPUs have to take them all.
const BURST_DELIVERIES_MAX: usize = 250_000;
const STREAM_PER_S: f64 = 2_000.0;
const FINDINGS_SHOWN: usize = 3;

/// What became of a run.
#[derive(Clone, Default, Debug)]
pub struct Outcome {
    pub misaligned: u64,
    pub overruns: u64,
    pub hold_expiries: u64,
    pub closed_by_server: u64,
    pub redundant: u64,
    /// What was not as it should be at the deadline, in words.
    pub unfinished: Option<String>,
    pub findings: Vec<String>,
    pub wall: Duration,
    /// The readers' shares of what they can take of the table, on this way, ascending.
    pub shares: Vec<f64>,
    /// What it is that can give no more.
    pub limit: Option<Limit>,
    pub updates: u64,
    pub server_cpu: Duration,
}

/// What was at its end when readers got less than they can take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// The server's one shard had work for more than 80 % of the time.
    Shard,
    /// Server or readers waited for a CPU for more than 10 % of the time.
    Machine,
}

impl Outcome {
    /// Whether a Go client would have survived it, without a new session, and ended right.
    pub fn held(&self) -> bool {
        let lost = self.hold_expiries + self.closed_by_server;
        self.misaligned + self.overruns + lost == 0 && self.unfinished.is_none()
    }
}

/// Runs a case on this thread, which is lost for anything else: it stays in the run's namespace.
///
/// # Errors
/// Why it has to be skipped.
pub fn run(case: &Case) -> Result<Outcome, String> {
    let network = Network::new(case)?;
    let keepalive = format!("--keepalive={}", case.keepalive_s);
    let mut flags =
        vec![&keepalive, "--cores=1", "--peers-max=4000", "--routes-per-peer-max=1000000"];
    if case.long_segments {
        flags.push("--mss=auto");
    }
    let server = Process::serve_at("[::]:0", &flags);
    let port = server.address().port();
    let field = Field {
        case: case.clone(),
        server: SocketAddr::new(network.server, port),
        begun: Instant::now(),
        over: AtomicBool::new(false),
        stopped_until_ns: AtomicU64::new(0),
        hushed: AtomicBool::new(false),
        findings: Vec::new().into(),
        readers: (0..case.readers).map(|_| Counts::default()).collect(),
    };
    let announcer_at = SocketAddr::new(network.beside_server, port);
    let mut announcer = Announcer::new(announcer_at, case);
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        let (field, network) = (&field, &network);
        let start = || {
            for number in 0..case.readers {
                let thread = std::thread::Builder::new().name(format!("reader-{number}"));
                let body = move || {
                    network.enter();
                    reader::live(field, number);
                };
                thread.stack_size(128 << 10).spawn_scoped(scope, body).unwrap();
            }
        };
        if case.early {
            start();
            std::thread::sleep(Duration::from_millis(100));
        }
        announcer.announce_all(case.routes);
        if !case.early {
            start();
        }
        if let Some(fall) = case.falls {
            let body = move || {
                while field.updates() < fall.after_updates && !field.is_over() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                network.fall(fall.to);
            };
            std::thread::Builder::new().name("fall".into()).spawn_scoped(scope, body).unwrap();
        }
        let mut load = Load::new(server.id());
        outcome.unfinished = drive(field, &mut announcer, &mut load);
        outcome.wall = field.begun.elapsed();
        outcome.server_cpu = Duration::from_nanos(load.since_begin().0);
        outcome.limit = load.limit(field);
        field.over.store(true, Ordering::Relaxed);
    });
    if let Some(words) = &mut outcome.unfinished {
        *words += &format!("; the server: {}", last_lines(&server.log()));
    }
    let sum = |of: fn(&Counts) -> &AtomicU64| {
        field.readers.iter().map(|reader| of(reader).load(Ordering::Relaxed)).sum()
    };
    outcome.misaligned = sum(|reader| &reader.misaligned);
    outcome.overruns = sum(|reader| &reader.overruns);
    outcome.hold_expiries = sum(|reader| &reader.hold_expiries);
    outcome.closed_by_server = sum(|reader| &reader.closed_by_server);
    outcome.redundant = sum(|reader| &reader.redundant);
    outcome.updates = field.updates();
    let least_ns = case.free_reader_needs().max(case.way_needs()).as_nanos() as u64;
    let share = |fed: Fed| fed.busy_ns.max(least_ns) as f64 / fed.passed_ns.max(1) as f64;
    outcome.shares = field.fed().map(|fed| share(fed).min(1.0)).collect();
    outcome.shares.sort_by(f64::total_cmp);
    outcome.findings = field.findings.into_inner().unwrap();
    outcome.findings.truncate(FINDINGS_SHOWN);
    if outcome.closed_by_server > 0 && outcome.unfinished.is_none() {
        outcome.findings.push(format!("the server: {}", last_lines(&server.log())));
    }
    Ok(outcome)
}

/// Announces what the case says besides, and waits until all views are right. Says what is not, if the deadline
/// comes or a reader did not survive.
fn drive(field: &Field, announcer: &mut Announcer, load: &mut Load) -> Option<String> {
    let case = &field.case;
    let begun = Instant::now();
    let (mut stopped, mut streamed) = (!case.stopped, 0);
    let mut next_burst = begun;
    let busy =
        if case.stopped { STOP_AFTER + STOP + STOP / 2 } else { BURSTS.max(case.needs() / 2) };
    let mut right_since = None;
    loop {
        let passed = begun.elapsed();
        let changing = (case.bursts || case.stopped) && passed < busy;
        if case.stopped && changing {
            let due = (passed.as_secs_f64() * STREAM_PER_S) as usize;
            announcer.turn(due - streamed);
            streamed = due;
        }
        if case.bursts && changing && next_burst.elapsed() > Duration::ZERO {
            next_burst += announcer.burst();
        }
        if !stopped && passed > STOP_AFTER {
            stopped = true;
            let until = field.begun.elapsed() + STOP;
            field.stopped_until_ns.store(until.as_nanos() as u64, Ordering::Relaxed);
        }
        announcer.keep_alive();
        load.look(field);
        let broken = |reader: &Counts| {
            reader.misaligned.load(Ordering::Relaxed) + reader.overruns.load(Ordering::Relaxed) > 0
        };
        if field.readers.iter().any(broken) {
            return None;
        }
        let wrong = if changing { None } else { announcer.wrong(field) };
        let may_talk = case.talk.is_some() && !field.hushed.load(Ordering::Relaxed);
        match wrong {
            // All have the table: what readers announce beside it is looked at when they are silent.
            None if !changing && may_talk => field.hushed.store(true, Ordering::Relaxed),
            // What comes too much, or in pieces, comes within a moment.
            None if !changing => {
                if right_since.get_or_insert_with(Instant::now).elapsed() > 3 * LOOK {
                    return None;
                }
            }
            _ => right_since = None,
        }
        if passed > case.deadline() {
            let words = wrong.unwrap_or_default();
            return Some(format!("after {:.0} s {words}", passed.as_secs_f64()));
        }
        std::thread::sleep(if case.stopped && changing { LOOK / 10 } else { LOOK });
    }
}

/// Who announces the table: a peer that puts frames together, beside the server.
struct Announcer {
    peer: Peer,
    announced: View,
    routes: usize,
    turned: usize,
    burst_max: usize,
    rng: Rng,
    next_keepalive: Instant,
}

impl Announcer {
    fn new(server: SocketAddr, case: &Case) -> Announcer {
        let mut peer = Peer::established(server, case.keepalive_s, true);
        peer.recording = false;
        let rng = Rng::new(case.seed ^ 0xA11);
        let (announced, next_keepalive) = (View::default(), Instant::now());
        Announcer {
            peer,
            announced,
            routes: case.routes,
            turned: 0,
            burst_max: (BURST_DELIVERIES_MAX / case.readers).min(case.live_per_s_max() / 4),
            rng,
            next_keepalive,
        }
    }

    /// Announces the table; the server has it when this returns.
    fn announce_all(&mut self, routes: usize) {
        for first in (0..routes).step_by(1_000) {
            let mut bytes = Vec::new();
            for number in first..routes.min(first + 1_000) {
                self.announced.set(number, true);
                bytes.extend(common::add(&route(number)));
            }
            self.peer.send(&bytes);
        }
        self.peer.barrier();
    }

    /// Withdraws or announces some routes, in turn.
    fn turn(&mut self, count: usize) {
        let mut bytes = Vec::new();
        for _ in 0..count {
            // Not in order, and each one rests for a while.
            let number = self.turned * 7919 % self.routes;
            self.turned += 1;
            let adds = self.announced.set(number, true);
            if !adds {
                self.announced.set(number, false);
            }
            let route = route(number);
            bytes.extend(if adds { common::add(&route) } else { common::remove(&route) });
        }
        self.peer.send(&bytes);
    }

    /// A burst; returns how long until the next one.
    fn burst(&mut self) -> Duration {
        let count = [100, 500, 2_000, 5_000][self.rng.below(4)].min(self.burst_max);
        self.turn(count);
        Duration::from_millis(20 + self.rng.below(300) as u64)
    }

    fn keep_alive(&mut self) {
        if self.next_keepalive <= Instant::now() {
            self.next_keepalive = Instant::now() + Duration::from_secs(1);
            self.peer.send(&common::keepalive());
            self.peer.settle(Duration::from_millis(1));
            assert!(!self.peer.closed, "the server closed the announcer's connection");
        }
    }

    /// Whose views are wrong, in words; None if all are right. As long as readers announce, it is the table that
    /// counts.
    fn wrong(&self, field: &Field) -> Option<String> {
        let case = &field.case;
        let end = if field.hushed.load(Ordering::Relaxed) { usize::MAX } else { self.routes };
        let mut should = View { bits: self.announced.bits.clone(), ..View::default() };
        for (number, reader) in field.readers.iter().enumerate() {
            let (talk, first) =
                (reader.talk.load(Ordering::Relaxed), reader::first_own(case, number));
            for bit in (0..8).filter(|bit| talk >> bit & 1 != 0) {
                should.set(first + bit, true);
            }
        }
        let wrong = field.readers.iter().enumerate().filter_map(|(number, reader)| {
            let view = reader.view.lock().unwrap();
            let is_right = view.equals(&should, end, Some(reader::first_own(case, number)));
            (!is_right).then_some(view.present)
        });
        let wrong: Vec<usize> = wrong.collect();
        let (of, should) = (field.readers.len(), self.announced.present);
        let (least, most) = (wrong.iter().min()?, wrong.iter().max()?);
        let count = wrong.len();
        Some(format!(
            "{count} of {of} views are wrong: {least} to {most} routes instead of {should}, and what readers announce"
        ))
    }
}

/// What the machine gave while the readers were fed.
struct Load {
    server: u32,
    begun: (Instant, (u64, u64)),
    /// When all had been fed.
    fed: Option<(Instant, (u64, u64))>,
}

impl Load {
    fn new(server: u32) -> Load {
        Load { server, begun: (Instant::now(), sys::schedule_of(server)), fed: None }
    }

    /// Looks whether all are fed.
    fn look(&mut self, field: &Field) {
        if self.fed.is_none() && field.fed().count() == field.readers.len() {
            self.fed = Some((Instant::now(), sys::schedule_of(self.server)));
        }
    }

    /// Nanoseconds of the server on a CPU, and waiting for one.
    fn since_begin(&self) -> (u64, u64) {
        let (now, begun) = (sys::schedule_of(self.server), self.begun.1);
        (now.0 - begun.0, now.1 - begun.1)
    }

    fn limit(&self, field: &Field) -> Option<Limit> {
        let (at, (ran_ns, waited_ns)) = self.fed?;
        let passed_ns = at.duration_since(self.begun.0).as_nanos() as f64;
        let (ran, waited) = ((ran_ns - self.begun.1.0) as f64, (waited_ns - self.begun.1.1) as f64);
        let (waits_ns, times_ns) =
            field.fed().fold((0, 0), |sum, fed| (sum.0 + fed.waited_ns, sum.1 + fed.passed_ns));
        let readers_waited = waits_ns as f64 > 0.1 * times_ns as f64;
        if ran + waited > 0.8 * passed_ns {
            return Some(Limit::Shard);
        }
        (waited > 0.1 * passed_ns || readers_waited).then_some(Limit::Machine)
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
