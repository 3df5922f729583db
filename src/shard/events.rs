//! What an operator hears of a peer: that a session stands, why it ended, what was refused.
//!
//! Owns the lines of the log that are about one peer. Must never write one for each message: what a peer
//! repeats is counted, and the count told when it quiets down.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::config::Limits;
use super::groups::LagChange;
use super::refused::Refused;
use crate::session::{CloseReason, Session};
use crate::types::{PeerId, Time};

/// The log's target for what anybody can provoke who never had a session.
pub const STRANGERS: &str = concat!(env!("CARGO_CRATE_NAME"), "::strangers");

/// After this time without a refusal they are summed up.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Clone, Debug)]
pub struct SessionEnd {
    /// Why.
    pub reason: CloseReason,
    /// For how long it was established; None if it never was.
    pub stood_for: Option<Duration>,
    /// The details: an error of the socket, or what was wrong with the input.
    pub detail: Option<String>,
}

/// What there is to tell of one peer.
pub(super) struct Record {
    remote: SocketAddr,
    /// Whether nobody else tells of its sessions: who dialled a server does.
    is_stranger: bool,
    refusals: Option<Box<Refusals>>,
    established_at: Option<Time>,
    /// VNIs in which it is told the difference only, since when, and whether it takes nothing at all.
    lagging_vnis: usize,
    slow_since: Option<Time>,
    stalls: bool,
    /// What the socket or the input says about the end, as long as there is none.
    detail: Option<String>,
    end: Option<SessionEnd>,
}

/// What was refused, by kind.
#[derive(Clone, Default)]
struct Refusals {
    /// Since it was last summed up: one of each kind that is not 0, and how many there were.
    since: Vec<(Refused, u64)>,
    last_at: Time,
    ever: [u64; Refused::KINDS.len()],
}

impl Refusals {
    /// Counts some. True for the first ones of their kind since the last sum: those are worth a line of their own.
    fn count(&mut self, now: Time, refused: Refused, count: u64) -> bool {
        self.last_at = now;
        self.ever[refused.kind()] += count;
        match self.since.iter_mut().find(|(of, _)| of.kind() == refused.kind()) {
            Some((_, before)) => {
                *before += count;
                false
            }
            None => {
                self.since.push((refused, count));
                true
            }
        }
    }
}

impl Record {
    /// Of a peer that connected to us.
    pub(super) fn of_stranger(remote: SocketAddr) -> Record {
        Record { is_stranger: true, ..Record::of_our_own(remote) }
    }

    /// Of a server that we dialled, or a peer in this process.
    pub(super) fn of_our_own(remote: SocketAddr) -> Record {
        Record {
            remote,
            is_stranger: false,
            refusals: None,
            established_at: None,
            lagging_vnis: 0,
            slow_since: None,
            stalls: false,
            detail: None,
            end: None,
        }
    }

    /// Of a peer that another process has served: since when its session stands, and what was refused, by kind.
    pub(super) fn restored(
        remote: SocketAddr,
        established_at: Option<Time>,
        refused: impl IntoIterator<Item = (String, u64)>,
    ) -> Record {
        let mut record = Record { established_at, ..Record::of_stranger(remote) };
        for (kind, count) in refused {
            // One that is not known here was a newer program's.
            if let Some(at) = Refused::KINDS.iter().position(|(known, _)| *known == kind) {
                record.refusals.get_or_insert_default().ever[at] = count;
            }
        }
        record
    }

    /// The peer's address.
    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Counts refusals, and tells of them if they are the first of their kind for a while: true then, and they are to
    /// be summed up later.
    pub(super) fn refuse(
        &mut self,
        now: Time,
        refused: Refused,
        count: u64,
        what: &dyn fmt::Display,
    ) -> bool {
        let refusals = self.refusals.get_or_insert_default();
        let is_first_of_all = refusals.since.is_empty();
        if refusals.count(now, refused, count) {
            let remote = self.remote;
            match refused {
                Refused::Invalid => tracing::warn!(%remote, "dropped an UPDATE: {what}"),
                _ => {
                    let (why, flag) = refused.why();
                    tracing::warn!(%remote, "refused {what}: {why} ({flag})");
                }
            }
        }
        is_first_of_all
    }

    /// When refusals may be summed up, unless there are more until then.
    pub(super) fn quiet_at(&self) -> Time {
        self.refusals.as_ref().map_or(Time::default(), |refusals| refusals.last_at.after(QUIET))
    }

    /// Says how much was refused, where that was more than the line for the first one told.
    pub(super) fn sum_up(&mut self, limits: &Limits) {
        let Some(refusals) = &mut self.refusals else { return };
        let remote = self.remote;
        for (refused, count) in refusals.since.drain(..).filter(|(_, count)| *count > 1) {
            let sum = refused.sum(count, limits);
            tracing::warn!(%remote, "{sum}");
        }
    }

