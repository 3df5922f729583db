//! One connection to a server that this node dialled: which VNIs we have asked of it, and how far it has
//! told.
//!
//! Owns the care that servers in the field need (protocol section 9). Must never ask for a VNI again on the
//! same connection, unless a barrier lies between: the answer to the question behind the UNSUBSCRIBE.

use std::collections::BTreeMap;

use super::dump::DumpWatch;
use super::{Effect, Effects, Question};
use crate::rib::UpdateGroup;
use crate::types::{GroupClass, PeerId, Time, Vni};
use crate::wire::Message;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Uplink {
    id: PeerId,
    /// Which server this is: the same whenever it is connected.
    pub server: u64,
    /// Whether the session stands.
    pub is_established: bool,
    /// Whether it is of our kind.
    pub reassembles: bool,
    /// Whether it ever announced a route.
    pub has_told: bool,
    /// So many of the server's connections were lost, and are held, that this one takes the place of
    /// none of them before it has told all that it knows.
    pub is_provisional: bool,
    pub dump: DumpWatch,
    vnis: BTreeMap<Vni, At>,
    asked: Question,
    answered: Question,
}

/// A VNI at a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Subscribed,
    /// UNSUBSCRIBE was sent; what still comes is not for us, until the question behind it is answered.
    Leaving {
        question: Question,
        again: bool,
    },
}

impl Uplink {
    /// A connection whose session does not stand yet.
    pub(super) fn new(id: PeerId, server: u64) -> Uplink {
        Uplink {
            id,
            server,
            is_established: false,
            reassembles: false,
            has_told: false,
            is_provisional: false,
            dump: DumpWatch::default(),
            vnis: BTreeMap::new(),
            asked: 0,
            answered: 0,
        }
    }

    /// We want a VNI.
    pub(super) fn subscribe(&mut self, now: Time, vni: Vni, effects: &mut Effects) {
        match self.vnis.get_mut(&vni) {
            Some(At::Subscribed) => {}
            Some(At::Leaving { again, .. }) => *again = true,
            None => {
                self.vnis.insert(vni, At::Subscribed);
                effects.push_back(Effect::Tell(self.id, Message::Subscribe(vni)));
            }
        }
        self.dump.goes_on(now);
    }

    /// We want no more of a VNI. What a server of our kind has announced there goes. Others go on sending,
    /// and we keep what they send: some of them ignore UNSUBSCRIBE, and fail at the SUBSCRIBE after it;
    /// all withdraw what we announce.
    pub(super) fn unsubscribe(&mut self, vni: Vni, effects: &mut Effects) {
        if !self.reassembles {
            return;
        }
        match self.vnis.get_mut(&vni) {
            Some(At::Subscribed) => {
                effects.push_back(Effect::Tell(self.id, Message::Unsubscribe(vni)));
                let question = self.ask(effects);
                self.vnis.insert(vni, At::Leaving { question, again: false });
            }
            Some(At::Leaving { again, .. }) => *again = false,
            None => {}
        }
        effects.push_back(Effect::WithdrawIn(self.id, vni));
    }

    /// It is told what we announce in a VNI, from now on.
    pub(super) fn announce(&self, vni: Vni) -> Effect {
        Effect::Subscribe(self.id, UpdateGroup::new(vni, GroupClass::Uplink))
    }

    /// Whether what it says about a VNI is for us: not if we have left that, or never asked for it.
    pub(super) fn is_subscribed(&self, vni: Vni) -> bool {
        self.vnis.get(&vni) == Some(&At::Subscribed)
    }

    /// It was quiet: asks whether it is still there, unless it does not know yet what we want of it.
    pub(super) fn on_timer(&mut self, now: Time, has_read: bool, effects: &mut Effects) {
        if self.dump.is_quiet(now) {
            if has_read {
                let question = self.ask(effects);
                self.dump.asks(question);
            } else {
                self.dump.goes_on(now);
            }
        }
    }

    /// It answered so many questions: VNIs that it has left for certain may be asked for again.
    pub(super) fn answered(&mut self, now: Time, answered: Question, effects: &mut Effects) {
        self.answered = answered;
        let (id, dump) = (self.id, &mut self.dump);
        self.vnis.retain(|&vni, at| match *at {
            At::Leaving { question, again } if question <= answered => {
                if again {
                    *at = At::Subscribed;
                    effects.push_back(Effect::Tell(id, Message::Subscribe(vni)));
                    // What it was asked in the meantime says nothing of this VNI.
                    dump.goes_on(now);
                }
                again
            }
            _ => true,
        });
    }

    /// Whether it has just told all that it knows.
    pub(super) fn completes_dump(&mut self, now: Time) -> bool {
        self.dump.completes(now, self.answered)
    }

    fn ask(&mut self, effects: &mut Effects) -> Question {
        self.asked += 1;
        effects.push_back(Effect::Tell(self.id, Message::Keepalive));
        self.asked
    }
}
