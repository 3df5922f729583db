//! What we tell a peer besides UPDATEs: SUBSCRIBE, UNSUBSCRIBE, and questions.
//!
//! Owns their order, and the count of KEEPALIVEs that the peer answers. Must never take an answer for
//! that of a later question.

use std::collections::VecDeque;

use crate::client::Question;
use crate::wire::Message;

/// What a server that does not reassemble is sent before it has to answer a KEEPALIVE, in bytes.
const GATE_BYTES: usize = 16 << 10;

/// The commands for one peer.
#[derive(Default)]
pub(in crate::shard) struct Commands {
    /// To be sent in order, before UPDATEs. A KEEPALIVE among them is a question.
    queue: VecDeque<Message>,
    keepalives_sent: u64,
    keepalives_heard: u64,
    answered: Question,
    /// Which KEEPALIVEs the questions were that have no answer yet.
    open: VecDeque<u64>,
    /// Bytes sent since the gate was last open.
    gate_bytes: usize,
    /// The gate opens with this KEEPALIVE's answer.
    gate_answer: Option<u64>,
}

impl Commands {
    /// Tells the peer something, behind all else. A KEEPALIVE is a question: whether it has read so far.
    pub(crate) fn push(&mut self, message: Message) {
        self.queue.push_back(message);
    }

    /// How many questions were answered: the first ones.
    pub(crate) fn answered(&self) -> Question {
        self.answered
    }

    /// Whether all were sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The peer answered a KEEPALIVE.
    pub(crate) fn heard_keepalive(&mut self) {
        // What answers none of ours would open later gates, and answer later questions.
        self.keepalives_heard = (self.keepalives_heard + 1).min(self.keepalives_sent);
        let heard = self.keepalives_heard;
        while self.open.front().is_some_and(|number| *number <= heard) {
            self.open.pop_front();
            self.answered += 1;
        }
        self.gate_answer.take_if(|answer| *answer <= heard);
    }

    /// Takes the next ones, as many as `bytes_max` allows, unless the gate is closed.
    pub(super) fn take(&mut self, bytes: &mut Vec<u8>, bytes_max: usize) {
        while self.is_gate_open()
            && let Some(command) = self.queue.front()
        {
            let before = bytes.len();
            command.encode(bytes);
            if bytes.len() > bytes_max && before > 0 {
                bytes.truncate(before);
                break;
            }
            if *command == Message::Keepalive {
                self.sent_keepalives(1);
                self.open.push_back(self.keepalives_sent);
            }
            self.queue.pop_front();
        }
    }

    /// KEEPALIVEs go out that are no questions.
    pub(super) fn sent_keepalives(&mut self, count: u32) {
        self.keepalives_sent += u64::from(count);
    }

    /// Whether the peer has read enough to be sent more.
    pub(super) fn is_gate_open(&self) -> bool {
        self.gate_answer.is_none()
    }

    /// Counts what a server was sent that does not reassemble. True if it has to answer a KEEPALIVE
    /// now, which the caller owes it: the gate closes until then.
    pub(super) fn pass_gate(&mut self, bytes: usize) -> bool {
        self.gate_bytes += bytes;
        let closes = self.gate_bytes >= GATE_BYTES && self.is_gate_open();
        if closes {
            self.gate_answer = Some(self.keepalives_sent + 1);
            self.gate_bytes = 0;
        }
        closes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Vni;

    fn taken(commands: &mut Commands, bytes_max: usize) -> usize {
        let mut bytes = Vec::new();
        commands.take(&mut bytes, bytes_max);
        bytes.len()
    }

    #[test]
    fn an_answer_belongs_to_the_keepalives_in_their_order() {
        let mut commands = Commands::default();
        commands.heard_keepalive();
        commands.sent_keepalives(2);
        commands.push(Message::Keepalive);
        commands.heard_keepalive();
        commands.push(Message::Unsubscribe(Vni(7)));
        commands.push(Message::Keepalive);
        assert!(taken(&mut commands, 1_000) > 8 && commands.is_empty());
        assert_eq!(commands.answered(), 0, "one answered none, the other not the question");
        commands.heard_keepalive();
        assert_eq!(commands.answered(), 0, "two of ours came before");
        commands.heard_keepalive();
        assert_eq!(commands.answered(), 1);
        commands.sent_keepalives(1);
        commands.heard_keepalive();
        assert_eq!(commands.answered(), 2);
        commands.heard_keepalive();
        commands.heard_keepalive();
        commands.push(Message::Keepalive);
        taken(&mut commands, 1_000);
        assert_eq!(commands.answered(), 2, "too many answers count for nothing later");
    }

    #[test]
    fn nothing_passes_a_closed_gate_until_its_keepalive_is_answered() {
        let mut commands = Commands::default();
        commands.sent_keepalives(1);
        commands.push(Message::Subscribe(Vni(7)));
        assert!(!commands.pass_gate(GATE_BYTES - 1));
        assert!(commands.pass_gate(1));
        assert!(!commands.pass_gate(GATE_BYTES), "it is closed already");
        commands.sent_keepalives(1);
        commands.heard_keepalive();
        assert_eq!(taken(&mut commands, 1_000), 0, "that was the first one's");
        commands.heard_keepalive();
        assert!(taken(&mut commands, 1_000) > 0);
    }

    #[test]
    fn commands_are_cut_between_frames_and_one_passes_in_any_case() {
        let mut commands = Commands::default();
        (0..10).for_each(|number| commands.push(Message::Subscribe(Vni(200 + number))));
        let one = taken(&mut commands, 1);
        assert_eq!(taken(&mut commands, 3 * one + 1), 3 * one);
        assert_eq!(taken(&mut commands, 1_000), 6 * one);
    }
}
