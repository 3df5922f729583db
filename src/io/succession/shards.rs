//! All shards, asked from a thread that may wait.
//!
//! Owns when they count as still. Must never wait without an end.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::failure::{Failure, Patience};
use crate::handover::Item;
use crate::io::letter::Letter;
use crate::shard::{Shard, Stillness};
use crate::types::{ShardId, Time};

/// Between two looks whether they are still.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// The mailboxes of all shards, by index, and of the fabric, if the node belongs to one.
pub(super) struct Shards {
    pub(super) mailboxes: Vec<UnboundedSender<Letter>>,
    pub(super) fabric: Option<UnboundedSender<Letter>>,
}

impl Shards {
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.mailboxes.len()).expect("there are at most 1,024")
    }

    /// Tells one something.
    pub(super) fn tell(&self, shard: ShardId, letter: Letter) {
        // Fails when it has ended: who waits for an answer hears that.
        let _ = self.mailboxes[shard.index()].send(letter);
    }

    /// Tells all of them something.
    pub(super) fn tell_all(&self, letter: impl Fn() -> Letter) {
        for mailbox in &self.mailboxes {
            let _ = mailbox.send(letter());
        }
    }

    /// All go on, the fabric behind them: what shards had to tell it comes first.
    pub(super) fn thaw(&self) {
        self.tell_all(|| Letter::Thaw);
        self.fabric.iter().for_each(|fabric| drop(fabric.send(Letter::Thaw)));
    }

    /// Has the fabric tell shards nothing more. Returns what a successor has to know of it.
    #[cfg(feature = "fabric")]
    pub(super) fn freeze_fabric(&self, patience: &Patience) -> Result<Vec<Item>, Failure> {
        self.ask_fabric(patience, Letter::FreezeFabric).map(Option::unwrap_or_default)
    }

    /// Tells the fabric how it stood in the other process.
    #[cfg(feature = "fabric")]
    pub(super) fn inherit_fabric(
        &self,
        items: Vec<Item>,
        patience: &Patience,
    ) -> Result<(), Failure> {
        let told = self.ask_fabric(patience, |done| Letter::InheritFabric(items, done))?;
        told.map_or(Ok(()), |result| Ok(result?))
    }

    /// None if there is no fabric.
    #[cfg(feature = "fabric")]
    fn ask_fabric<T>(
        &self,
        patience: &Patience,
        question: impl FnOnce(mpsc::Sender<T>) -> Letter,
    ) -> Result<Option<T>, Failure> {
        let Some(fabric) = &self.fabric else { return Ok(None) };
        let (answer, answers) = mpsc::channel();
        // Fails when it has ended: nobody answers then.
        let _ = fabric.send(question(answer));
        patience.hear(&answers).map(Some)
    }

    /// There is none.
    #[cfg(not(feature = "fabric"))]
    pub(super) fn freeze_fabric(&self, _: &Patience) -> Result<Vec<Item>, Failure> {
        Ok(Vec::new())
    }

    /// There is none.
    #[cfg(not(feature = "fabric"))]
    pub(super) fn inherit_fabric(&self, _: Vec<Item>, _: &Patience) -> Result<(), Failure> {
        Ok(())
    }

    /// Asks all at once. What they have been told before is done then.
    pub(super) fn ask_all<T: Send + 'static>(
        &self,
        patience: &Patience,
        question: impl FnOnce(&mut Shard, Time) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Failure> {
        let asked = self.mailboxes.iter().map(|mailbox| {
            let (answer, answers) = mpsc::channel();
            let question = question.clone();
            let call = move |shard: &mut Shard, now: Time| drop(answer.send(question(shard, now)));
            let _ = mailbox.send(Letter::Call(Box::new(call)));
            answers
        });
        let asked: Vec<_> = asked.collect();
        asked.iter().map(|answers| patience.hear(answers)).collect()
    }

    /// Waits until nothing is under way between them: twice in a row nobody has anything to do, all mail has been taken,
    /// and none was written in between.
    pub(super) fn wait_until_still(&self, patience: &Patience) -> Result<(), Failure> {
        let mut last: Option<Vec<Stillness>> = None;
        loop {
            let round = self.ask_all(patience, |shard, _| shard.stillness())?;
            let sent: u64 = round.iter().map(|it| it.mails_sent).sum();
            let taken: u64 = round.iter().map(|it| it.mails_taken).sum();
            let is_still = sent == taken && round.iter().all(|it| it.is_still);
            if is_still && last.as_ref() == Some(&round) {
                return Ok(());
            }
            last = is_still.then_some(round);
            if !is_still {
                patience.lasts()?;
                thread::sleep(LOOK_INTERVAL);
            }
        }
    }
}
