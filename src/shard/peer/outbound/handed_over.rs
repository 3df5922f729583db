//! The output of a peer on its way to another process.
//!
//! Owns what is told of it, but for its subscriptions. Must never be used while a SEND is under way: how much of that went
//! out nobody knows.

use super::{Outbound, Piece};
use crate::handover::{self, HandoverError};
use crate::types::Time;
use crate::wire::{Deframer, Message, decode};

impl Outbound {
    /// Tells what the peer is owed.
    ///
    /// # Panics
    /// If a SEND is under way.
    pub(crate) fn hand_over(&self, peer: &mut handover::Peer) {
        assert!(self.in_flight.is_none(), "every SEND was cancelled, and reported");
        if let Some(rest) = &self.rest {
            peer.output = rest.as_slice().to_vec();
            peer.output_ends_record = rest.end_of_record;
        }
        if let Some(hello) = self.hello {
            Message::Hello(hello).encode(&mut peer.hello);
        }
        peer.keepalives_owed = self.keepalives_owed;
        peer.keepalives_unasked = self.keepalives_unasked;
        peer.updates_sent = self.updates_sent;
        (peer.bytes_sent, peer.bytes_unread) = self.path.bytes();
        peer.is_cautious = self.path.is_cautious();
    }

    /// What another process has told.
    ///
    /// # Errors
    /// If it makes no sense.
    pub(crate) fn restore(
        &mut self,
        now: Time,
        peer: &mut handover::Peer,
    ) -> Result<(), HandoverError> {
        if !peer.output.is_empty() {
            let rest = Piece::control(std::mem::take(&mut peer.output), peer.output_ends_record);
            self.rest = Some(rest);
        }
        if !peer.hello.is_empty() {
            let mut bytes = &peer.hello[..];
            self.hello = match Deframer::new().next(&mut bytes).map(|frame| frame.map(decode)) {
                Ok(Some(Ok(Message::Hello(hello)))) => Some(hello),
                _ => return Err(HandoverError::Nonsense("what should be a HELLO is none")),
            };
        }
        self.keepalives_owed = peer.keepalives_owed;
        self.keepalives_unasked = peer.keepalives_unasked;
        self.updates_sent = peer.updates_sent;
        self.path.restore(now, peer.bytes_sent, peer.bytes_unread);
        Ok(())
    }

    /// Whether a SEND is under way.
    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }
}
