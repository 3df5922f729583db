//! One of the tables that are compared, wherever it is.
//!
//! Owns the ways of learning what it has. Must never keep routes that were not asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use metalbond_uring::internals::cli::{Side, SideAt};
use metalbond_uring::types::{Digest, NextHop, NextHopType, Route, Vni};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::ask::{Answer, AskError, Bounded, Node, Told, error_text, read_routes};

/// VNIs that one question names: more would make a long URL.
const VNIS_PER_QUESTION: usize = 256;

/// What makes two routes the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Identity {
    /// All that the protocol says of them.
    Full,
    /// Destination and address of the next hop: v0.3.0 of the Go program tells no more.
    Addresses,
}

/// What a side has, by VNI.
pub(super) struct Index {
    /// VNIs with a route.
    pub(super) vnis: BTreeMap<Vni, Summary>,
    /// Whether it is a client, whose digests count its own routes too.
    pub(super) is_client: bool,
    /// Where it is asked for routes.
    pub(super) source: Source,
    /// Whether it tells only addresses of next hops.
    pub(super) has_bare_addresses: bool,
    /// Entries that are no routes.
    pub(super) unreadable: u64,
}

/// A VNI.
#[derive(Clone, Copy, Default)]
pub(super) struct Summary {
    pub(super) routes: u64,
    pub(super) digest: Digest,
    /// The digest by [`Identity::Addresses`]; None if only the node's own is known.
    pub(super) digest_of_addresses: Option<Digest>,
}

/// Where routes are from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Single VNIs can be asked for.
    ByVni(Node),
    /// All VNIs in one answer.
    Whole(Node),
    /// A file with all VNIs.
    File(String),
}

/// `/summary.json`.
#[derive(Deserialize)]
struct Summarised {
    /// Those of a client; nothing at a reflector.
    #[serde(default)]
    servers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Vnis {
    vnis: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    vni: u32,
    routes: u64,
    /// Another program's list may have none.
    digest: Option<String>,
}

impl Index {
    /// Asks a side what it has. Without digests of its own, all its routes are read once.
    pub(super) fn of(
        side: &Side,
        vnis: &BTreeSet<Vni>,
        timeout: Duration,
        until: Option<Instant>,
    ) -> Result<Index, AskError> {
        let node = |address: &_| Node { address: Clone::clone(address), timeout, until };
        match &side.at {
            SideAt::File(path) => {
                Index::by_reading(Source::File(path.to_string_lossy().into_owned()), vnis)
            }
            SideAt::Routes(address) => Index::by_reading(Source::Whole(node(address)), vnis),
            SideAt::Reflector(address) => {
                let node = node(address);
                let answer = node.ask("/vnis.json", &query(vnis))?;
                // The Go program answers any path with a page.
                let is_other = answer.status == 404 || answer.status == 200 && !answer.is_json();
                let rows = if is_other { None } else { rows(answer)? };
                match rows {
                    Some(_) if is_client(&node)? => {
                        let index = Index::by_reading(Source::ByVni(node), vnis)?;
                        Ok(Index { is_client: true, ..index })
                    }
                    Some(rows) => Ok(Index {
                        is_client: false,
                        vnis: rows,
                        source: Source::ByVni(node),
                        has_bare_addresses: false,
                        unreadable: 0,
                    }),
                    None => Index::by_reading(Source::Whole(node), vnis),
                }
            }
        }
    }

    /// The same, by reading all routes.
    pub(super) fn by_reading(source: Source, vnis: &BTreeSet<Vni>) -> Result<Index, AskError> {
        let mut found: BTreeMap<Vni, Summary> = BTreeMap::new();
        let told = source.read(vnis, &mut |vni, route| {
            let summary = found.entry(vni).or_default();
            summary.routes += 1;
            summary.digest.add(route);
            let bare = Identity::Addresses.of(route);
            summary.digest_of_addresses.get_or_insert_default().add(&bare);
        })?;
        Ok(Index {
            is_client: false,
            vnis: found,
            source,
            has_bare_addresses: told.has_bare_addresses,
            unreadable: told.unreadable,
        })
    }

    /// Whether it can be compared by this identity.
    pub(super) fn knows(&self, identity: Identity) -> bool {
        identity == Identity::Full
            || self.vnis.values().all(|summary| summary.digest_of_addresses.is_some())
    }

