//! What is said of differences.
//!
//! Owns the words, for people and as JSON. Must never say more lines than were asked for.

use std::io::{BufWriter, StdoutLock, Write};

use metalbond_uring::internals::cli::DiffOptions;
use metalbond_uring::types::{NextHopType, Vni};
use serde::Serialize;

use super::look::{Difference, Holders, Look};
use super::side::Identity;
use crate::ask::plain;

/// Differences that are told of, unless all are wanted.
const TOLD_MAX: u64 = 1_000;

/// Tells of differences as they are found, and of the whole at the end.
pub(super) struct Teller<'a> {
    options: &'a DiffOptions,
    names: Vec<String>,
    out: BufWriter<StdoutLock<'static>>,
    /// As JSON they are told at the end.
    kept: Vec<Entry>,
    differences: u64,
    /// Why nothing can be written.
    fault: Option<std::io::Error>,
}

/// How it ended.
pub(super) enum Verdict<'a> {
    /// One look, or the last one, shows that they agree.
    Equal(&'a Look),
    /// They differed in the only look.
    Differ(&'a Look),
    /// They differed all the time, in what was told; this is the last look.
    NeverAgreed(&'a Look),
}

#[derive(Serialize)]
struct Entry {
    vni: u32,
    destination: String,
    next_hop: Hop,
    at: Vec<String>,
    not_at: Vec<String>,
}

#[derive(Serialize)]
struct Hop {
    address: String,
    /// What v0.3.0 of the Go program does not tell.
    #[serde(flatten)]
    more: Option<More>,
}

#[derive(Serialize)]
struct More {
    vni: u32,
    #[serde(rename = "type")]
    kind: i32,
    nat_port_from: u16,
    nat_port_to: u16,
}

#[derive(Serialize)]
struct Whole<'a> {
    equal: bool,
    sides: &'a [String],
    /// `routes`, or `destinations_and_next_hop_addresses`.
    compared: &'static str,
    vnis: usize,
    differing_vnis: usize,
    /// Routes that differed in the last look, as did those VNIs.
    differing_routes: u64,
    /// With `--for`: routes that differed in each look, in the same way. `differences` are these, then.
    #[serde(skip_serializing_if = "Option::is_none")]
    lasting_routes: Option<u64>,
    /// Those of `differences` that are not listed.
    left_out: u64,
    differences: &'a [Entry],
}

impl<'a> Teller<'a> {
    pub(super) fn new(options: &'a DiffOptions) -> Teller<'a> {
        Teller {
            options,
            names: options.sides.iter().map(|side| plain(&side.name)).collect(),
            out: BufWriter::new(std::io::stdout().lock()),
            kept: Vec::new(),
            differences: 0,
            fault: None,
        }
    }

    /// Tells of one, unless there were too many already.
    pub(super) fn difference(&mut self, difference: &Difference, identity: Identity) {
        self.differences += 1;
        if self.differences > TOLD_MAX && !self.options.all {
            return;
        }
        let (at, not_at) = self.split(difference.holders);
        if self.options.json {
            self.kept.push(entry(difference, identity, at, not_at));
            return;
        }
        let place = match (&at[..], self.names.len()) {
            ([only], _) => format!("only at {only}"),
            _ => format!("at {}, not at {}", listed(&at), listed(&not_at)),
        };
        let line = format!("{place}: {}\n", route_text(difference, identity));
        self.write(line.as_bytes());
    }

    /// Tells of the whole.
    ///
    /// # Errors
    /// If nothing can be written.
    pub(super) fn end(mut self, verdict: &Verdict) -> std::io::Result<()> {
        let told = if self.options.all { self.differences } else { self.differences.min(TOLD_MAX) };
        let left_out = self.differences - told;
        let (Verdict::Equal(look) | Verdict::Differ(look) | Verdict::NeverAgreed(look)) = verdict;
        if self.options.json {
            let whole = Whole {
                equal: matches!(verdict, Verdict::Equal(_)),
                sides: &self.names,
                compared: match look.identity {
                    Identity::Full => "routes",
                    Identity::Addresses => "destinations_and_next_hop_addresses",
                },
                vnis: look.vnis,
                differing_vnis: look.vnis_that_differ,
                differing_routes: look.differences,
                lasting_routes: (!self.options.patience.is_zero()).then_some(self.differences),
                left_out,
                differences: &self.kept,
            };
            let mut text = serde_json::to_string_pretty(&whole).map_err(std::io::Error::other)?;
            text.push('\n');
            self.write(text.as_bytes());
        } else {
            let text = self.last_words(verdict, left_out);
            self.write(text.as_bytes());
        }
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => self.out.flush(),
        }
    }

    fn last_words(&self, verdict: &Verdict, left_out: u64) -> String {
        let more = match left_out {
            0 => String::new(),
            _ => format!("and {left_out} more (--all tells of each)\n"),
        };
        match verdict {
            Verdict::Equal(look) => {
                format!("equal: {} in {}\n", many(look.routes, "route"), vnis(look.vnis))
            }
            Verdict::Differ(look) => format!(
                "{more}{} in {} of {}\n",
                differ(look.differences),
                look.vnis_that_differ,
                vnis(look.vnis)
            ),
            Verdict::NeverAgreed(look) if self.differences == 0 => format!(
                "they never agreed, but no route differed all the time: at the end {}\n",
                differ(look.differences)
            ),
            Verdict::NeverAgreed(look) => format!(
                "{more}{} all the time, {} at the end\n",
                differ(self.differences),
                look.differences
            ),
        }
    }

    fn split(&self, holders: Holders) -> (Vec<String>, Vec<String>) {
        let (mut at, mut not_at) = (Vec::new(), Vec::new());
        for (side, name) in self.names.iter().enumerate() {
            if holders.has(side) { &mut at } else { &mut not_at }.push(name.clone());
        }
        (at, not_at)
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.out.write_all(bytes).err();
        }
    }
}

fn entry(
    difference: &Difference,
    identity: Identity,
    at: Vec<String>,
    not_at: Vec<String>,
) -> Entry {
    let hop = &difference.route.next_hop;
    let more = (identity == Identity::Full).then_some(More {
        vni: hop.vni.0,
        kind: hop.kind.0,
        nat_port_from: hop.nat_port_from,
        nat_port_to: hop.nat_port_to,
    });
    Entry {
        vni: difference.vni.0,
        destination: difference.route.destination.to_string(),
        next_hop: Hop { address: hop.address.to_string(), more },
        at,
        not_at,
    }
}

/// `VNI 7 10.0.0.0/24 via 2001:db8::1`, and what is not usual.
fn route_text(difference: &Difference, identity: Identity) -> String {
    let Difference { vni, route, .. } = difference;
    let hop = &route.next_hop;
    let mut text = format!("VNI {vni} {} via {}", route.destination, hop.address);
    if identity == Identity::Addresses {
        return text;
    }
    if hop.vni != Vni(0) {
        text += &format!(" in VNI {}", hop.vni);
    }
    if hop.kind != NextHopType::STANDARD {
        text += &format!(" type {}", hop.kind);
    }
    if (hop.nat_port_from, hop.nat_port_to) != (0, 0) {
        text += &format!(" ports {}-{}", hop.nat_port_from, hop.nat_port_to);
    }
    text
}

/// `A`, `A and B`, `A, B and C`.
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

fn many(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn vnis(number: usize) -> String {
    many(number as u64, "VNI")
}

fn differ(routes: u64) -> String {
    format!("{} differ{}", many(routes, "route"), if routes == 1 { "s" } else { "" })
}
