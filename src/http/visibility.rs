//! `/visibility.json`: who announces a route, who sees it, and who does not and why.
//!
//! Owns its shape, and the words for the reasons. Must never decide who sees what: that is the rule by which the tables'
//! homes tell their peers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::answer::{Content, Refusal};
use super::query::{Filter, Prefix, QueryError};
use super::routes::{hop_key, key};
use super::{View, collect};
use crate::session::State;
use crate::shard::{Announcer, Audience, Sight, Sources, Standing, StandingView};
use crate::types::{GroupClass, PeerId, ReflectOwn, Route, SourceId, Vni};

/// Routes that one answer tells of.
const ROUTES_MAX: usize = 20;
/// Addresses in one list; the count beside it is of all.
const ADDRESSES_MAX: usize = 200;

#[derive(Serialize)]
struct Answer {
    routes: Vec<Row>,
    /// Whether there are more, which are left out.
    cut: bool,
}

#[derive(Serialize)]
struct Row {
    vni: u32,
    destination: String,
    next_hop: Hop,
    announced_by: List,
    /// Those for whom it is, and who were sent all there is of the VNI.
    seen_by: List,
    /// Those for whom it is, and who have still to be sent something of the VNI, be it this route or another.
    perhaps_not_yet: Grouped,
    /// Those for whom it is not.
    not_seen_by: Grouped,
    /// Peers that are not established yet: what they will subscribe to is not known.
    connecting: List,
    /// Established peers that do not want to know of the VNI.
    not_subscribed: List,
}

#[derive(Serialize)]
struct Hop {
    address: IpAddr,
    vni: u32,
    r#type: i32,
    nat_port_from: u16,
    nat_port_to: u16,
}

#[derive(Serialize)]
struct List {
    count: usize,
    peers: Vec<Named>,
}

#[derive(Serialize)]
struct Grouped {
    count: usize,
    reasons: Vec<Group>,
}

#[derive(Serialize)]
struct Group {
    reason: Reason,
    why: &'static str,
    #[serde(flatten)]
    list: List,
}

#[derive(Clone, Serialize)]
struct Named {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_bytes: Option<u64>,
}

/// Why a peer does not see a route that the node knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Own,
    BetweenServers,
    OwnServer,
    Joining,
    Behind,
    Slow,
}

impl Reason {
    fn why(self) -> &'static str {
        match self {
            Reason::Own => {
                "nobody else announces it, and a peer does not get its own routes back (unless --reflect-own says so)"
            }
            Reason::BetweenServers => {
                "it declared itself a server, as did all who announce the route: servers pass nothing on to servers"
            }
            Reason::OwnServer => {
                "this node is its client, and tells it only what it announces itself"
            }
            Reason::Joining => "it is about to be sent the table",
            Reason::Behind => "so many bytes of this VNI have still to be sent to it",
            Reason::Slow => "it is slow, and will be told the difference as soon as it reads on",
        }
    }
}

impl Reason {
    /// Whether it is for the peer, which may know of it already.
    fn is_for_now(self) -> bool {
        matches!(self, Reason::Joining | Reason::Behind | Reason::Slow)
    }
}

/// The routes that the filter means, each with its peers.
pub(super) async fn visibility(view: &Arc<View>, filter: &Filter) -> Result<Content, Refusal> {
    let missing = QueryError::Missing("prefix", "it takes ADDRESS/LENGTH, or an ADDRESS");
    let prefix = filter.prefix.ok_or(Refusal::Query(missing))?;
    let _walk = view.walks.acquire().await.map_err(|_| Refusal::Gone)?;
    let mut answer = Answer { routes: Vec::new(), cut: false };
    let vnis: Vec<Vni> = match filter.vnis.is_empty() {
        true => collect::vnis(view).await?.into_keys().collect(),
        false => filter.vnis.iter().copied().collect(),
    };
    for vni in vnis {
        let mut routes = matching(view, vni, prefix).await?;
        let room = ROUTES_MAX - answer.routes.len();
        answer.cut |= routes.len() > room;
        routes.truncate(room);
        if !routes.is_empty() {
            answer.routes.extend(rows(view, vni, routes).await?);
        }
        if answer.cut {
            break;
        }
    }
    Ok(Content::json(&answer))
}

/// The routes of a VNI that are meant, sorted as everywhere.
async fn matching(view: &View, vni: Vni, prefix: Prefix) -> Result<Vec<(Route, Sources)>, Refusal> {
    let keep = |route: &Route, sources: &[Announcer]| {
        prefix.may_be(&route.destination).then(|| (*route, Sources::from(sources)))
    };
    let mut routes = collect::routes(&view.asker, vni, &keep).await?;
    prefix.choose(&mut routes, |(route, _)| &route.destination);
    let sorted = tokio::task::spawn_blocking(move || {
        routes.sort_by_cached_key(|(route, _)| (key(&route.destination), hop_key(&route.next_hop)));
        // Withdrawn and announced again amid the walk: the later one holds.
        routes.reverse();
        routes.dedup_by(|(one, _), (other, _)| one == other);
        routes.reverse();
        routes
    });
    sorted.await.map_err(|_| Refusal::Gone)
}