    /// What was refused ever, by [`Counters::REFUSED`](super::Counters::REFUSED): the kinds of which something was.
    pub(super) fn refused(&self) -> Vec<(&'static str, u64)> {
        let Some(refusals) = &self.refusals else { return Vec::new() };
        let kinds = Refused::KINDS.iter().zip(refusals.ever);
        kinds.filter(|(_, count)| *count > 0).map(|((kind, _), count)| (*kind, count)).collect()
    }

    /// Tells that a session stands.
    pub(super) fn established(&mut self, now: Time, id: PeerId, session: &Session) {
        self.established_at = Some(now);
        if self.is_stranger {
            let keepalive_s = session.keepalive_interval_s();
            let reassembles = session.peer_reassembles();
            tracing::info!(%id, remote = %self.remote, keepalive_s, reassembles, "established");
        }
    }

    /// Since when its session is established; None if it is not.
    pub(super) fn established_at(&self) -> Option<Time> {
        self.established_at
    }

    /// A SEND stands for long.
    pub(super) fn stalls(&mut self, now: Time, id: PeerId) {
        if !std::mem::replace(&mut self.stalls, true) && self.established_at.is_some() {
            self.slow_since.get_or_insert(now);
            tracing::info!(%id, remote = %self.remote, "slow: it does not take what it is sent");
        }
    }

    /// It has taken all that there was.
    pub(super) fn takes_all(&mut self, now: Time, id: PeerId) {
        if std::mem::take(&mut self.stalls) {
            self.is_back(now, id);
        }
    }

    /// One more of its subscriptions lags, or one less.
    pub(super) fn lag_changes(&mut self, now: Time, id: PeerId, change: LagChange) {
        match change {
            LagChange::Begins => {
                self.lagging_vnis += 1;
                if self.lagging_vnis == 1 && self.established_at.is_some() {
                    self.slow_since.get_or_insert(now);
                    tracing::info!(
                        %id, remote = %self.remote,
                        "conflated: it reads too slowly, and will be told the difference only"
                    );
                }
            }
            LagChange::Told => {
                self.lagging_vnis -= 1;
                self.is_back(now, id);
            }
            LagChange::Gone => {
                self.lagging_vnis -= 1;
                if self.lagging_vnis == 0 && !self.stalls {
                    // It wants to hear nothing of that any more: no line.
                    self.slow_since = None;
                }
            }
        }
    }

    fn is_back(&mut self, now: Time, id: PeerId) {
        if self.lagging_vnis == 0
            && !self.stalls
            && let Some(since) = self.slow_since.take()
            && self.end.is_none()
        {
            let after_s = now.since(since).as_secs();
            tracing::info!(%id, remote = %self.remote, after_s, "back: it was told all");
        }
    }

    /// For how long it has been slow: it takes nothing, or is told the difference only; None if it is not.
    pub(super) fn slow_for(&self, now: Time) -> Option<Duration> {
        self.slow_since.map(|since| now.since(since))
    }

    /// Remembers what is behind an end that is about to come, unless that is known already.
    pub(super) fn explain(&mut self, detail: impl FnOnce() -> String) {
        self.detail.get_or_insert_with(detail);
    }

    /// Tells that the session ended, and why.
    pub(super) fn end(&mut self, now: Time, id: PeerId, reason: CloseReason, is_expected: bool) {
        let stood_for = self.established_at.map(|established_at| now.since(established_at));
        let end = SessionEnd { reason, stood_for, detail: self.detail.take() };
        if self.is_stranger {
            let is_expected = is_expected || reason == CloseReason::Shutdown;
            log_end(id, self.remote, &end, is_expected);
        }
        self.end = Some(end);
    }

    /// How the session ended, if it did. Said once.
    pub(super) fn take_end(&mut self) -> Option<SessionEnd> {
        self.end.take()
    }
}

fn log_end(id: PeerId, remote: SocketAddr, end: &SessionEnd, is_expected: bool) {
    let SessionEnd { reason, stood_for, detail } = end;
    let detail = detail.as_ref().map(tracing::field::display);
    match stood_for {
        Some(_) if is_expected => tracing::debug!(%id, %remote, %reason, detail, "closed"),
        Some(stood_for) => {
            let after_s = stood_for.as_secs();
            tracing::info!(%id, %remote, %reason, detail, after_s, "closed");
        }
        // Health checks connect and close.
        None if is_expected || *reason == CloseReason::RemoteClosed => {
            tracing::debug!(%id, %remote, %reason, detail, "closed before it was established");
        }
        None => {
            tracing::info!(
                target: STRANGERS, %id, %remote, %reason, detail, "closed before it was established"
            );
        }
    }
}

/// What an error of the socket adds to the reason.
pub(super) fn detail_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::BrokenPipe => "it no longer takes what is sent".to_owned(),
        io::ErrorKind::TimedOut => "it did not acknowledge what was sent".to_owned(),
        _ => error.to_string(),
    }
}
