//! What a request wants to see of it all.
//!
//! Owns the query's grammar. Must never let a word pass that it does not understand: who mistypes a filter shall not
//! take everything for the answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::types::{Destination, Vni};

/// What is to be shown: all that each of these lets pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// These VNIs; all if there are none.
    pub(super) vnis: BTreeSet<Vni>,
    /// A destination, or the most specific one for an address.
    pub(super) prefix: Option<Prefix>,
    /// What this peer announces.
    pub(super) peer: Option<PeerAddress>,
    /// Only what is newer than the sample of this number.
    pub(super) after: Option<u64>,
}

/// Destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Just this one.
    Exact(Destination),
    /// Of each VNI the longest one that contains the address.
    Longest(IpAddr),
}

/// A peer, or all at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerAddress {
    /// All at this address.
    Host(IpAddr),
    /// The one.
    Socket(SocketAddr),
}

/// What is wrong with a query.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum QueryError {
    #[error("{0:?} is no filter here; there are: {1}")]
    Unknown(String, String),
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("{0}= is missing: {1}")]
    Missing(&'static str, &'static str),
    #[error("vni={0:?} is no VNI: it takes a number up to 4294967295; several as vni=1&vni=2")]
    Vni(String),
    #[error(
        "prefix={0:?} is no prefix: it takes ADDRESS/LENGTH for just that one, or ADDRESS for the longest that \\
         contains it"
    )]
    Prefix(String),
    #[error("peer={0:?} is no address: it takes ADDRESS, or ADDRESS:PORT with IPv6 in brackets")]
    Peer(String),
    #[error("after={0:?} is no number: it takes that of the last sample one has")]
    After(String),
}

impl Filter {
    /// Reads a query in which these words may stand.
    ///
    /// # Errors
    /// [`QueryError`] with the first thing that is wrong.
    pub(super) fn parse(query: Option<&str>, allowed: &[&str]) -> Result<Filter, QueryError> {
        let mut filter = Filter::default();
        for (word, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !allowed.contains(&&*word) {
                let allowed =
                    if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                return Err(QueryError::Unknown(word.into_owned(), allowed));
            }
            match &*word {
                "vni" => {
                    let vni = value.parse().map_err(|_| QueryError::Vni(value.into_owned()))?;
                    filter.vnis.insert(Vni(vni));
                }
                "prefix" => {
                    let prefix = prefix(&value).ok_or_else(|| QueryError::Prefix(value.into()))?;
                    once(&mut filter.prefix, "prefix", prefix)?;
                }
                "after" => {
                    let after = value.parse().map_err(|_| QueryError::After(value.into()))?;
                    once(&mut filter.after, "after", after)?;
                }
                _ => {
                    let peer = peer(&value).ok_or_else(|| QueryError::Peer(value.into()))?;
                    once(&mut filter.peer, "peer", peer)?;
                }
            }
        }
        Ok(filter)
    }

    /// Whether a VNI is to be shown.
    pub(super) fn has_vni(&self, vni: Vni) -> bool {
        self.vnis.is_empty() || self.vnis.contains(&vni)
    }
}

impl Prefix {
    /// Whether a destination may be meant: of those for an address only the longest are, see [`Prefix::choose`].
    pub(super) fn may_be(self, destination: &Destination) -> bool {
        match self {
            Prefix::Exact(exact) => *destination == exact,
            Prefix::Longest(address) => contains(destination, address),
        }
    }

    /// Keeps what is meant of the routes of one VNI that may be.
    pub(super) fn choose<T>(self, routes: &mut Vec<T>, destination: impl Fn(&T) -> &Destination) {
        if let Prefix::Longest(_) = self {
            let longest = routes.iter().map(|route| destination(route).length).max();
            routes.retain(|route| Some(destination(route).length) == longest);
        }
    }
}

impl PeerAddress {
    /// Whether it is this one.
    pub(super) fn is(&self, remote: SocketAddr) -> bool {
        match self {
            PeerAddress::Host(host) => remote.ip().to_canonical() == host.to_canonical(),
            PeerAddress::Socket(socket) => {
                remote.ip().to_canonical() == socket.ip().to_canonical()
                    && remote.port() == socket.port()
            }
        }
    }
}

fn contains(destination: &Destination, address: IpAddr) -> bool {
    let of_address = Destination { prefix: address, length: destination.length };
    destination.prefix.is_ipv4() == address.is_ipv4()
        && destination.masked().is_some()
        && destination.masked() == of_address.masked()
}

/// Whether `prefix=` takes it.
#[cfg(feature = "cli")]
pub(crate) fn is_prefix(text: &str) -> bool {
    prefix(text).is_some()
}

/// Whether `peer=` takes it.
#[cfg(feature = "cli")]
pub(crate) fn is_peer(text: &str) -> bool {
    peer(text).is_some()
}

fn once<T>(place: &mut Option<T>, word: &'static str, value: T) -> Result<(), QueryError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(QueryError::Twice(word)),
    }
}

fn prefix(text: &str) -> Option<Prefix> {
    match text.parse() {
        Ok(address) => Some(Prefix::Longest(address)),
        Err(_) => text.parse().ok().map(Prefix::Exact),
    }
}

fn peer(text: &str) -> Option<PeerAddress> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(host) => Some(PeerAddress::Host(host)),
        Err(_) => text.parse().ok().map(PeerAddress::Socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        let all = ["vni", "prefix", "peer"];
        let parse = |query| Filter::parse(Some(query), &all);
        assert_eq!(Filter::parse(None, &[]), Ok(Filter::default()));
        assert_eq!(parse(""), Ok(Filter::default()));
        let filter = parse("vni=7&vni=4294967295&prefix=10.0.0.0%2F8&peer=%5B%3A%3A1%5D%3A4711");
        let filter = filter.unwrap();
        assert_eq!(filter.vnis, [Vni(7), Vni(u32::MAX)].into());
        assert_eq!(filter.prefix, Some(Prefix::Exact("10.0.0.0/8".parse().unwrap())));
        assert_eq!(filter.peer, Some(PeerAddress::Socket("[::1]:4711".parse().unwrap())));
        let filter = parse("prefix=2001:db8::7&peer=[::ffff:10.0.0.1]").unwrap();
        assert_eq!(filter.prefix, Some(Prefix::Longest("2001:db8::7".parse().unwrap())));
        assert!(filter.peer.unwrap().is("10.0.0.1:99".parse().unwrap()));
        assert!(filter.has_vni(Vni(1)));
    }

    #[test]
    fn what_makes_no_sense_is_told_of() {
        for (query, word) in [
            ("vni=", "vni=\"\""),
            ("vni=-1", "vni=\"-1\""),
            ("vni=4294967296", "is no VNI"),
            ("vnis=1", "vni, prefix"),
            ("prefix=10.0.0.0/33", "is no prefix"),
            ("prefix=10.0.0", "is no prefix"),
            ("peer=localhost", "is no address"),
            ("peer=::1&peer=::2", "twice"),
            ("%00=1", "is no filter"),
            ("vni", "is no VNI"),
            ("after=-1", "is no number"),
        ] {
            let allowed = ["vni", "prefix", "peer", "after"];
            let error = Filter::parse(Some(query), &allowed).unwrap_err();
            assert!(error.to_string().contains(word), "{query}: {error}");
        }
    }
}
