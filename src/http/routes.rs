//! `/routes.json` and `/routes.yaml`: the tables, in the shape that programs know from the Go implementation
//! (protocol section 8.2).
//!
//! Owns that shape. Must never hold more than one VNI's routes (200 bytes each at most), and one chunk of text, for each
//! of the two readers that there may be.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{Content, Refusal};
use super::query::{Filter, Prefix};
use super::{View, collect};
use crate::shard::{Announcer, PeerView};
use crate::types::{Destination, NextHop, PeerClass, Route, SourceId, Vni};

/// Text that is sent together, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// The tables that the filter lets pass, piece by piece, as the reader takes them.
pub(super) async fn routes(
    view: &Arc<View>,
    format: Format,
    filter: Filter,
) -> Result<Content, Refusal> {
    let turn = Arc::clone(&view.tables).try_acquire_owned().map_err(|_| Refusal::Busy)?;
    let announcers = match filter.peer {
        None => None,
        Some(address) => {
            let is_meant = |peer: &PeerView| peer.remote.is_some_and(|remote| address.is(remote));
            Some(collect::sources(view, is_meant).await?)
        }
    };
    let mut vnis: Vec<Vni> = match filter.vnis.is_empty() {
        true => {
            let told = collect::vnis(view).await?;
            told.into_values().filter(|vni| vni.routes > 0).map(|vni| vni.vni).collect()
        }
        false => filter.vnis.iter().copied().collect(),
    };
    if format == Format::Json {
        // As text, as they are keys.
        vnis.sort_by_cached_key(|vni| vni.to_string());
    }
    let mut text = Text {
        format,
        view: Arc::clone(view),
        vnis: vnis.into_iter(),
        prefix: filter.prefix,
        announcers,
        table: Vec::new().into_iter(),
        last: None,
        text: String::new(),
        stage: Stage::Tables,
        is_first: true,
        _turn: turn,
    };
    text.begin(&jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string());
    let chunks = futures_util::stream::unfold(text, async |mut text| {
        let chunk = text.chunk().await?;
        Some((chunk.map(Frame::data), text))
    });
    let kind = match format {
        Format::Json => "application/json",
        Format::Yaml => "text/yaml",
    };
    Ok(Content { kind, body: StreamBody::new(chunks).boxed_unsync() })
}

/// A destination as it is sorted: IPv4 first, then by its text.
pub(super) type Key = (bool, String);

struct Text {
    format: Format,
    view: Arc<View>,
    /// VNIs that are not written yet.
    vnis: std::vec::IntoIter<Vni>,
    prefix: Option<Prefix>,
    announcers: Option<BTreeSet<SourceId>>,
    /// What is left of the one that is being written, and the destination written last.
    table: std::vec::IntoIter<(Key, Route)>,
    last: Option<String>,
    text: String,
    stage: Stage,
    /// Whether no VNI was written yet.
    is_first: bool,
    _turn: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Tables,
    Over,
}

impl Text {
    /// The next part; None at the end. An error if the node is shutting down: what came so far is not all.
    async fn chunk(&mut self) -> Option<std::io::Result<Bytes>> {
        if self.stage == Stage::Over {
            return None;
        }
        while self.text.len() < CHUNK_BYTES {
            if let Some((key, route)) = self.table.next() {
                self.hop(&key, &route);
                if self.table.len() == 0 {
                    self.end_table();
                }
                continue;
            }
            let Some(vni) = self.vnis.next() else {
                self.end();
                self.stage = Stage::Over;
                break;
            };
            match self.collect(vni).await {
                Ok(routes) if routes.is_empty() => {}
                Ok(routes) => {
                    self.begin_table(vni);
                    self.table = routes.into_iter();
                }
                Err(_) => {
                    self.stage = Stage::Over;
                    return Some(Err(std::io::Error::other("shutting down")));
                }
            }
        }
        Some(Ok(Bytes::from(std::mem::take(&mut self.text))))
    }

    /// The routes of a VNI, in their order.
    async fn collect(&self, vni: Vni) -> Result<Vec<(Key, Route)>, Refusal> {
        let (prefix, announcers) = (self.prefix, &self.announcers);
        let keep = |route: &Route, sources: &[Announcer]| {
            let is_announced = announcers
                .as_ref()
                .is_none_or(|announcers| sources.iter().any(|it| announcers.contains(&it.source)));
            // A node's own routes are not received ones.
            let is_received = sources.iter().any(|it| it.class != PeerClass::Own);
            let may_be = prefix.is_none_or(|prefix| prefix.may_be(&route.destination));
            (is_received && is_announced && may_be).then(|| (key(&route.destination), *route))
        };
        let mut routes = collect::routes(&self.view.asker, vni, &keep).await?;
        if let Some(prefix) = prefix {
            prefix.choose(&mut routes, |(_, route)| &route.destination);
        }
        // A large table takes a second: others are answered meanwhile.
        let sorted = tokio::task::spawn_blocking(move || {
            routes.sort_unstable_by(|(a, one), (b, other)| {
                a.cmp(b).then_with(|| hop_key(&one.next_hop).cmp(&hop_key(&other.next_hop)))
            });
            // Withdrawn and announced again amid the walk.
            routes.dedup_by(|(_, one), (_, other)| one == other);
            routes
        });
        sorted.await.map_err(|_| Refusal::Gone)
    }

