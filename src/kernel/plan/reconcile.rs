//! From a dump of the kernel to what is believed to be in it.
//!
//! Owns which of the routes and nexthop objects found are ours: see [`Ours`]. Must never count as
//! ours what has another protocol, what another client owns, or what carries its own encapsulation
//! out of a device that never was ours or in a table that is not mapped.

use std::net::Ipv6Addr;

use super::entry::Others;
use super::nexthops::NexthopKey;
use super::{Family, Few, Form, Hops, NexthopId, Notice, Ours, Plan, Prefix};
use crate::types::SeededMap;

/// What a dump of the kernel found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// What of it is ours.
    pub ours: Ours,
    /// All nexthop objects, whoever made them.
    pub nexthops: Vec<SeenNexthop>,
    /// Routes where ours would be, in the kernel's order for each prefix. Those of other protocols
    /// may be left out where there is none of ours, and in tables that are not mapped.
    pub routes: Vec<SeenRoute>,
    /// Whether it tells of other protocols at all.
    pub has_others: bool,
}

/// A nexthop object in the kernel.
#[derive(Clone, Debug)]
pub(crate) struct SeenNexthop {
    /// Its id.
    pub id: NexthopId,
    /// The index of its device, if it is not a group.
    pub link: Option<u32>,
    /// What it is.
    pub kind: SeenNexthopKind,
}

/// What a nexthop object in the kernel is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SeenNexthopKind {
    /// Of another protocol, out of our range of ids, or a group with weights.
    Foreign,
    /// A tunnel endpoint as we would write it.
    Hop {
        /// The family of the object.
        family: Family,
        /// The tunnel endpoint.
        address: Ipv6Addr,
    },
    /// A group of our protocol.
    Group {
        /// Its members; all of weight 1.
        members: Vec<NexthopId>,
    },
    /// Of our protocol, but not as we would write it.
    Other,
}

/// A route in the kernel, where ours would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SeenRoute {
    /// Where.
    pub prefix: Prefix,
    /// Whether it has our protocol number.
    pub is_of_our_protocol: bool,
    /// The index of the device that it leads out of, if it carries its own encapsulation.
    pub link: u32,
    /// How, if it may be ours. An object may turn out to be foreign, and the route with it.
    pub form: Option<Form>,
}

type SeenNexthops = SeededMap<NexthopId, SeenNexthop>;

/// What a dump found at one prefix.
#[derive(Default)]
struct Found {
    ours: Few<Form>,
    others: Others,
}

impl Plan {
    /// Takes a dump of the kernel as the truth, and queues what differs from what is wanted. A
    /// route of a former run is kept until somebody asks for it, or until [`Plan::sweep`].
    ///
    /// # Panics
    /// If operations are under way: the dump would be older than their results.
    pub(crate) fn reconcile(&mut self, snapshot: Snapshot) {
        self.counters.verified += 1;
        self.adopt(snapshot);
        self.found_former_run = true;
        self.mark_all();
        self.unknown = false;
        self.suspect = false;
    }

    pub(super) fn adopt(&mut self, snapshot: Snapshot) {
        assert_eq!(self.in_flight, 0, "a dump must not overtake results");
        self.ours = snapshot.ours;
        self.nexthops.restart(self.ours.home);
        let mut seen = SeenNexthops::with_hasher(self.hasher.clone());
        seen.extend(snapshot.nexthops.into_iter().map(|one| (one.id, one)));
        let mut routes: SeededMap<Prefix, Found> = SeededMap::with_hasher(self.hasher.clone());
        for route in snapshot.routes {
            let form = self.our_form(&route, &seen);
            let found = routes.entry(route.prefix).or_default();
            match form {
                Some(form) => found.ours.push(form),
                None => found.others.meet(found.ours.is_empty(), route.is_of_our_protocol),
            }
        }
        routes.retain(|_, found| !found.ours.is_empty());
        let named = routes.values().flat_map(|found| &found.ours).filter_map(|form| match form {
            Form::Object(id) => Some(*id),
            _ => None,
        });
        let owned = seen.keys().copied().filter(|id| self.ours.owns(*id) && is_whole(&seen, *id));
        for id in named.chain(owned).collect::<Vec<NexthopId>>() {
            self.adopt_nexthop(&seen, id);
        }
        for id in seen.keys().copied() {
            self.nexthops.avoid(id);
        }
        self.adopt_routes(routes, &seen, snapshot.has_others);
    }

    /// The form of a route in the kernel if it is ours.
    fn our_form(&self, route: &SeenRoute, seen: &SeenNexthops) -> Option<Form> {
        let form = route.form.clone()?;
        match form {
            Form::Object(id) => (self.ours.covers(id) && is_whole(seen, id)).then_some(form),
            _ if !self.is_mapped(route.prefix.table) => None,
            _ if self.ours.link == Some(route.link) => Some(form),
            _ if self.ours.has_link(route.link) => Some(Form::Other { link: route.link }),
            _ => None,
        }
    }