    /// The digest of a VNI.
    pub(super) fn digest(&self, vni: Vni, identity: Identity) -> Digest {
        let summary = self.vnis.get(&vni).copied().unwrap_or_default();
        match identity {
            Identity::Full => summary.digest,
            Identity::Addresses => summary.digest_of_addresses.unwrap_or_default(),
        }
    }
}

impl Source {
    /// The routes of these VNIs, sorted, each once.
    pub(super) fn tables(
        &self,
        vnis: &BTreeSet<Vni>,
        identity: Identity,
    ) -> Result<BTreeMap<Vni, Vec<Route>>, AskError> {
        let mut tables: BTreeMap<Vni, Vec<Route>> = BTreeMap::new();
        self.read(vnis, &mut |vni, route| {
            tables.entry(vni).or_default().push(identity.of(route));
        })?;
        for table in tables.values_mut() {
            table.sort_unstable();
            table.dedup();
        }
        Ok(tables)
    }

    /// Calls `each` with all routes of these VNIs; of all, if there are none.
    fn read(
        &self,
        vnis: &BTreeSet<Vni>,
        each: &mut dyn FnMut(Vni, &Route),
    ) -> Result<Told, AskError> {
        let mut each = |vni: Vni, route: &Route| {
            if vnis.is_empty() || vnis.contains(&vni) {
                each(vni, route);
            }
        };
        let mut all = Told::default();
        match self {
            Source::File(path) => {
                let file = File::open(Path::new(path)).map_err(|error| AskError::File {
                    path: path.clone(),
                    why: error_text(&error),
                })?;
                if file.metadata().is_ok_and(|it| it.is_file() && it.len() == 0) {
                    let why = "the file is empty".to_owned();
                    return Err(AskError::File { path: path.clone(), why });
                }
                let file = Bounded::new(file, path, u64::MAX);
                all = read(BufReader::with_capacity(64 << 10, file), path, &mut each)?;
            }
            Source::Whole(node) => all = ask(node, &[], &mut each)?,
            Source::ByVni(node) if vnis.is_empty() => all = ask(node, &[], &mut each)?,
            Source::ByVni(node) => {
                let named: Vec<Vni> = vnis.iter().copied().collect();
                for part in named.chunks(VNIS_PER_QUESTION) {
                    let told = ask(node, &query(part), &mut each)?;
                    all.unreadable += told.unreadable;
                    all.has_bare_addresses |= told.has_bare_addresses;
                }
            }
        }
        Ok(all)
    }
}

impl Identity {
    /// What counts of a route.
    pub(super) fn of(self, route: &Route) -> Route {
        let next_hop = match self {
            Identity::Full => route.next_hop,
            Identity::Addresses => NextHop {
                address: route.next_hop.address,
                vni: Vni(0),
                kind: NextHopType::STANDARD,
                nat_port_from: 0,
                nat_port_to: 0,
            },
        };
        Route { next_hop, ..*route }
    }
}

fn query<'a>(vnis: impl IntoIterator<Item = &'a Vni>) -> Vec<(&'static str, String)> {
    vnis.into_iter().map(|vni| ("vni", vni.to_string())).collect()
}

/// Whether it says that it is a client. What has no summary is none.
fn is_client(node: &Node) -> Result<bool, AskError> {
    let answer = node.ask("/summary.json", &[])?;
    if answer.status != 200 || !answer.is_json() {
        return Ok(false);
    }
    let url = answer.url.clone();
    let told: Summarised =
        serde_json::from_reader(answer.json()?).map_err(|error| AskError::of(&url, error))?;
    Ok(told.servers.is_some())
}

/// VNIs with a route, and their digests. None if there is one without.
fn rows(answer: Answer) -> Result<Option<BTreeMap<Vni, Summary>>, AskError> {
    let url = answer.url.clone();
    let told: Vnis =
        serde_json::from_reader(answer.json()?).map_err(|error| AskError::of(&url, error))?;
    let mut rows = BTreeMap::new();
    for row in told.vnis.into_iter().filter(|row| row.routes > 0) {
        let Some(digest) = row.digest else { return Ok(None) };
        let digest = digest.parse().map_err(|_| {
            let why = format!("the digest of VNI {} has not 16 hexadecimal digits", row.vni);
            AskError::Nonsense { url: url.clone(), why }
        })?;
        let summary = Summary { routes: row.routes, digest, digest_of_addresses: None };
        rows.insert(Vni(row.vni), summary);
    }
    Ok(Some(rows))
}

fn ask(
    node: &Node,
    query: &[(&str, String)],
    each: &mut dyn FnMut(Vni, &Route),
) -> Result<Told, AskError> {
    let answer = node.ask("/routes.json", query)?;
    let url = answer.url.clone();
    read(answer.json()?, &url, each)
}

fn read(body: impl Read, url: &str, each: &mut dyn FnMut(Vni, &Route)) -> Result<Told, AskError> {
    let mut each = |vni, route: &Route, _| {
        each(vni, route);
        Ok(())
    };
    read_routes(body, &mut each).map_err(|error| AskError::of(url, error))
}
