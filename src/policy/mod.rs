//! What peers may announce.
//!
//! Owns the rules of `--nexthop-policy` and `--announce-policy`, and the judgement of a route. Must never read a file or
//! know a connection: it is given a text and an address.
//!
//! ```text
//! file -> text -> rule, rule, ... -> index    Policy, shared by all shards
//!                                      |
//! peer's address ----------------------+----> Judge, kept with each source: the few rules that may be about it
//! ```

mod index;
mod next_hop;
mod rule;
#[cfg(test)]
mod strategies;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

use self::index::{Buckets, Index};
use self::rule::{Action, Rule};
use crate::types::{Route, Vni};

pub use self::next_hop::{NextHopPolicy, NextHopPolicyError};
pub use self::text::{FILE_BYTES_MAX, Mistake, PolicyError, RULES_MAX};

/// What peers may announce: both parts must permit a route.
#[derive(Debug)]
pub struct Policy {
    next_hops: NextHopPolicy,
    rules: Option<Arc<AnnouncePolicy>>,
}

/// The rules of a file, in their order: the first that is about a route decides, and what none is about is refused.
#[derive(Debug)]
pub struct AnnouncePolicy {
    index: Index,
    /// The line of each rule.
    lines: Vec<u32>,
}

/// Who judges the routes of one peer. Cheap to keep and to copy.
#[derive(Clone, Debug)]
pub struct Judge(Arc<Bench>);

#[derive(Debug)]
struct Bench {
    policy: Arc<Policy>,
    peer: IpAddr,
    buckets: Buckets,
}

/// Why a peer may not announce a route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum Denial {
    /// Its next hop is not the peer's own.
    #[error("the next hop is not the peer's own (--nexthop-policy)")]
    NextHop,
    /// The first rule that is about it is one that refuses.
    #[error("line {line} denies it (--announce-policy)")]
    Denied {
        /// The rule's line.
        line: u32,
    },
    /// No rule is about it.
    #[error("no rule permits it (--announce-policy)")]
    NoRule,
}

/// How two files differ; the order of their rules aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Rules that only the later one has.
    pub new: usize,
    /// Rules that only the former one had.
    pub gone: usize,
    /// Whether the same rules stand in another order.
    pub reordered: bool,
}

impl Policy {
    /// None if it would permit everything anyway.
    pub fn new(
        next_hops: NextHopPolicy,
        rules: Option<Arc<AnnouncePolicy>>,
    ) -> Option<Arc<Policy>> {
        let is_any = next_hops == NextHopPolicy::Any && rules.is_none();
        (!is_any).then(|| Arc::new(Policy { next_hops, rules }))
    }

    /// Who judges the routes of the peer with this address. Takes as many look-ups as there are lengths among the
    /// networks of peers in the file.
    pub fn judge_of(self: &Arc<Policy>, peer: IpAddr) -> Judge {
        let peer = peer.to_canonical();
        let buckets = self.rules.as_ref().map(|rules| rules.index.buckets_of(peer));
        let policy = Arc::clone(self);
        Judge(Arc::new(Bench { policy, peer, buckets: buckets.unwrap_or_default() }))
    }
}

impl Judge {
    /// Whether the peer may announce this route.
    ///
    /// # Errors
    /// Why it may not.
    pub fn judge(&self, vni: Vni, route: &Route) -> Result<(), Denial> {
        self.line(vni, route).map(|_| ())
    }

    /// The line that permits the route; none if there is no file.
    ///
    /// # Errors
    /// Why the peer may not announce it.
    pub fn line(&self, vni: Vni, route: &Route) -> Result<Option<u32>, Denial> {
        let Bench { policy, peer, buckets } = &*self.0;
        if !policy.next_hops.permits(*peer, route.next_hop.address) {
            return Err(Denial::NextHop);
        }
        let Some(rules) = &policy.rules else { return Ok(None) };
        let place = rules.index.first(buckets, *peer, vni, route).ok_or(Denial::NoRule)?;
        let line = rules.lines[place];
        match rules.index.rules()[place].action {
            Action::Permit => Ok(Some(line)),
            Action::Deny => Err(Denial::Denied { line }),
        }
    }
}

impl AnnouncePolicy {
    /// Reads the text of a file: docs/POLICY.md has the format.
    ///
    /// # Errors
    /// [`PolicyError`], with all that is wrong with it.
    pub fn parse(text: &[u8]) -> Result<AnnouncePolicy, PolicyError> {
        let (lines, rules) = text::parse(text)?.into_iter().unzip();
        Ok(AnnouncePolicy { index: Index::new(rules), lines })
    }

    /// How many rules it has. With none, everything is refused.
    pub fn rule_count(&self) -> usize {
        self.lines.len()
    }

    /// What is different since `former`.
    pub fn since(&self, former: &AnnouncePolicy) -> Difference {
        let (new, old) = (self.index.rules(), former.index.rules());
        let mut counts: BTreeMap<&Rule, isize> = BTreeMap::new();
        for rule in new {
            *counts.entry(rule).or_default() += 1;
        }
        for rule in old {
            *counts.entry(rule).or_default() -= 1;
        }
        let sum = |sign: isize| {
            let of_sign = counts.values().map(|count| usize::try_from(count * sign).unwrap_or(0));
            of_sign.sum()
        };
        let (only_new, only_old) = (sum(1), sum(-1));
        Difference {
            new: only_new,
            gone: only_old,
            reordered: only_new + only_old == 0 && new != old,
        }
    }

    /// What a walk over all rules says: what the index is held against.
    #[doc(hidden)]
    pub fn walk(&self, peer: IpAddr, vni: Vni, route: &Route) -> Result<u32, Denial> {
        let rules = self.index.rules();
        let place = rules.iter().position(|rule| rule.matches(peer, vni, route));
        let place = place.ok_or(Denial::NoRule)?;
        match rules[place].action {
            Action::Permit => Ok(self.lines[place]),
            Action::Deny => Err(Denial::Denied { line: self.lines[place] }),
        }
    }
}

/// The rules in canonical form, one a line.
impl fmt::Display for AnnouncePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.index.rules().iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

impl Denial {
    /// A word for each kind, by [`Denial::kind`].
    pub const KINDS: [&str; 3] = ["policy_next_hop", "policy_denies", "policy_no_rule"];

    /// Which kind it is.
    pub fn kind(self) -> usize {
        match self {
            Denial::NextHop => 0,
            Denial::Denied { .. } => 1,
            Denial::NoRule => 2,
        }
    }

    /// What is wrong, and which flag says so. The same for all of a kind.
    pub fn why(self) -> (&'static str, &'static str) {
        match self {
            Denial::NextHop => ("the next hop is not the peer's own", "--nexthop-policy"),
            Denial::Denied { .. } => ("a rule denies it", "--announce-policy"),
            Denial::NoRule => ("no rule permits it", "--announce-policy"),
        }
    }
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_none(self) -> bool {
        self == Difference { new: 0, gone: 0, reordered: false }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            _ if self.is_none() => f.write_str("nothing differs"),
            Difference { reordered: true, .. } => f.write_str("the order of the rules differs"),
            Difference { new, gone, .. } => write!(f, "{new} are new, {gone} are gone"),
        }
    }
}