    fn adopt_routes(
        &mut self,
        mut routes: SeededMap<Prefix, Found>,
        seen: &SeenNexthops,
        has_others: bool,
    ) {
        for (prefix, found) in &routes {
            let is_former = !self.found_former_run || !self.entries.contains_key(prefix);
            let is_kept = is_former && !self.swept;
            let hops_of = |form: &Form| match form {
                Form::Inline(hops) => hops.clone(),
                Form::Object(id) => hops_of(seen, *id),
                Form::Other { .. } => Hops::new(),
            };
            let stale = is_kept.then(|| found.ours.iter().flat_map(hops_of).collect());
            let entry = self.entries.entry(*prefix).or_default();
            if stale.is_some() {
                entry.stale = stale;
            }
        }
        let (mut installed, mut stale, mut repaired) = (0, 0, 0);
        let mut neighbours = Vec::new();
        for (prefix, entry) in &mut self.entries {
            let found = routes.remove(prefix).unwrap_or_default();
            if found.ours.is_empty() {
                entry.stale = None;
            }
            installed += u64::from(!found.ours.is_empty());
            stale += u64::from(entry.stale.is_some());
            if found.ours != entry.kernel {
                repaired += u64::from(!self.unknown);
                entry.waits_for_retry = false; // things have changed
            }
            for form in &found.ours {
                if let Form::Object(id) = form {
                    self.nexthops.hold(*id);
                }
            }
            if found.others != entry.others && (has_others || found.ours.is_empty()) {
                neighbours.push((*prefix, found.others));
            }
            entry.kernel = found.ours;
        }
        self.counters.installed = installed;
        self.counters.stale = stale;
        self.counters.repaired += repaired;
        neighbours.into_iter().for_each(|(prefix, others)| self.set_others(prefix, others));
    }

    /// Takes note of the routes of others beside ours, and tells of them if that is new.
    pub(super) fn set_others(&mut self, prefix: Prefix, others: Others) {
        let entry = self.entries.get_mut(&prefix).expect("the caller has an entry");
        let before = std::mem::replace(&mut entry.others, others);
        self.counters.shared += u64::from(others.are_any());
        self.counters.shared -= u64::from(before.are_any());
        let is_new = others.before != before.before || !before.are_any();
        if others.are_any() && is_new {
            self.notices.push(Notice::Shared { prefix, ours_counts: !others.before });
        }
    }

    /// Members come before their groups.
    fn adopt_nexthop(&mut self, seen: &SeenNexthops, id: NexthopId) {
        if self.nexthops.contains(id) {
            return;
        }
        let Some(found) = seen.get(&id) else { return };
        let owned = self.ours.owns(id);
        // What is elsewhere is not used again: its routes move.
        let is_elsewhere = found.link.is_some() && found.link != self.ours.link;
        match &found.kind {
            SeenNexthopKind::Hop { family, address } => {
                let hops = Hops::from_slice(&[*address]);
                let key = (owned && !is_elsewhere).then_some(NexthopKey { family: *family, hops });
                self.nexthops.adopt(id, key, Vec::new(), owned, is_elsewhere);
            }
            SeenNexthopKind::Group { members } => {
                for member in members {
                    self.adopt_nexthop(seen, *member);
                }
                let key = self.group_key(members).filter(|_| owned);
                self.nexthops.adopt(id, key, members.clone(), owned, false);
            }
            SeenNexthopKind::Other => {
                self.nexthops.adopt(id, None, Vec::new(), owned, is_elsewhere);
            }
            SeenNexthopKind::Foreign => {}
        }
    }

    fn group_key(&self, members: &[NexthopId]) -> Option<NexthopKey> {
        let hops: Option<Vec<(Family, Ipv6Addr)>> =
            members.iter().map(|member| self.nexthops.single(*member)).collect();
        let hops = hops?;
        let (family, _) = *hops.first()?;
        let mut addresses: Hops = hops.iter().map(|(_, address)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let is_plain = addresses.len() == members.len() && addresses.len() > 1;
        let is_one_family = hops.iter().all(|(one, _)| *one == family);
        (is_plain && is_one_family).then_some(NexthopKey { family, hops: addresses })
    }
}

/// Whether an object is of our protocol, and so are its members.
fn is_whole(seen: &SeenNexthops, id: NexthopId) -> bool {
    let is_single = |id: &NexthopId| {
        let kind = seen.get(id).map(|one| &one.kind);
        matches!(kind, Some(SeenNexthopKind::Hop { .. } | SeenNexthopKind::Other))
    };
    match seen.get(&id).map(|one| &one.kind) {
        Some(SeenNexthopKind::Group { members }) => {
            !members.is_empty() && members.iter().all(is_single)
        }
        _ => is_single(&id),
    }
}

/// The tunnel endpoints that an object stands for, wherever its device is.
fn hops_of(seen: &SeenNexthops, id: NexthopId) -> Hops {
    match seen.get(&id).map(|one| &one.kind) {
        Some(SeenNexthopKind::Hop { address, .. }) => Hops::from_slice(&[*address]),
        Some(SeenNexthopKind::Group { members }) => {
            members.iter().flat_map(|member| hops_of_single(seen, *member)).collect()
        }
        _ => Hops::new(),
    }
}

fn hops_of_single(seen: &SeenNexthops, id: NexthopId) -> Option<Ipv6Addr> {
    match seen.get(&id)?.kind {
        SeenNexthopKind::Hop { address, .. } => Some(address),
        _ => None,
    }
}