    fn begin(&mut self, date: &str) {
        match self.format {
            Format::Json => {
                let _ = write!(self.text, "{{\n  \"date\": \"{date}\",\n  \"vnet\": {{");
            }
            Format::Yaml => {
                let _ = write!(self.text, "date: \"{date}\"\nvnet:");
            }
        }
    }

    fn end(&mut self) {
        let (empty, version) = (self.is_first, self.view.version);
        let _ = match self.format {
            Format::Json => {
                let close = if empty { "}" } else { "\n  }" };
                let version = serde_json::Value::from(version);
                writeln!(self.text, "{close},\n  \"metalbondVersion\": {version}\n}}")
            }
            Format::Yaml => {
                let close = if empty { " {}" } else { "" };
                writeln!(self.text, "{close}\nmetalbondversion: {version}")
            }
        };
    }

    fn begin_table(&mut self, vni: Vni) {
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        self.last = None;
        let _ = match self.format {
            Format::Json => write!(self.text, "{comma}\n    \"{vni}\": {{"),
            Format::Yaml => write!(self.text, "\n  {vni}:"),
        };
    }

    fn end_table(&mut self) {
        if self.format == Format::Json {
            self.text.push_str("\n      ]\n    }");
        }
    }

    fn hop(&mut self, (is_ipv6, destination): &Key, route: &Route) {
        let is_new = self.last.as_ref() != Some(destination);
        let version = if *is_ipv6 { 6 } else { 4 };
        match self.format {
            Format::Json if is_new => {
                let close = if self.last.is_some() { "\n      ]," } else { "" };
                let _ = write!(
                    self.text,
                    "{close}\n      \"{{\\\"IPVersion\\\":{version},\\\"Prefix\\\":\\\"{destination}\\\"}}\": ["
                );
            }
            Format::Json => self.text.push(','),
            Format::Yaml if is_new => {
                let _ = write!(
                    self.text,
                    "\n    '{{\"IPVersion\":{version},\"Prefix\":\"{destination}\"}}':"
                );
            }
            Format::Yaml => {}
        }
        if is_new {
            self.last = Some(destination.clone());
        }
        match self.format {
            Format::Json => json_hop(&mut self.text, &route.next_hop),
            Format::Yaml => yaml_hop(&mut self.text, &route.next_hop),
        }
    }
}

/// A destination as it is sorted. In the text it is JSON inside a string.
pub(super) fn key(destination: &Destination) -> Key {
    (destination.prefix.is_ipv6(), destination.to_string())
}

/// Next hops are sorted by their text.
pub(super) fn hop_key(hop: &NextHop) -> (String, i32, u16, u16) {
    (hop.to_string(), hop.kind.0, hop.nat_port_from, hop.nat_port_to)
}

fn json_hop(text: &mut String, hop: &NextHop) {
    let NextHop { address, vni, kind, nat_port_from, nat_port_to } = hop;
    let _ = write!(
        text,
        "\n        {{\n          \"TargetAddress\": \"{address}\",\n          \"TargetVNI\": {vni},\n          \
         \"Type\": {},\n          \"NATPortRangeFrom\": {nat_port_from},\n          \"NATPortRangeTo\": \
         {nat_port_to}\n        }}",
        kind.0
    );
}

fn yaml_hop(text: &mut String, hop: &NextHop) {
    let NextHop { address, vni, kind, nat_port_from, nat_port_to } = hop;
    // YAML 1.1 would take some addresses for something else (`1:2`, say).
    let quote = if needs_quotes(address) { "\"" } else { "" };
    let _ = write!(
        text,
        "\n    - targetaddress: {quote}{address}{quote}\n      targetvni: {vni}\n      type: {}\n      \
         natportrangefrom: {nat_port_from}\n      natportrangeto: {nat_port_to}",
        kind.0
    );
}

/// An address that begins or ends with a colon is no plain text in YAML.
fn needs_quotes(address: &IpAddr) -> bool {
    let text = address.to_string();
    text.starts_with(':')
        || text.ends_with(':')
        || text.bytes().all(|c| c.is_ascii_digit() || c == b':')
}
