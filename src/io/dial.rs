//! Connections that this node makes: to servers, again and again, for as long as it wants them.
//!
//! Owns attempts, their limits and the pauses between them. Must never have two connections to one
//! server at a time.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::connection;
use super::dialled::{Dial, DialOrder};
use super::listener;
use super::worker::Worker;
use crate::session::{CloseReason, State};
use crate::shard::SessionEnd;
use crate::types::HostPort;
use crate::vital;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between later attempts: this, and up to as much again.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The first pauses after a loss or a failure, and up to half as much again.
const QUICK_RETRIES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];
/// A session that lasts shorter counts as a failure.
const STANDS_TIME: Duration = Duration::from_secs(60);
/// Failures in a row that have a line each; of later ones every power of two.
const FAILURES_LOGGED: u32 = 6;

/// Connects, waits for the connection's end, and begins anew, until cancelled.
///
/// A connection is no success, a session that stands is: so the server's addresses are tried in turn until
/// one of them has given such a session. After its loss that one is tried first.
pub(super) async fn dial_loop(worker: Rc<Worker>, dial: Rc<Dial>) {
    let (server, state) = (&dial.order.server, &dial.order.state);
    let (mut first, mut failures) = (None, 0);
    while !dial.is_cancelled() {
        state.set(State::Connecting);
        // The name is resolved each time.
        let resolving = tokio::time::timeout(CONNECT_TIMEOUT, resolve(server));
        let resolved = dial.unless_cancelled(resolving).await;
        let addresses = resolved
            .unwrap_or_else(|| Ok(Ok(Vec::new())))
            .unwrap_or_else(|_| Err(no_answer(false)));
        let mut outcome = Outcome::failed(addresses.as_ref().map_or_else(
            |error| format!("cannot resolve the name: {error}"),
            |_| "the name has no address".to_owned(),
        ));
        let addresses = in_turn(addresses.unwrap_or_default(), first.take());
        for (at, &remote) in addresses.iter().enumerate() {
            outcome = attempt(&worker, &dial, remote).await;
            if outcome.stood() {
                failures = 0;
            }
            if dial.is_cancelled() || outcome.is_worth_another() {
                first = Some(remote);
                break;
            }
            if let Some(next) = addresses.get(at + 1) {
                outcome.log(server, Some(remote), failures + 1, &format_args!("trying {next}"));
            }
        }
        if dial.is_cancelled() {
            break;
        }
        failures += 1;
        state.set(State::Retry);
        if failures as usize > QUICK_RETRIES.len() {
            worker.server_away(&dial);
        }
        let pause = pause(failures);
        let seconds = pause.as_secs_f64();
        let remote = first.or(addresses.last().copied());
        outcome.log(server, remote, failures, &format_args!("retrying in {seconds:.1} s"));
        let _ = dial.unless_cancelled(tokio::time::sleep(pause)).await;
    }
    state.set(State::Closed);
}

/// What became of an attempt.
struct Outcome {
    /// The session, if there was a connection.
    end: Option<SessionEnd>,
    why: String,
}

impl Outcome {
    fn failed(why: String) -> Outcome {
        Outcome { end: None, why }
    }

    fn stood_for(&self) -> Option<Duration> {
        self.end.as_ref()?.stood_for
    }

    /// Whether the session was one: a server that ends each soon has failed.
    fn stood(&self) -> bool {
        self.stood_for().is_some_and(|stood_for| stood_for >= STANDS_TIME)
    }

    /// Whether the same address is tried again before the others: not if the path to it may be dead.
    fn is_worth_another(&self) -> bool {
        let reason = self.end.as_ref().map(|end| end.reason);
        self.stood() && reason == Some(CloseReason::RemoteClosed)
    }

    fn log(
        &self,
        server: &str,
        remote: Option<SocketAddr>,
        failures: u32,
        next: &dyn std::fmt::Display,
    ) {
        let remote = remote.map(tracing::field::display);
        let detail = self.end.as_ref().and_then(|end| end.detail.as_ref());
        let (reason, detail) = (&self.why, detail.map(tracing::field::display));
        if let Some(stood_for) = self.stood_for() {
            let after_s = stood_for.as_secs();
            warn!(%server, remote, %reason, detail, after_s, "the server is lost, {next}");
        } else if failures <= FAILURES_LOGGED || failures.is_power_of_two() {
            warn!(%server, remote, %reason, detail, failures, "no session with the server, {next}");
        }
    }
}

/// Connects to one address, and waits until that has failed or the session is over.
async fn attempt(worker: &Rc<Worker>, dial: &Rc<Dial>, remote: SocketAddr) -> Outcome {
    dial.order.state.set(State::Connecting);
    match dial.unless_cancelled(connect_to(remote, &dial.order)).await {
        None => Outcome::failed("cancelled".to_owned()),
        Some(Err(error)) => Outcome::failed(error.to_string()),
        Some(Ok(_)) if dial.is_cancelled() => Outcome::failed("cancelled".to_owned()),
        Some(Ok(stream)) => {
            debug!(server = %dial.order.server, %remote, "connected");
            let closed = connection::add_server(worker, stream, remote, Rc::clone(dial));
            match closed.await {
                Ok(end) => Outcome { why: end.reason.to_string(), end: Some(end) },
                Err(_) => Outcome::failed("the connection was lost at once".to_owned()),
            }
        }
    }
}

