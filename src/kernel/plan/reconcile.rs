//! From a dump of the kernel to what is believed to be in it.
//!
//! Owns which of the routes and nexthop objects found are ours. Must never count as ours what has
//! another protocol, another link or a table that is not mapped: the caller's dump leaves out the
//! first and the last, and names the link's own.

use std::net::Ipv6Addr;

use super::entry::InKernel;
use super::nexthops::NexthopKey;
use super::{Family, Form, Hops, NexthopId, Plan, Prefix};
use crate::types::SeededMap;

/// What a dump of the kernel found.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// All nexthop objects, whoever made them.
    pub nexthops: Vec<SeenNexthop>,
    /// Routes of our protocol in the mapped tables that name an object, or lead out of our link.
    pub routes: Vec<SeenRoute>,
}

/// A nexthop object in the kernel.
#[derive(Clone, Debug)]
pub struct SeenNexthop {
    /// Its id.
    pub id: NexthopId,
    /// What it is.
    pub kind: SeenNexthopKind,
}

/// What a nexthop object in the kernel is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeenNexthopKind {
    /// Of another protocol or link, out of our range of ids, or a group with weights.
    Foreign,
    /// A tunnel endpoint as we would write it, on our link.
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
    /// Of our protocol and link, but not as we would write it.
    Other,
}

/// A route of our protocol in the kernel.
#[derive(Clone, Debug)]
pub struct SeenRoute {
    /// Where.
    pub prefix: Prefix,
    /// How. An object may turn out to be foreign, and the route with it.
    pub form: Form,
}

impl Plan {
    /// Takes a dump of the kernel as the truth, and queues what differs from what is wanted. A
    /// route of a former run is kept until somebody asks for it, or until [`Plan::sweep`].
    ///
    /// # Panics
    /// If operations are under way: the dump would be older than their results.
    pub fn reconcile(&mut self, snapshot: Snapshot) {
        self.counters.verified += 1;
        self.adopt(snapshot);
        self.found_former_run = true;
        self.mark_all();
        self.unknown = false;
        self.suspect = false;
    }

    pub(super) fn adopt(&mut self, snapshot: Snapshot) {
        assert_eq!(self.in_flight, 0, "a dump must not overtake results");
        let known = self.nexthops.restart();
        let mut seen: SeededMap<NexthopId, SeenNexthopKind> =
            SeededMap::with_hasher(self.hasher.clone());
        seen.extend(snapshot.nexthops.into_iter().map(|one| (one.id, one.kind)));
        let is_ours = |form: &Form| match form {
            Form::Object(id) => is_ours(&seen, *id),
            Form::Inline(_) | Form::Other => true,
        };
        let mut routes: SeededMap<Prefix, Form> = SeededMap::with_hasher(self.hasher.clone());
        for route in snapshot.routes.into_iter().filter(|route| is_ours(&route.form)) {
            routes.entry(route.prefix).or_insert(route.form);
        }
        // An object that none of our routes names may be another program's: it is adopted only if
        // we knew it before.
        for form in routes.values() {
            if let Form::Object(id) = form {
                self.adopt_nexthop(&seen, *id);
            }
        }
        for id in known.into_iter().filter(|id| self::is_ours(&seen, *id)) {
            self.adopt_nexthop(&seen, id);
        }
        for id in seen.keys().copied() {
            self.nexthops.avoid(id);
        }
        self.adopt_routes(routes);
    }

    fn adopt_routes(&mut self, mut routes: SeededMap<Prefix, Form>) {
        for (prefix, form) in &routes {
            let is_former = !self.found_former_run || !self.entries.contains_key(prefix);
            let is_kept = is_former && !self.swept && !self.is_own(*prefix);
            let hops = match form {
                Form::Inline(hops) => hops.clone(),
                Form::Object(id) => self.nexthops.hops(*id),
                Form::Other => Hops::new(),
            };
            let entry = self.entries.entry(*prefix).or_default();
            if is_kept {
                entry.stale = Some(hops);
            }
        }
        let (mut installed, mut stale, mut repaired) = (0, 0, 0);
        for (prefix, entry) in &mut self.entries {
            let found = routes.remove(prefix).map_or(InKernel::Absent, InKernel::Ours);
            match &found {
                InKernel::Absent => entry.stale = None,
                InKernel::Ours(form) => {
                    installed += 1;
                    if let Form::Object(id) = form {
                        self.nexthops.hold(*id);
                    }
                }
            }
            stale += u64::from(entry.stale.is_some());
            repaired += u64::from(found != entry.kernel && !self.unknown);
            entry.kernel = found;
        }
        self.counters.installed = installed;
        self.counters.stale = stale;
        self.counters.repaired += repaired;
    }

    /// Whether we announce the destination ourselves.
    fn is_own(&self, prefix: Prefix) -> bool {
        let in_table =
            self.config.vni_table_map.iter().filter(|(_, table)| **table == prefix.table);
        let mut vnis = in_table.map(|(vni, _)| *vni);
        vnis.any(|vni| self.own.contains_key(&(vni, prefix.destination)))
    }

    /// Members come before their groups.
    fn adopt_nexthop(&mut self, seen: &SeededMap<NexthopId, SeenNexthopKind>, id: NexthopId) {
        if self.nexthops.contains(id) {
            return;
        }
        match seen.get(&id) {
            Some(SeenNexthopKind::Hop { family, address }) => {
                let hops = Hops::from_slice(&[*address]);
                let key = NexthopKey { family: *family, hops };
                self.nexthops.adopt(id, Some(key), Vec::new());
            }
            Some(SeenNexthopKind::Group { members }) => {
                for member in members {
                    self.adopt_nexthop(seen, *member);
                }
                let key = self.group_key(members);
                self.nexthops.adopt(id, key, members.clone());
            }
            Some(SeenNexthopKind::Other) => self.nexthops.adopt(id, None, Vec::new()),
            Some(SeenNexthopKind::Foreign) | None => {}
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

/// Whether all that the object consists of is ours.
fn is_ours(seen: &SeededMap<NexthopId, SeenNexthopKind>, id: NexthopId) -> bool {
    match seen.get(&id) {
        Some(SeenNexthopKind::Group { members }) => {
            !members.is_empty() && members.iter().all(|member| is_single(seen, *member))
        }
        _ => is_single(seen, id),
    }
}

/// Whether the object is a single one on our link.
fn is_single(seen: &SeededMap<NexthopId, SeenNexthopKind>, id: NexthopId) -> bool {
    matches!(seen.get(&id), Some(SeenNexthopKind::Hop { .. } | SeenNexthopKind::Other))
}
