//! Conflation of records that have audiences: what a base's joiners still need to know.
//!
//! Owns the arithmetic of scopes. Must never lose a change that any single subscriber would see.

use ahash::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::frames::Frames;
use super::runs::Scope;
use crate::types::{Action, SourceId};
use crate::wire::{action_and_key, frames};

/// What happened to one route, as each subscriber saw it.
#[derive(Default)]
struct Net<'a> {
    add: &'a [u8],
    remove: &'a [u8],
    /// ADDs minus REMOVEs, as somebody saw it whom no record names: -1, 0 or 1.
    others: i32,
    /// The same for each subscriber that a record names.
    named: SmallVec<[(SourceId, i32); 2]>,
}

impl<'a> Net<'a> {
    fn count(&mut self, frame: &'a [u8], action: Action, scope: Scope) {
        let step = match action {
            Action::Add => (self.add = frame, 1).1,
            Action::Remove => (self.remove = frame, -1).1,
        };
        if let Scope::AllBut(source) | Scope::Only(source) = scope
            && !self.named.iter().any(|&(named, _)| named == source)
        {
            // Up to now it saw what everybody saw.
            self.named.push((source, self.others));
        }
        if !matches!(scope, Scope::Only(_)) {
            self.others += step;
        }
        for (source, net) in &mut self.named {
            if scope.includes(*source) {
                *net += step;
            }
        }
    }

    /// At most two records say the same: visibility is "nobody", "all but one" or "all".
    fn emit(&self, out: &mut Frames) {
        let differing = |net| self.named.iter().filter(move |named| named.1 == net);
        match self.others {
            0 => {
                for (source, _) in differing(1) {
                    out.push(self.add, Scope::Only(*source));
                }
                for (source, _) in differing(-1) {
                    out.push(self.remove, Scope::Only(*source));
                }
            }
            others => {
                let frame = if others > 0 { self.add } else { self.remove };
                let mut unaffected = differing(0);
                let scope = unaffected.next().map_or(Scope::All, |named| Scope::AllBut(named.0));
                assert!(unaffected.next().is_none(), "one subscriber at most is left out");
                out.push(frame, scope);
            }
        }
    }
}

/// The shortest sequence of records that brings every subscriber to the same state as `parts`, read
/// one after the other. Its length is bounded by the routes that differ, not by what happened.
pub fn merged<'a>(parts: impl Iterator<Item = &'a Frames>, hasher: &RandomState) -> Frames {
    let mut index: HashMap<&[u8], usize, RandomState> = HashMap::with_hasher(hasher.clone());
    let mut nets: Vec<Net<'a>> = Vec::new();
    for part in parts {
        for (run, scope) in part.runs() {
            for frame in frames(run) {
                let (action, key) = action_and_key(frame);
                let at = *index.entry(key).or_insert(nets.len());
                if at == nets.len() {
                    nets.push(Net::default());
                }
                nets[at].count(frame, action, scope);
            }
        }
    }
    let mut out = Frames::default();
    for net in &nets {
        net.emit(&mut out);
    }
    out
}
