//! Who sees a route: the visibility rule, and what a change of its sources is worth to whom.
//!
//! Owns the rule alone, as pure functions. Must never look at a connection or a log.

use crate::log::Scope;
use crate::types::{Action, GroupClass, PeerClass, SourceId};

/// Which subscribers of one class see a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Visibility {
    /// None of them.
    Nobody,
    /// All but the one that is the route's only source.
    AllBut(SourceId),
    /// All of them.
    All,
}

impl Visibility {
    /// The rule. A subscriber sees a route exactly when some source is allowed for it: one that is
    /// not itself (unless the route is `reflected` to its own source), and of a class that its
    /// group admits.
    pub(super) fn of(
        sources: impl Iterator<Item = (SourceId, PeerClass)>,
        subscribers: GroupClass,
        reflected: bool,
    ) -> Visibility {
        let mut allowed = sources.filter(|&(_, class)| subscribers.admits(class));
        match (allowed.next(), allowed.next()) {
            (None, _) => Visibility::Nobody,
            // A source of another class is no subscriber of this one: there is nobody to leave out.
            (Some((sole, class)), None) if !reflected && subscribers.contains(class) => {
                Visibility::AllBut(sole)
            }
            _ => Visibility::All,
        }
    }

    /// Who is to be told what when a route's visibility changes, by one source coming or going.
    ///
    /// # Panics
    /// If the change needs two records, which no single source can cause.
    pub(super) fn change(before: Visibility, after: Visibility) -> Option<(Action, Scope)> {
        use Visibility::{All, AllBut, Nobody};
        match (before, after) {
            (Nobody, AllBut(source)) => Some((Action::Add, Scope::AllBut(source))),
            (Nobody, All) => Some((Action::Add, Scope::All)),
            (AllBut(source), All) => Some((Action::Add, Scope::Only(source))),
            (All, AllBut(source)) => Some((Action::Remove, Scope::Only(source))),
            (AllBut(source), Nobody) => Some((Action::Remove, Scope::AllBut(source))),
            (All, Nobody) => Some((Action::Remove, Scope::All)),
            (Nobody, Nobody) | (All, All) => None,
            (AllBut(one), AllBut(other)) => {
                assert_eq!(one, other, "sources come and go one at a time");
                None
            }
        }
    }

    /// Whom a dump of the table shows the route to.
    pub(super) fn scope(self) -> Option<Scope> {
        match self {
            Visibility::Nobody => None,
            Visibility::AllBut(source) => Some(Scope::AllBut(source)),
            Visibility::All => Some(Scope::All),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PeerId, ShardId};
    use PeerClass::{Client, Own, Server};

    fn source(slot: u32) -> SourceId {
        SourceId(PeerId::new(ShardId(0), slot, 0))
    }

    /// All sets of sources among two clients, two servers and this node, each change by one: what
    /// the records say is what each possible subscriber should learn.
    #[test]
    fn records_say_what_each_subscriber_should_learn() {
        let peers = [
            (source(0), Client, GroupClass::Client),
            (source(1), Client, GroupClass::Client),
            (source(2), Server, GroupClass::Server),
            (source(3), Server, GroupClass::Server),
            (source(4), Own, GroupClass::Client),
        ];
        let bystanders = [
            (source(8), Client, GroupClass::Client),
            (source(9), Server, GroupClass::Server),
            (source(3), Server, GroupClass::Uplink),
        ];
        for (reflected, set, changed) in cases(peers.len()) {
            let after = set ^ (1 << changed);
            let members =
                |set: u32| (0..peers.len()).filter(move |i| set & (1 << i) != 0).map(|i| peers[i]);
            for &(subscriber, class, group) in peers.iter().chain(&bystanders) {
                let sees = |set| {
                    members(set).any(|(source, of, _)| {
                        (source != subscriber || reflected)
                            && !(of == Server && class == Server)
                            && (of == Own || group != GroupClass::Uplink)
                    })
                };
                let visible = |set| {
                    let sources = members(set).map(|(source, of, _)| (source, of));
                    Visibility::of(sources, group, reflected)
                };
                let told = Visibility::change(visible(set), visible(after))
                    .filter(|(_, scope)| scope.includes(subscriber))
                    .map(|(action, _)| action);
                let expected = match (sees(set), sees(after)) {
                    (false, true) => Some(Action::Add),
                    (true, false) => Some(Action::Remove),
                    _ => None,
                };
                assert_eq!(told, expected, "{set:05b} {after:05b} {subscriber:?}");
                let dumped = visible(set).scope().is_some_and(|scope| scope.includes(subscriber));
                assert_eq!(dumped, sees(set), "dump and live follow one rule");
            }
        }
    }

    fn cases(peers: usize) -> impl Iterator<Item = (bool, u32, usize)> {
        let sets = move |reflected| {
            (0u32..1 << peers).flat_map(move |set| (0..peers).map(move |at| (reflected, set, at)))
        };
        sets(false).chain(sets(true))
    }
}
