//! The file's text: from lines to rules, or to all that is wrong with them.
//!
//! Owns the grammar (docs/POLICY.md tells it to operators) and its messages. Must never stop at the first mistake: a
//! file is put right in one go.

use std::fmt;
use std::iter::Peekable;
use std::net::IpAddr;
use std::str::SplitWhitespace;

use ipnet::IpNet;
use thiserror::Error;

use super::rule::{Action, Destinations, Net, NextHops, Rule, TYPES, TargetVnis, VniRange};
use crate::types::{NextHopType, nearest};

/// Bytes of a file at most.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// Rules of a file at most.
pub const RULES_MAX: usize = 100_000;

/// Values of one condition at most: each route may be compared with all of them.
pub(super) const VALUES_MAX: usize = 1_000;

/// Mistakes that are told; further ones are counted.
const MISTAKES_TOLD_MAX: usize = 20;

/// Characters of a word that are shown.
const WORD_CHARS_MAX: usize = 60;

/// Why a text is no policy.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is too large to be meant.
    #[error("it has more than {} MiB", FILE_BYTES_MAX >> 20)]
    TooLarge,
    /// It has too many rules.
    #[error("it has more than {RULES_MAX} rules")]
    TooManyRules,
    /// Some lines are wrong.
    #[error("{}", Lines(.told, *.more))]
    Mistakes {
        /// The first of them.
        told: Vec<Mistake>,
        /// How many more there are.
        more: usize,
    },
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("line {line}: {fault}")]
pub struct Mistake {
    /// Counted from 1.
    pub line: u32,
    /// What it is.
    pub fault: LineFault,
}

/// A kind of mistake.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LineFault {
    /// It has bytes that are no UTF-8.
    #[error("it is no text in UTF-8")]
    Encoding,
    /// Its first word is neither permit nor deny.
    #[error("{0} is no rule: one begins with permit or deny{1}")]
    NoAction(Word, Meant),
    /// A word where a condition should begin.
    #[error(
        "{0} is no condition: there are peer, vni, target-vni, destination, next-hop and type{1}"
    )]
    NoCondition(Word, Meant),
    /// A condition for the second time: its values belong into one list.
    #[error("{0} stands twice: give its values in one list, with commas between")]
    Twice(&'static str),
    /// A condition without a value.
    #[error("no value follows {0}")]
    NoValue(&'static str),
    /// More values than one condition may have.
    #[error("{0} has more than {VALUES_MAX} values: give them to several rules")]
    TooManyValues(&'static str),
    /// A value that means nothing.
    #[error("{0} {1}: {2}")]
    Value(&'static str, Word, ValueFault),
}

/// What is wrong with a value.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ValueFault {
    /// Nothing stands between two commas.
    #[error("nothing stands before, behind or between the commas")]
    Empty,
    /// Neither an address nor a network.
    #[error("it is neither an address nor a network, like 2001:db8::/32")]
    Net,
    /// Neither `own`, nor an address, nor a network.
    #[error("it is neither own nor an address nor a network, like 2001:db8::/32{0}")]
    NextHop(Meant),
    /// Bits that do not belong to the network.
    #[error("its address does not fit its length: {network} or {address} is meant")]
    HostBits {
        /// The network.
        network: IpNet,
        /// The address alone.
        address: IpAddr,
    },
    /// Lengths that no destination in the network has.
    #[error("the lengths in braces must be from {min} to {max}, like {{{min}}} or {{{min}-{max}}}")]
    Lengths {
        /// The network's own.
        min: u8,
        /// That of an address.
        max: u8,
    },
    /// Neither a VNI nor a range of them.
    #[error("it is neither a number from 0 to 4294967295 nor a range, like 100-199{0}")]
    Vnis(Meant),
    /// The end of a range is before its beginning.
    #[error("the range ends before it begins")]
    Backwards,
    /// Not a type.
    #[error("it is neither standard, nat or lb nor the number of a type{0}")]
    Type(Meant),
}

/// A word of the text, cut to what can be shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word(String);

/// The word that is like the one that stands there, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meant(Option<&'static str>);

/// The words that conditions begin with.
const CONDITIONS: [&str; 6] = ["peer", "vni", "target-vni", "destination", "next-hop", "type"];

/// Reads a whole file.
pub(super) fn parse(text: &[u8]) -> Result<Vec<(u32, Rule)>, PolicyError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(PolicyError::TooLarge);
    }
    // Some editors begin a text so.
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let (mut rules, mut told, mut more) = (Vec::new(), Vec::new(), 0);
    for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let faults = match std::str::from_utf8(text) {
            Ok(text) => match rule(text) {
                Ok(Some(_)) if rules.len() == RULES_MAX => return Err(PolicyError::TooManyRules),
                Ok(rule) => {
                    rules.extend(rule.map(|rule| (line, rule)));
                    continue;
                }
                Err(faults) => faults,
            },
            Err(_) => vec![LineFault::Encoding],
        };
        for fault in faults {
            match told.len() < MISTAKES_TOLD_MAX {
                true => told.push(Mistake { line, fault }),
                false => more += 1,
            }
        }
    }
    if told.is_empty() { Ok(rules) } else { Err(PolicyError::Mistakes { told, more }) }
}

