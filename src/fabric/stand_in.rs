//! Stands for homes until they know of the fabric.
//!
//! Owns nothing. Must never stay.

use crate::shard::Mail;
use crate::types::{Announcers, Route, ShardId, Vni};

/// A reading of another reflector.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Remote {
    pub reflector: u16,
    pub generation: u64,
}

impl Remote {
    pub(super) const OWN_STALE: u16 = 1_023;
}

#[derive(Debug)]
pub(super) struct Correspondent;

impl Correspondent {
    pub(super) fn new(_shards: u16) -> Correspondent {
        Correspondent
    }
    pub(super) fn announce(&mut self, _: Remote, _: Vni, _: &Route, _: Announcers) {}
    pub(super) fn lose(&mut self, _: Remote) {}
    pub(super) fn is_full(&self) -> bool {
        false
    }
    pub(super) fn is_settled(&self) -> bool {
        true
    }
    pub(super) fn take_mail(&mut self) -> Option<(ShardId, Mail)> {
        None
    }
    pub(super) fn deliver(&mut self, _: Mail, mut published: impl FnMut(Vni, &Route, Announcers)) {
        let _ = &mut published;
    }
    pub(super) fn refused(&self) -> u64 {
        0
    }
}
