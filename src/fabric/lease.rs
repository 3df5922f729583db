//! Leases: what a reflector says of itself every few seconds, and others believe as long as it stands.
//!
//! Owns their text. Must never take what it would write otherwise.

use std::fmt;

use super::config::NAME_LEN_MAX;
use super::record::Dropped;

/// Bytes of a lease at most; what is longer is none.
const LEASE_BYTES_MAX: usize = 256;
/// Bytes of one that we write: those of the longest text there is.
const ENCODED_BYTES: usize = 68 + 2 + NAME_LEN_MAX;
/// Words of a lease. Another one may follow, and later versions may add some.
const WORDS: usize = 5;
/// Before the name of a reflector that is doubted: no name begins so.
const DOUBT: char = '?';

/// What a reflector says of itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LeaseState {
    /// It has not published everything yet.
    Syncing,
    /// All that it has is published.
    Synced,
    /// It ends, and means to come back.
    Leaving,
    /// Somebody else says that it will not come back: what it has published is about to be purged.
    Gone,
}

impl LeaseState {
    /// All of them.
    pub const ALL: [LeaseState; 4] =
        [LeaseState::Syncing, LeaseState::Synced, LeaseState::Leaving, LeaseState::Gone];

    /// Its word in a lease.
    pub fn word(self) -> &'static str {
        match self {
            LeaseState::Syncing => "syncing",
            LeaseState::Synced => "synced",
            LeaseState::Leaving => "leaving",
            LeaseState::Gone => "gone",
        }
    }
}

/// What a reflector says of itself. As text, for people read it too: `1 STATE INCARNATION RECORDS DIGEST`, where 1 is the
/// version. `?NAME` may follow: what the engine has of that reflector is not what it says, whoever reads it how often.
/// What follows else is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// How far it is.
    pub state: LeaseState,
    /// When its process was started, in nanoseconds since 1970.
    pub incarnation: u64,
    /// What it has published before this lease; None (`-`): it does not know, some is on its way.
    pub contents: Option<Contents>,
}

/// What a reflector has published, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// How many records.
    pub records: u64,
    /// The sum, modulo 2^64, of [`record_hash`](super::record_hash) of each; 16 hexadecimal digits in the text.
    pub digest: u64,
}

impl Contents {
    /// One record more.
    pub(super) fn add(&mut self, hash: u64) {
        self.records += 1;
        self.digest = self.digest.wrapping_add(hash);
    }

    /// One record less.
    pub(super) fn remove(&mut self, hash: u64) {
        self.records -= 1;
        self.digest = self.digest.wrapping_sub(hash);
    }
}

impl Lease {
    /// Its text, with the reflector that is doubted, and always of the same length: an engine that is full refuses what is
    /// longer than what it replaces.
    pub fn encode(&self, doubted: Option<&str>) -> Vec<u8> {
        let text = match doubted {
            Some(name) => format!("{self} {DOUBT}{name}"),
            None => self.to_string(),
        };
        format!("{text:<ENCODED_BYTES$}").into_bytes()
    }

    /// Which reflector is doubted by somebody whose lease this is.
    pub fn doubted(value: &[u8]) -> Option<&str> {
        let word = std::str::from_utf8(value).ok()?.split(' ').nth(WORDS)?;
        word.strip_prefix(DOUBT)
    }

    /// Reads a lease.
    ///
    /// # Errors
    /// [`Dropped::Version`] and [`Dropped::Lease`].
    pub fn decode(value: &[u8]) -> Result<Lease, Dropped> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= LEASE_BYTES_MAX);
        let words: Vec<&str> = text.ok_or(Dropped::Lease)?.split(' ').take(WORDS).collect();
        if words[0] != "1" {
            return Err(Dropped::Version);
        }
        let lease = Lease::of(&words).ok_or(Dropped::Lease)?;
        if lease.to_string() == words.join(" ") { Ok(lease) } else { Err(Dropped::Lease) }
    }

    fn of(words: &[&str]) -> Option<Lease> {
        let &[_, state, incarnation, records, digest] = words else {
            return None;
        };
        let contents = match (records, digest) {
            ("-", "-") => None,
            _ => Some(Contents {
                records: records.parse().ok()?,
                digest: u64::from_str_radix(digest, 16).ok()?,
            }),
        };
        Some(Lease {
            state: LeaseState::ALL.into_iter().find(|known| known.word() == state)?,
            incarnation: incarnation.parse().ok()?,
            contents,
        })
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 {} {} ", self.state.word(), self.incarnation)?;
        match self.contents {
            Some(Contents { records, digest }) => write!(f, "{records} {digest:016x}"),
            None => f.write_str("- -"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn leases_come_back(
            state in proptest::sample::select(LeaseState::ALL.to_vec()),
            incarnation: u64,
            contents in proptest::option::of((any::<u64>(), any::<u64>())),
        ) {
            let contents = contents.map(|(records, digest)| Contents { records, digest });
            let lease = Lease { state, incarnation, contents };
            let text = lease.to_string();
            prop_assert_eq!(Lease::decode(text.as_bytes()), Ok(lease));
            prop_assert_eq!(Lease::decode(format!("{text} and more").as_bytes()), Ok(lease));
            prop_assert!(text.len() < LEASE_BYTES_MAX);
            for doubted in [None, Some("R2"), Some("a-name-of-thirty-two-characters-")] {
                let value = lease.encode(doubted);
                prop_assert_eq!(value.len(), ENCODED_BYTES);
                prop_assert_eq!(Lease::decode(&value), Ok(lease));
                prop_assert_eq!(Lease::doubted(&value), doubted);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Lease::decode(&value).is_err());
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = "1 synced 17 3 00000000000000ff";
        let expected = Lease {
            state: LeaseState::Synced,
            incarnation: 17,
            contents: Some(Contents { records: 3, digest: 255 }),
        };
        assert_eq!(Lease::decode(good.as_bytes()), Ok(expected));
        let long = format!("{good} {}", "x".repeat(256));
        for (text, reason) in [
            ("", Dropped::Version),
            ("2 synced 17 3 00000000000000ff", Dropped::Version),
            ("1", Dropped::Lease),
            ("1 synced 17 3", Dropped::Lease),
            ("1 sync 17 3 00000000000000ff", Dropped::Lease),
            ("1 synced +17 3 00000000000000ff", Dropped::Lease),
            ("1 synced 017 3 00000000000000ff", Dropped::Lease),
            ("1 synced 17 3 ff", Dropped::Lease),
            ("1 synced 17 3 00000000000000FF", Dropped::Lease),
            ("1 synced 17 3 -", Dropped::Lease),
            ("1 synced 18446744073709551616 - -", Dropped::Lease),
            ("1  synced 17 - -", Dropped::Lease),
            (&long, Dropped::Lease),
        ] {
            assert_eq!(Lease::decode(text.as_bytes()), Err(reason), "{text}");
        }
    }
}