/// Reads one line; none if it is empty.
fn rule(line: &str) -> Result<Option<Rule>, Vec<LineFault>> {
    let (line, _comment) = line.split_once('#').unwrap_or((line, ""));
    let mut words = line.split_whitespace().peekable();
    let action = match words.next() {
        None => return Ok(None),
        Some("permit") => Action::Permit,
        Some("deny") => Action::Deny,
        Some(word) => {
            let meant = Meant(nearest(word, ["permit", "deny"].into_iter()));
            return Err(vec![LineFault::NoAction(Word::of(word), meant)]);
        }
    };
    let mut rule = Rule::of(action);
    let mut faults = Vec::new();
    let mut seen = [false; CONDITIONS.len()];
    while let Some(word) = words.next() {
        let Some(index) = CONDITIONS.iter().position(|condition| *condition == word) else {
            // What follows it is anybody's guess.
            let meant = Meant(nearest(word, CONDITIONS.into_iter()));
            faults.push(LineFault::NoCondition(Word::of(word), meant));
            break;
        };
        let condition = CONDITIONS[index];
        if std::mem::replace(&mut seen[index], true) {
            faults.push(LineFault::Twice(condition));
        }
        let values = list(&mut words);
        match condition {
            "peer" => rule.peers = read(condition, &values, peers, &mut faults),
            "vni" => rule.vnis = joined(read(condition, &values, vnis, &mut faults)),
            "target-vni" => {
                rule.target_vnis = targets(read(condition, &values, target_vnis, &mut faults));
            }
            "destination" => {
                rule.destinations = read(condition, &values, destinations, &mut faults);
            }
            "next-hop" => rule.next_hops = read(condition, &values, next_hops, &mut faults),
            _ => rule.types = read(condition, &values, kind, &mut faults),
        }
    }
    if faults.is_empty() { Ok(Some(rule)) } else { Err(faults) }
}

/// The values that follow: one word, and further ones while a comma ends the one before. Not what begins the next
/// condition, which would be taken for a value.
fn list<'a>(words: &mut Peekable<SplitWhitespace<'a>>) -> Vec<&'a str> {
    let mut values = Vec::new();
    while let Some(word) = words.next_if(|word| !CONDITIONS.contains(word)) {
        match word.strip_suffix(',') {
            Some(word) if words.peek().is_some_and(|next| !CONDITIONS.contains(next)) => {
                values.extend(word.split(','));
            }
            _ => {
                values.extend(word.split(','));
                break;
            }
        }
    }
    values
}

/// The values of a condition, in order, each once.
fn read<T: Ord>(
    condition: &'static str,
    texts: &[&str],
    value: impl Fn(&str) -> Result<T, ValueFault>,
    faults: &mut Vec<LineFault>,
) -> Vec<T> {
    let mut values = Vec::new();
    if texts.is_empty() {
        faults.push(LineFault::NoValue(condition));
    }
    if texts.len() > VALUES_MAX {
        faults.push(LineFault::TooManyValues(condition));
        return values;
    }
    for text in texts {
        let read = if text.is_empty() { Err(ValueFault::Empty) } else { value(text) };
        match read {
            Ok(value) => values.push(value),
            Err(fault) => faults.push(LineFault::Value(condition, Word::of(text), fault)),
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Peers are known by IPv4 addresses also when they come in IPv6 dress.
fn peers(text: &str) -> Result<Net, ValueFault> {
    let Net(net) = network(text)?;
    let mapped = match net.addr() {
        IpAddr::V6(address) if net.prefix_len() >= 96 => address.to_ipv4_mapped(),
        _ => None,
    };
    let folded = mapped.and_then(|address| IpNet::new(address.into(), net.prefix_len() - 96).ok());
    Ok(Net(folded.unwrap_or(net)))
}

fn network(text: &str) -> Result<Net, ValueFault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Net(address.into()));
    }
    // Not by the grammar of `IpNet`, which takes 010.0.0.1 for 10.0.0.1.
    let (address, bits) = text.split_once('/').ok_or(ValueFault::Net)?;
    let address: IpAddr = address.parse().map_err(|_| ValueFault::Net)?;
    let bits = number(bits).and_then(|bits| u8::try_from(bits).ok()).ok_or(ValueFault::Net)?;
    let net = IpNet::new(address, bits).map_err(|_| ValueFault::Net)?;
    match net.trunc() == net {
        true => Ok(Net(net)),
        false => Err(ValueFault::HostBits { network: net.trunc(), address }),
    }
}

