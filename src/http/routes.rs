//! `/routes.json` and `/routes.yaml`: the tables, in the shape that programs know from the Go implementation
//! (protocol section 8.2).
//!
//! Owns that shape. Must never hold more than one VNI's routes (some 100 bytes each), and one chunk of text.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;

use super::answer::{Content, Refusal};
use super::query::{Filter, Prefix};
use super::{View, collect};
use crate::types::{Destination, NextHop, PeerId, Route, Vni};

/// Text that is sent together, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// How long a reader may take for one chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// The tables that the filter lets pass, piece by piece.
pub(super) async fn routes(
    view: &Arc<View>,
    format: Format,
    filter: Filter,
) -> Result<Content, Refusal> {
    let announcers = match filter.peer {
        None => None,
        Some(address) => {
            let is_meant = |peer: &crate::shard::PeerView| {
                peer.remote.is_some_and(|remote| address.is(remote))
            };
            Some(collect::ids(view, is_meant).await?)
        }
    };
    let mut vnis: Vec<Vni> = match filter.vnis.is_empty() {
        true => collect::vnis(view)
            .await?
            .into_values()
            .filter(|vni| vni.routes > 0)
            .map(|vni| vni.vni)
            .collect(),
        false => filter.vnis.iter().copied().collect(),
    };
    if format == Format::Json {
        // As text, as they are keys.
        vnis.sort_by_cached_key(|vni| vni.to_string());
    }
    let (sender, body) = Channel::<Bytes, Infallible>::new(1);
    let text = Text { format, view: Arc::clone(view), sender, text: String::new(), is_first: true };
    tokio::spawn(text.write(vnis, filter.prefix, announcers));
    let kind = match format {
        Format::Json => "application/json",
        Format::Yaml => "text/yaml",
    };
    Ok(Content { kind, body: body.boxed() })
}

struct Text {
    format: Format,
    view: Arc<View>,
    sender: Sender<Bytes, Infallible>,
    text: String,
    /// Whether no VNI was written yet.
    is_first: bool,
}

impl Text {
    async fn write(
        mut self,
        vnis: Vec<Vni>,
        prefix: Option<Prefix>,
        announcers: Option<BTreeSet<PeerId>>,
    ) {
        let date = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        self.begin(&date);
        for vni in vnis {
            let keep = |route: &Route, sources: &[(crate::types::SourceId, _)]| {
                let is_announced = announcers.as_ref().is_none_or(|announcers| {
                    sources.iter().any(|(source, _)| announcers.contains(&source.0))
                });
                (is_announced && may_match(prefix, route)).then_some(*route)
            };
            let Ok(mut routes) = collect::routes(&self.view.asker, vni, keep).await else { return };
            if let Some(Prefix::Longest(_)) = prefix {
                let longest = routes.iter().map(|route| route.destination.length).max();
                routes.retain(|route| Some(route.destination.length) == longest);
            }
            if routes.is_empty() {
                continue;
            }
            if self.table(vni, routes).await.is_none() {
                return;
            }
        }
        self.end();
        let _ = self.send().await;
    }

    async fn send(&mut self) -> Option<()> {
        let text = Bytes::from(std::mem::take(&mut self.text));
        let sent = tokio::time::timeout(CHUNK_TIMEOUT, self.sender.send_data(text)).await;
        sent.ok()?.ok()
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

    /// One VNI: None if nobody reads it any more.
    async fn table(&mut self, vni: Vni, routes: Vec<Route>) -> Option<()> {
        let mut routes: Vec<(String, Route)> =
            routes.into_iter().map(|route| (key(&route.destination), route)).collect();
        routes.sort_unstable_by(|(a, one), (b, other)| {
            a.cmp(b).then_with(|| hop_key(&one.next_hop).cmp(&hop_key(&other.next_hop)))
        });
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        let _ = match self.format {
            Format::Json => write!(self.text, "{comma}\n    \"{vni}\": {{"),
            Format::Yaml => write!(self.text, "\n  {vni}:"),
        };
        for (at, group) in routes.chunk_by(|(a, _), (b, _)| a == b).enumerate() {
            let hops = group.iter().map(|(_, route)| &route.next_hop);
            match self.format {
                Format::Json => json_hops(&mut self.text, at == 0, &group[0].0, hops),
                Format::Yaml => yaml_hops(&mut self.text, &group[0].0, hops),
            }
            if self.text.len() >= CHUNK_BYTES {
                self.send().await?;
            }
        }
        if self.format == Format::Json {
            self.text.push_str("\n    }");
        }
        Some(())
    }
}

/// A destination is JSON text inside a string.
fn key(destination: &Destination) -> String {
    let version = if destination.prefix.is_ipv4() { 4 } else { 6 };
    format!("{{\"IPVersion\":{version},\"Prefix\":\"{destination}\"}}")
}

/// Next hops are sorted by their text.
fn hop_key(hop: &NextHop) -> (String, i32, u16, u16) {
    (hop.to_string(), hop.kind.0, hop.nat_port_from, hop.nat_port_to)
}

fn json_hops<'a>(
    text: &mut String,
    is_first: bool,
    key: &str,
    hops: impl Iterator<Item = &'a NextHop>,
) {
    let comma = if is_first { "" } else { "," };
    let key = serde_json::Value::from(key);
    let _ = write!(text, "{comma}\n      {key}: [");
    for (at, hop) in hops.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let NextHop { address, vni, kind, nat_port_from, nat_port_to } = hop;
        let _ = write!(
            text,
            "{comma}\n        {{\n          \"TargetAddress\": \"{address}\",\n          \"TargetVNI\": {vni},\n          \
             \"Type\": {},\n          \"NATPortRangeFrom\": {nat_port_from},\n          \"NATPortRangeTo\": \
             {nat_port_to}\n        }}",
            kind.0
        );
    }
    text.push_str("\n      ]");
}

fn yaml_hops<'a>(text: &mut String, key: &str, hops: impl Iterator<Item = &'a NextHop>) {
    let _ = write!(text, "\n    '{key}':");
    for NextHop { address, vni, kind, nat_port_from, nat_port_to } in hops {
        // YAML 1.1 would take some addresses for something else (`1:2`, say).
        let quote = if needs_quotes(address) { "\"" } else { "" };
        let _ = write!(
            text,
            "\n    - targetaddress: {quote}{address}{quote}\n      targetvni: {vni}\n      type: {}\n      \
             natportrangefrom: {nat_port_from}\n      natportrangeto: {nat_port_to}",
            kind.0
        );
    }
}

/// An address that begins or ends with a colon is no plain text in YAML.
fn needs_quotes(address: &IpAddr) -> bool {
    let text = address.to_string();
    text.starts_with(':')
        || text.ends_with(':')
        || text.bytes().all(|c| c.is_ascii_digit() || c == b':')
}

fn may_match(prefix: Option<Prefix>, route: &Route) -> bool {
    match prefix {
        None => true,
        Some(Prefix::Exact(destination)) => route.destination == destination,
        Some(Prefix::Longest(address)) => contains(&route.destination, address),
    }
}

fn contains(destination: &Destination, address: IpAddr) -> bool {
    let of_address = Destination { prefix: address, length: destination.length };
    destination.prefix.is_ipv4() == address.is_ipv4()
        && destination.masked().is_some()
        && destination.masked() == of_address.masked()
}
