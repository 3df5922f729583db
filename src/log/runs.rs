//! Frames lie in runs of one audience each, and a reader steps over the runs that are not for it.
//!
//! Owns who may see which frames. Must never look into a frame.

use smallvec::SmallVec;

use crate::types::SpeakerId;

/// Who, among the subscribers of a group, a record is for (design: the visibility rule).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// Every subscriber.
    All,
    /// Every subscriber but those that this speaker is.
    AllBut(SpeakerId),
    /// Only those that this speaker is.
    Only(SpeakerId),
}

impl Scope {
    /// Whether a subscriber is in the audience.
    #[inline]
    pub fn includes(self, reader: Reader) -> bool {
        match self {
            Scope::All => true,
            Scope::AllBut(excluded) => !reader.is(excluded),
            Scope::Only(included) => reader.is(included),
        }
    }

    /// The one that it names.
    pub fn named(self) -> Option<SpeakerId> {
        match self {
            Scope::All => None,
            Scope::AllBut(speaker) | Scope::Only(speaker) => Some(speaker),
        }
    }
}

/// As whom a subscriber hears: what that one has said itself it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reader {
    speaker: SpeakerId,
    /// As whom it heard before, until it has heard what it may hear now.
    former: SpeakerId,
}

impl Reader {
    /// One speaker.
    pub fn new(speaker: SpeakerId) -> Reader {
        Reader { speaker, former: speaker }
    }

    /// What [`Reader::speakers`] told.
    pub(crate) fn of_speakers((speaker, former): (SpeakerId, SpeakerId)) -> Reader {
        Reader { speaker, former }
    }

    /// From now on it is this speaker, and for a while the former one too.
    #[must_use]
    pub fn becoming(self, speaker: SpeakerId) -> Reader {
        Reader { speaker, former: self.former }
    }

    /// It is the former speaker no more.
    #[must_use]
    pub fn become_one(self) -> Reader {
        Reader::new(self.speaker)
    }

    /// Who it is, and who it is for a while too.
    pub(crate) fn speakers(self) -> (SpeakerId, SpeakerId) {
        (self.speaker, self.former)
    }

    /// Whether it is the former speaker no more.
    pub fn is_one(self) -> bool {
        self.speaker == self.former
    }

    /// Whether it is this speaker.
    #[inline]
    pub fn is(self, speaker: SpeakerId) -> bool {
        speaker == self.speaker || speaker == self.former
    }
}

/// Frames for the same audience: those up to `end`, from where the run before ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub end: usize,
    pub scope: Scope,
}

/// Runs one after the other: mostly one.
pub(super) type Runs = SmallVec<[Run; 1]>;

/// Memory that runs take, in bytes, beside what is counted with their owner.
pub(super) fn heap_bytes(runs: &Runs) -> usize {
    if runs.spilled() { runs.capacity() * size_of::<Run>() } else { 0 }
}

/// Declares the bytes up to `end`, behind the last run, to be for this audience.
pub(super) fn extend(runs: &mut Runs, end: usize, scope: Scope) {
    match runs.last_mut() {
        Some(last) if last.scope == scope => last.end = end,
        _ => runs.push(Run { end, scope }),
    }
}

/// A place among runs: in bytes, and the run in which it lies or at whose end it stands.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    position: usize,
    run: usize,
}

impl Place {
    /// Behind all runs that there are.
    pub(super) fn behind(runs: &[Run]) -> Place {
        let position = runs.last().map_or(0, |last| last.end);
        // The last run may still be extended.
        Place { position, run: runs.len().saturating_sub(1) }
    }

    /// Behind so many bytes.
    pub(super) fn at(position: usize) -> Place {
        Place { position, run: 0 }
    }

    /// In bytes.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Moves on.
    pub(super) fn advance_to(&mut self, position: usize) {
        assert!(position >= self.position, "readers only move on");
        self.position = position;
    }

    /// The next run, or what is left of it.
    pub(super) fn next_run(&mut self, runs: &[Run]) -> Option<Run> {
        loop {
            let run = runs.get(self.run)?;
            if self.position < run.end {
                return Some(*run);
            }
            if self.run + 1 == runs.len() {
                return None;
            }
            self.run += 1;
        }
    }

    /// Steps over runs that are not for `reader`. False if none is left that is.
    pub(super) fn skip_invisible(&mut self, runs: &[Run], reader: Reader) -> bool {
        while let Some(run) = self.next_run(runs) {
            if run.scope.includes(reader) {
                return true;
            }
            self.position = run.end;
        }
        false
    }

    /// Where the frames end that `reader` can be given together: at a run that is not for it, or somewhat
    /// beyond `bytes_max`.
    pub(super) fn visible_end(&self, runs: &[Run], reader: Reader, bytes_max: usize) -> usize {
        let mut end = self.position;
        for run in &runs[self.run.min(runs.len())..] {
            if !run.scope.includes(reader) || end - self.position >= bytes_max {
                break;
            }
            end = run.end;
        }
        end
    }
}