fn next_hops(text: &str) -> Result<NextHops, ValueFault> {
    if text == "own" {
        return Ok(NextHops::Own);
    }
    network(text).map(NextHops::Within).map_err(|fault| match fault {
        ValueFault::Net => ValueFault::NextHop(Meant(nearest(text, ["own"].into_iter()))),
        other => other,
    })
}

/// `NETWORK`, `NETWORK{LENGTH}` or `NETWORK{FROM-TO}`.
fn destinations(text: &str) -> Result<Destinations, ValueFault> {
    let Some((net, lengths)) = text.split_once('{') else {
        let within = network(text)?;
        let (min, max) = (within.0.prefix_len(), within.0.max_prefix_len());
        return Ok(Destinations { within, length_min: min, length_max: max });
    };
    let within = network(net)?;
    let (min, max) = (within.0.prefix_len(), within.0.max_prefix_len());
    let fault = ValueFault::Lengths { min, max };
    let lengths = lengths.strip_suffix('}').and_then(range).ok_or(fault.clone())?;
    match (u8::try_from(lengths.0), u8::try_from(lengths.1)) {
        (Ok(first), Ok(last)) if min <= first && first <= last && last <= max => {
            Ok(Destinations { within, length_min: first, length_max: last })
        }
        _ => Err(fault),
    }
}

fn vnis(text: &str) -> Result<VniRange, ValueFault> {
    match range(text) {
        Some((first, last)) if first <= last => Ok(VniRange { first, last }),
        Some(_) => Err(ValueFault::Backwards),
        None => Err(ValueFault::Vnis(Meant(None))),
    }
}

fn target_vnis(text: &str) -> Result<TargetVnis, ValueFault> {
    if text == "own" {
        return Ok(TargetVnis::Own);
    }
    vnis(text).map(TargetVnis::Range).map_err(|fault| match fault {
        ValueFault::Vnis(_) => ValueFault::Vnis(Meant(nearest(text, ["own"].into_iter()))),
        other => other,
    })
}

fn kind(text: &str) -> Result<NextHopType, ValueFault> {
    if let Some((_, kind)) = TYPES.iter().find(|(word, _)| *word == text) {
        return Ok(*kind);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let meant = || Meant(nearest(text, TYPES.iter().map(|(word, _)| *word)));
    let number = text.parse().ok().filter(|_| is_number);
    number.map(NextHopType).ok_or_else(|| ValueFault::Type(meant()))
}

/// `N` or `FROM-TO`.
fn range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((number(first)?, number(last)?))
}

/// Digits, and nothing else.
fn number(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Of ranges in order: those that overlap or touch become one.
fn joined(ranges: Vec<VniRange>) -> Vec<VniRange> {
    let mut joined: Vec<VniRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Of targets in order: their ranges joined.
fn targets(targets: Vec<TargetVnis>) -> Vec<TargetVnis> {
    let own = targets.first().filter(|first| **first == TargetVnis::Own).copied();
    let ranges = targets.into_iter().filter_map(|target| match target {
        TargetVnis::Own => None,
        TargetVnis::Range(range) => Some(range),
    });
    own.into_iter().chain(joined(ranges.collect()).into_iter().map(TargetVnis::Range)).collect()
}

impl Rule {
    fn of(action: Action) -> Rule {
        Rule {
            action,
            peers: Vec::new(),
            vnis: Vec::new(),
            target_vnis: Vec::new(),
            destinations: Vec::new(),
            next_hops: Vec::new(),
            types: Vec::new(),
        }
    }
}

impl Word {
    fn of(text: &str) -> Word {
        Word(match text.char_indices().nth(WORD_CHARS_MAX) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text.to_owned(),
        })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Quoted: what cannot be printed is escaped.
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(meant) => write!(f, "; did you mean {meant}?"),
            None => Ok(()),
        }
    }
}

/// A line for each mistake.
struct Lines<'a>(&'a [Mistake], usize);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        match self.1 {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}