/// Each address once, `first` before the others if it is still one of them.
fn in_turn(addresses: Vec<SocketAddr>, first: Option<SocketAddr>) -> Vec<SocketAddr> {
    let first = first.filter(|first| addresses.contains(first));
    let mut in_turn: Vec<SocketAddr> = Vec::new();
    for address in first.into_iter().chain(addresses) {
        if !in_turn.contains(&address) {
            in_turn.push(address);
        }
    }
    in_turn
}

/// The pause after so many failed rounds in a row: quick ones first, then from [`RETRY_INTERVAL`] to twice
/// as much. Never the same for all, or a fleet would come back all at once.
fn pause(failures: u32) -> Duration {
    let share = f64::from(RandomState::new().hash_one(failures) as u32) / f64::from(u32::MAX);
    match QUICK_RETRIES.get(failures.saturating_sub(1) as usize) {
        Some(pause) => pause.mul_f64(1.0 + share / 2.0),
        None => RETRY_INTERVAL.mul_f64(1.0 + share),
    }
}

/// On a thread that nobody waits for: a name server that is away would hold up the runtime's end.
async fn resolve(server: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = server.parse() {
        return Ok(vec![address]);
    }
    let (found, addresses) = oneshot::channel();
    // Without its brackets an address may have a zone.
    let HostPort { host, port } = HostPort::of_server(server).map_err(io::Error::other)?;
    vital::spawn("resolver", move || {
        let _ = found.send((host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    })?;
    addresses.await.unwrap_or_else(|_| Err(io::Error::other("the resolver failed")))
}

/// The kernel of the other side drops what is signed with another key, or not signed, without a word.
fn no_answer(is_signed: bool) -> io::Error {
    let why = match is_signed {
        true => "no answer within 10 s; its key may be another than ours (--tcp-md5)",
        false => "no answer within 10 s",
    };
    io::Error::new(io::ErrorKind::TimedOut, why)
}

async fn connect_to(remote: SocketAddr, order: &DialOrder) -> io::Result<std::net::TcpStream> {
    let socket = if remote.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    listener::limit_segments(&socket, remote, order.segment_bytes_max)?;
    let is_signed = order.keys.sign(&socket, remote).map_err(io::Error::other)?;
    if let Some(local_ip) = order.local_ip {
        socket.bind(SocketAddr::new(local_ip, 0))?;
    }
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(remote));
    let stream = connecting.await.unwrap_or_else(|_| Err(no_answer(is_signed)))?;
    // A port of the ephemeral range at which nobody listens may be the one that we were given.
    if stream.local_addr()? == stream.peer_addr()? {
        // Reset: the port must not stay in TIME_WAIT.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Err(io::Error::other("connected to itself: nobody listens there"));
    }
    let stream = stream.into_std()?;
    // The ring waits for operations itself.
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_zones_are_resolved() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let resolved = |server: &str| runtime.block_on(resolve(server)).unwrap();
        assert_eq!(resolved("[::1]:4711"), ["[::1]:4711".parse().unwrap()]);
        let local = resolved("localhost:4711");
        assert!(local.iter().all(|it| it.ip().is_loopback() && it.port() == 4711), "{local:?}");
        let zoned = resolved("[fe80::1%lo]:4711");
        assert!(matches!(zoned[..], [SocketAddr::V6(it)] if it.scope_id() == 1), "{zoned:?}");
    }

    #[test]
    fn the_first_retries_are_quick() {
        let ranges_ms = [200..=300, 500..=750, 1000..=1500, 2000..=3000, 5000..=10_000];
        for (failures, range) in ranges_ms.iter().enumerate() {
            let pauses = (0..50).map(|_| pause(failures as u32 + 1).as_millis());
            let pauses: Vec<u128> = pauses.collect();
            assert!(pauses.iter().all(|pause| range.contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "a fleet comes back at once");
        }
        assert!(pause(1_000_000) >= RETRY_INTERVAL);
    }

    #[test]
    fn only_a_session_that_lasted_makes_an_address_a_good_one() {
        for (reason, stood_for_s, is_good) in [
            (CloseReason::RemoteClosed, None, false),
            (CloseReason::RemoteClosed, Some(11), false),
            (CloseReason::RemoteClosed, Some(61), true),
            (CloseReason::HoldTimeout, Some(61), false), // the path may be dead
        ] {
            let stood_for = stood_for_s.map(Duration::from_secs);
            let end = Some(SessionEnd { reason, stood_for, detail: None });
            let outcome = Outcome { end, why: String::new() };
            assert_eq!(outcome.is_worth_another(), is_good, "{reason} after {stood_for_s:?} s");
        }
    }

    #[test]
    fn the_address_of_the_last_session_comes_first_if_it_is_still_one() {
        let [a, b, c] = ["[::1]:1", "[::1]:2", "127.0.0.1:1"].map(|text| text.parse().unwrap());
        assert_eq!(in_turn(vec![a, b, a], None), [a, b]);
        assert_eq!(in_turn(vec![a, b], Some(b)), [b, a]);
        assert_eq!(in_turn(vec![a, b], Some(c)), [a, b]);
        assert!(in_turn(vec![], Some(c)).is_empty());
    }
}
