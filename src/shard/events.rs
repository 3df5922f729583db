//! What an operator hears of a peer: that a session stands, why it ended, what was refused.
//!
//! Owns the lines of the log that are about one peer. Must never write one for each message: what a peer
//! repeats is counted, and the count told when it quiets down.

use std::fmt;
use std::io;
use std::time::Duration;

use super::Shard;
use super::peer::Role;
use crate::session::CloseReason;
use crate::types::{PeerId, Time};

/// The log's target for what anybody can provoke who never had a session.
pub const STRANGERS: &str = concat!(env!("CARGO_CRATE_NAME"), "::strangers");

/// After this time without a refusal they are summed up.
const QUIET: Duration = Duration::from_secs(1);

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

/// What of a peer's was refused since it was last summed up.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Refusals {
    routes: u64,
    subscriptions: u64,
    invalid: u64,
    last_at: Time,
}

/// What is refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// An ADD beyond `--routes-per-peer-max`.
    Route,
    /// A SUBSCRIBE beyond `--vnis-per-peer-max`.
    Subscription,
    /// An UPDATE that makes no sense.
    Invalid,
}

impl Refusals {
    /// Counts one. True for the first since the last sum: that one is worth a line of its own.
    fn count(&mut self, now: Time, refused: Refused) -> bool {
        let is_first = self.total() == 0;
        self.last_at = now;
        *match refused {
            Refused::Route => &mut self.routes,
            Refused::Subscription => &mut self.subscriptions,
            Refused::Invalid => &mut self.invalid,
        } += 1;
        is_first
    }

    fn total(&self) -> u64 {
        self.routes + self.subscriptions + self.invalid
    }
}

impl Shard {
    /// Counts a refusal, and says so if it is the first for a while.
    pub(super) fn refused(
        &mut self,
        now: Time,
        id: PeerId,
        refused: Refused,
        what: &dyn fmt::Display,
    ) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if !peer.refusals.count(now, refused) {
            return;
        }
        let remote = peer.remote;
        match refused {
            Refused::Route => tracing::warn!(
                %remote, "refused {what}: the peer announces as many routes as it may \
                 (--routes-per-peer-max)"
            ),
            Refused::Subscription => tracing::warn!(
                %remote, "refused {what}: the peer has as many subscriptions as it may \
                 (--vnis-per-peer-max)"
            ),
            Refused::Invalid => tracing::warn!(%remote, "dropped an UPDATE: {what}"),
        }
        self.refused.push(id);
        self.next_summary = self.next_summary.min(now.after(QUIET));
    }

    /// Sums up the refusals of peers that have quieted down.
    pub(super) fn sum_up_refusals(&mut self, now: Time) {
        if now < self.next_summary {
            return;
        }
        self.next_summary = Time::NEVER;
        for id in std::mem::take(&mut self.refused) {
            let Some(peer) = self.peers.find_mut(id) else { continue };
            let quiet_at = peer.refusals.last_at.after(QUIET);
            if quiet_at > now {
                self.next_summary = self.next_summary.min(quiet_at);
                self.refused.push(id);
            } else {
                self.sum_up(id);
            }
        }
    }

    /// Says how much was refused, if that was more than the line for the first one told.
    pub(super) fn sum_up(&mut self, id: PeerId) {
        let limits = self.config.limits;
        let Some(peer) = self.peers.find_mut(id) else { return };
        let refusals = std::mem::take(&mut peer.refusals);
        let Refusals { routes, subscriptions, invalid, .. } = refusals;
        let remote = peer.remote;
        if refusals.total() < 2 {
            return;
        }
        if routes > 0 {
            let limit = limits.routes_per_peer_max;
            tracing::warn!(%remote, "{routes} routes refused, limit {limit} (--routes-per-peer-max)");
        }
        if subscriptions > 0 {
            let limit = limits.vnis_per_peer_max;
            tracing::warn!(
                %remote, "{subscriptions} subscriptions refused, limit {limit} (--vnis-per-peer-max)"
            );
        }
        if invalid > 0 {
            tracing::warn!(%remote, "{invalid} UPDATEs dropped that make no sense");
        }
    }

    /// Tells that a session stands.
    pub(super) fn log_established(&self, id: PeerId) {
        let Some(peer) = self.peers.find(id) else { return };
        let keepalive_s = peer.session.keepalive_interval_s();
        let reassembles = peer.session.peer_reassembles();
        if peer.role == Role::Accepted {
            tracing::info!(%id, remote = %peer.remote, keepalive_s, reassembles, "established");
        }
    }

    /// Tells that a session ended, and why. Servers that we dialled are left to who dialled.
    pub(super) fn log_end(&self, id: PeerId) {
        let Some(peer) = self.peers.find(id) else { return };
        let Some(SessionEnd { reason, stood_for, detail }) = &peer.end else { return };
        let remote = peer.remote;
        let detail = detail.as_ref().map(tracing::field::display);
        let is_expected = self.draining || *reason == CloseReason::Shutdown;
        match stood_for {
            _ if peer.role != Role::Accepted => {}
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
