//! One connection to a server that we dialled: which VNIs we have asked of it, and how far it has told.
//!
//! Owns the care that servers in the field need (protocol section 9). Must never send a server the same
//! SUBSCRIBE twice on one connection, unless a barrier lies between.

use std::collections::BTreeMap;

use super::dump::DumpWatch;
use super::peer::{Commands, Question};
use crate::types::{PeerId, Vni};

/// Lost connections to one server whose routes are held at a time.
const HELD_PER_SERVER_MAX: usize = 4;

/// What is known of one connection to a server.
pub(super) struct Uplink {
    vnis: BTreeMap<Vni, UplinkVni>,
    pub dump: DumpWatch,
    /// Whether its session was ever established.
    pub is_established: bool,
    /// Which server this is: the same whenever it is connected.
    pub server: u64,
    /// So many of its connections were lost, and are held, that this one takes the place of none of them
    /// before it has told all that it knows.
    pub is_provisional: bool,
    /// Earlier connections to the same server, whose routes are held: what it says now about one of
    /// them counts for them too.
    pub predecessors: Vec<PeerId>,
}

/// A VNI at a dialled server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UplinkVni {
    Subscribed,
    /// UNSUBSCRIBE was sent; what still comes is not for us, until the question behind it is answered.
    Leaving {
        question: Question,
        again: bool,
    },
}

impl Uplink {
    /// A connection that begins, while those of the predecessors are held.
    pub fn new(server: u64, predecessors: Vec<PeerId>) -> Uplink {
        Uplink {
            vnis: BTreeMap::new(),
            dump: DumpWatch::default(),
            is_established: false,
            server,
            is_provisional: predecessors.len() >= HELD_PER_SERVER_MAX,
            predecessors,
        }
    }

    /// We want the routes of a VNI.
    pub fn subscribe(&mut self, vni: Vni, commands: &mut Commands) {
        match self.vnis.get_mut(&vni) {
            Some(UplinkVni::Subscribed) => {}
            Some(UplinkVni::Leaving { again, .. }) => *again = true,
            None => {
                self.vnis.insert(vni, UplinkVni::Subscribed);
                commands.subscribe(vni);
            }
        }
    }

    /// We do not want the routes of a VNI any more.
    pub fn unsubscribe(&mut self, vni: Vni, commands: &mut Commands) {
        match self.vnis.get_mut(&vni) {
            Some(at @ UplinkVni::Subscribed) => {
                commands.unsubscribe(vni);
                *at = UplinkVni::Leaving { question: commands.ask(), again: false };
            }
            Some(UplinkVni::Leaving { again, .. }) => *again = false,
            None => {}
        }
    }

    /// Whether we want what the server says about a VNI.
    pub fn is_subscribed(&self, vni: Vni) -> bool {
        self.vnis.get(&vni) == Some(&UplinkVni::Subscribed)
    }

    /// The server answered a KEEPALIVE: VNIs that it has left for certain may be asked for again.
    pub fn heard_answer(&mut self, commands: &mut Commands) {
        self.vnis.retain(|&vni, at| match *at {
            UplinkVni::Leaving { question, again } if question <= commands.answered() => {
                if again {
                    *at = UplinkVni::Subscribed;
                    commands.subscribe(vni);
                }
                again
            }
            _ => true,
        });
    }
}