/// What is told of some routes of a VNI.
async fn rows(
    view: &View,
    vni: Vni,
    routes: Vec<(Route, Sources)>,
) -> Result<impl Iterator<Item = Row>, Refusal> {
    let asked = view.asker.ask(view.asker.home_of(vni), |shard, _| shard.reflect_own());
    let reflect = asked.await.ok_or(Refusal::Gone)?;
    let tally = |(route, sources): (Route, Sources)| Tally::new(reflect, route, &sources);
    let mut tallies: Vec<Tally> = routes.into_iter().map(tally).collect();
    let (mut others, mut connecting) = (Names::default(), Names::default());
    collect::standings(&view.asker, vni, |peer| {
        if matches!(peer.state, State::Closed | State::Retry) {
            return;
        }
        if peer.state != State::Established {
            return connecting.add(&peer, None);
        }
        if peer.subscribed.is_none() && is_free(&peer) {
            others.add(&peer, None);
        }
        tallies.iter_mut().for_each(|tally| tally.count(&peer));
    })
    .await?;
    Ok(tallies.into_iter().map(move |tally| tally.into_row(vni, &others, &connecting)))
}

/// Whether it is up to the peer what it subscribes to.
fn is_free(peer: &StandingView) -> bool {
    !peer.is_dialled && peer.remote.is_some()
}

/// The peers of one route, while they are gone through.
struct Tally {
    route: Route,
    audience: Audience,
    /// Who announces it, ascending.
    sources: Vec<SourceId>,
    announced_by: Names,
    seen_by: Names,
    not_seen_by: BTreeMap<Reason, Names>,
}

impl Tally {
    fn new(reflect: ReflectOwn, route: Route, sources: &Sources) -> Tally {
        let audience = Audience::of(reflect, &route, sources);
        let mut sources: Vec<SourceId> = sources.iter().map(|it| it.source).collect();
        sources.sort_unstable();
        Tally {
            route,
            audience,
            sources,
            announced_by: Names::default(),
            seen_by: Names::default(),
            not_seen_by: BTreeMap::new(),
        }
    }

    fn count(&mut self, peer: &StandingView) {
        if self.sources.binary_search(&peer.source).is_ok() {
            self.announced_by.add(peer, None);
        }
        match self.reason(peer) {
            None => {}
            Some(Ok(())) => self.seen_by.add(peer, None),
            Some(Err(reason)) => {
                let pending_bytes = match peer.subscribed {
                    Some((_, Standing::Behind(bytes))) if reason == Reason::Behind => Some(bytes),
                    _ => None,
                };
                self.not_seen_by.entry(reason).or_default().add(peer, pending_bytes);
            }
        }
    }

    /// Why an established peer does not see the route, if it does not; None if it does not want to.
    fn reason(&self, peer: &StandingView) -> Option<Result<(), Reason>> {
        let (class, standing) = match peer.subscribed {
            Some(subscribed) => subscribed,
            // A server of ours does not choose: it is told what is for it.
            None if peer.is_dialled => (GroupClass::Uplink, Standing::Joining),
            None => return None,
        };
        Some(match (self.audience.sight(class, peer.reader), standing) {
            (Sight::OnlyOwn, _) => Err(Reason::Own),
            (Sight::NoSource, _) if class == GroupClass::Uplink => Err(Reason::OwnServer),
            (Sight::NoSource, _) => Err(Reason::BetweenServers),
            (Sight::Sees, Standing::UpToDate) => Ok(()),
            (Sight::Sees, Standing::Joining) => Err(Reason::Joining),
            (Sight::Sees, Standing::Behind(_)) => Err(Reason::Behind),
            (Sight::Sees, Standing::Slow) => Err(Reason::Slow),
        })
    }

    fn into_row(self, vni: Vni, others: &Names, connecting: &Names) -> Row {
        let hop = &self.route.next_hop;
        let mut announced_by = self.announced_by.list();
        // Those that are not connected any more count as well: their routes stay for now.
        announced_by.count = self.sources.len();
        let grouped = |is_for_now| {
            let reasons = self.not_seen_by.iter().filter(|(it, _)| it.is_for_now() == is_for_now);
            Grouped::of(reasons)
        };
        Row {
            vni: vni.0,
            destination: self.route.destination.to_string(),
            next_hop: Hop {
                address: hop.address,
                vni: hop.vni.0,
                r#type: hop.kind.0,
                nat_port_from: hop.nat_port_from,
                nat_port_to: hop.nat_port_to,
            },
            announced_by,
            seen_by: self.seen_by.list(),
            perhaps_not_yet: grouped(true),
            not_seen_by: grouped(false),
            connecting: connecting.list(),
            not_subscribed: others.list(),
        }
    }
}

impl Grouped {
    fn of<'a>(reasons: impl Iterator<Item = (&'a Reason, &'a Names)>) -> Grouped {
        let group = |(reason, names): (&Reason, &Names)| Group {
            reason: *reason,
            why: reason.why(),
            list: names.list(),
        };
        let reasons: Vec<Group> = reasons.map(group).collect();
        Grouped { count: reasons.iter().map(|group| group.list.count).sum(), reasons }
    }
}

/// Peers: how many, and the first of them by address.
#[derive(Default)]
struct Names {
    count: usize,
    first: BTreeMap<Place, Named>,
}

/// Where a peer stands among others: by address; this node itself comes first.
type Place = (Option<(IpAddr, u16)>, PeerId);

impl Names {
    fn add(&mut self, peer: &StandingView, pending_bytes: Option<u64>) {
        self.count += 1;
        let place = (peer.remote.map(|it| (it.ip().to_canonical(), it.port())), peer.id);
        let is_first = self.first.len() < ADDRESSES_MAX
            || self.first.last_key_value().is_some_and(|(last, _)| place < *last);
        if is_first {
            let address = peer.remote.map_or("this node".to_owned(), |remote| remote.to_string());
            self.first.insert(place, Named { address, pending_bytes });
            if self.first.len() > ADDRESSES_MAX {
                self.first.pop_last();
            }
        }
    }

    fn list(&self) -> List {
        List { count: self.count, peers: self.first.values().cloned().collect() }
    }
}
