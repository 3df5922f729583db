//! How much may be unread, and how long a proof waits for what.
//!
//! Owns the figures, and why they are safe. Must never hold anything else.

use std::time::Duration;

/// Bytes that may be unread: at first, at least, and at most. What a peer fails at is 65,535.
pub(super) const WINDOW_FIRST: u64 = 8 << 10;
pub(super) const WINDOW_MIN: u64 = 4 << 10;
pub(super) const WINDOW_MAX: u64 = 48 << 10;
/// The most where a proof may be wrong: on a path that doubles segments, and whose reports of that are lost; to
/// one that talks all the time. One that is wrong does no harm then.
pub(super) const WINDOW_TROUBLED: u64 = 24 << 10;
/// Bytes that may be unread with all probes: then the peer is closed, since nothing would pass that it survives.
pub(super) const UNREAD_MAX: u64 = 64_000;
/// Bytes that may be unread with control frames, answers to a flood of KEEPALIVEs say: then they wait for a proof as
/// well. What is left is for the probes.
pub(super) const UNREAD_WITH_CONTROL_MAX: u64 = 52 << 10;
/// How much is unread before nothing waits to be sent and a proof is sought all the same.
pub(super) const LAZY_SHARE: u64 = 2;
/// For how long nothing is sent before that.
pub(super) const LAZY_AFTER: Duration = Duration::from_millis(5);
/// Control frames queue behind what is unread: no more than it reads in this time.
pub(super) const BACKLOG: Duration = Duration::from_secs(1);
/// A window that is worth a proof of its own.
pub(super) const ROUND_WINDOW_MIN: u64 = 10 << 10;
/// How long before it should have read all the proof begins, at most: well within what is prompt.
pub(super) const AHEAD_MAX: Duration = Duration::from_millis(2);
/// What is acknowledged within this had been read before.
pub(super) const DRAINED: Duration = Duration::from_micros(300);
/// Frames that burn all credit.
pub(super) const BURN_FRAMES: u8 = 18;
/// A gap that may renew credit: that is the peer's RTO, 200 ms at least unless an administrator has made it
/// shorter. To below these a proof may come too early; on short ways, where that is done, some margin is cheap.
pub(super) const GAP_SHORT: Duration = Duration::from_millis(30);
pub(super) const GAP_LONG: Duration = Duration::from_millis(150);
pub(super) const SHORT_RTT_US: u32 = 500;
/// The longest gap that acknowledgements may show to be harmless.
pub(super) const GAP_LEARNED_MAX: Duration = Duration::from_millis(100);
/// Between two arrivals at the receiver, which may come as late as the last one was acknowledged: from here on credit
/// counts as renewed.
pub(super) const GAP_RENEWS: Duration = Duration::from_millis(160);
/// A SEND that takes longer has had to wait.
pub(super) const BLOCKED: Duration = Duration::from_millis(50);
/// How long trouble on the path is remembered.
pub(super) const TROUBLE: Duration = Duration::from_secs(60);
/// A window that shrinks by more than this is one that fills.
pub(super) const SHRINKS: u32 = 4 << 10;
pub(super) const SHRINKS_IN_A_ROW: u8 = 8;
/// Between two looks whether all is acknowledged.
pub(super) const POLL_MIN: Duration = Duration::from_micros(60);
/// After what fills the window: it may be read at once.
pub(super) const POLL_FIRST: Duration = Duration::from_micros(100);
pub(super) const POLL_MAX: Duration = Duration::from_millis(5);
/// Between two when it has stood for long: the timer answers after 40 ms.
pub(super) const POLL_STALLED_MAX: Duration = Duration::from_millis(20);
/// After what time unacknowledged another one follows, if the peer has sent something.
pub(super) const NUDGE: Duration = Duration::from_micros(200);
/// On ways that are longer none follows but if it talks.
pub(super) const NUDGE_RTT_MAX: Duration = Duration::from_millis(5);
/// A pause after probes in vain, at least and at most: a longer one might renew credit.
pub(super) const NAP: Duration = Duration::from_millis(20);
pub(super) const NAP_LONG: Duration = Duration::from_millis(50);
/// So many probes in a row that failed.
pub(super) const FAILS_MANY: u32 = 6;
/// So often burning begins anew before there is a pause.
pub(super) const BURNS_SPOILED_MAX: u8 = 3;
/// So often that pause is a short one.
pub(super) const SPOILS_MANY: u32 = 4;
/// So many gaps in a row that nobody but a busy shard made.
pub(super) const GAPS_MANY: u8 = 2;
/// How much longer the way of a connection is believed to have become, in microseconds: well below any timer.
pub(super) const RTT_GROWS_MAX_US: u32 = 10_000;
/// Bytes of probes that carry routes; then they are KEEPALIVEs.
pub(super) const PROBES_BYTES: u64 = 4 << 10;
/// Bytes of the receiver's window that are left to the frames of a proof, or a quarter.
pub(super) const ROOM_FOR_PROBES: u64 = (BURN_FRAMES as u64 + 2) * 128;
