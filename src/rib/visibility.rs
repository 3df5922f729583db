//! Who sees a route: the visibility rule, and what a change of its sources is worth to whom.
//!
//! Owns the rule alone, as pure functions. Must never look at a connection or a log.

use super::speakers::Announcer;
use crate::log::Scope;
use crate::types::{Action, GroupClass, SpeakerId};

/// Which subscribers of one class see a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Visibility {
    /// None of them.
    Nobody,
    /// All but those that the only speaker for the route is.
    AllBut(SpeakerId),
    /// All of them.
    All,
}

impl Visibility {
    /// The rule. A subscriber sees a route exactly when some source is allowed for it: one that does
    /// not speak for itself (unless the route is `reflected` to its own source), and of a class that its
    /// group admits.
    pub(super) fn of(
        announcers: impl Iterator<Item = Announcer>,
        subscribers: GroupClass,
        reflected: bool,
    ) -> Visibility {
        let mut allowed = announcers.filter(|it| subscribers.admits(it.class));
        let Some(first) = allowed.next() else { return Visibility::Nobody };
        // A source of another class is no subscriber of this one: there is nobody to leave out.
        let is_one_of_them = |it: &Announcer| subscribers.contains(it.class);
        match first.speaker {
            Some(sole)
                if !reflected
                    && is_one_of_them(&first)
                    && allowed.all(|it| it.speaker == first.speaker && is_one_of_them(&it)) =>
            {
                Visibility::AllBut(sole)
            }
            _ => Visibility::All,
        }
    }

    /// Who is to be told what when a route's visibility changes, by one source coming or going.
    ///
    /// # Panics
    /// If the change needs two records, which no single source can cause: one that speaks for somebody else from now
    /// on speaks for many in between.
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
                assert_eq!(one, other, "sources come, go and change one at a time");
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
    use crate::log::Reader;
    use crate::types::PeerClass::{Client, Own, Server};
    use crate::types::SourceId;
    use crate::types::{PeerId, ShardId};

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
                let reader = Reader::new(SpeakerId::of_source(subscriber));
                let sees = |set| {
                    members(set).any(|(source, of, _)| {
                        (source != subscriber || reflected)
                            && !(of == Server && class == Server)
                            && (of == Own || group != GroupClass::Uplink)
                    })
                };
                let visible = |set| {
                    let announcers = members(set).map(|(source, class, _)| Announcer {
                        source,
                        class,
                        speaker: Some(SpeakerId::of_source(source)),
                    });
                    Visibility::of(announcers, group, reflected)
                };
                let told = Visibility::change(visible(set), visible(after))
                    .filter(|(_, scope)| scope.includes(reader))
                    .map(|(action, _)| action);
                let expected = match (sees(set), sees(after)) {
                    (false, true) => Some(Action::Add),
                    (true, false) => Some(Action::Remove),
                    _ => None,
                };
                assert_eq!(told, expected, "{set:05b} {after:05b} {subscriber:?}");
                let dumped = visible(set).scope().is_some_and(|scope| scope.includes(reader));
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
