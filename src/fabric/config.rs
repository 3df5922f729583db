//! What the fabric is told at its start.
//!
//! Owns the defaults and the rules for names. Must never change while the fabric runs.

use std::time::Duration;

/// Characters of a name at most: of the fabric's, of a reflector's.
pub const NAME_LEN_MAX: usize = 32;

/// What the fabric is told at its start.
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// The fabric's name. See [`check_name`].
    pub fabric: String,
    /// The name of this reflector, which no other one has. See [`check_name`].
    pub name: String,
    /// When this process was started, in nanoseconds since 1970: of two with one name the one that was started later stays.
    pub incarnation: u64,
    /// How many shards there are, 1..=1023.
    pub shards: u16,
    /// The seed of hash tables, and of what is left to chance (how long to wait before trying again).
    pub hash_seed: [u64; 4],
    /// Records of other reflectors that are kept at most; further ones are dropped and counted (`--fabric-routes-max`).
    pub routes_max: u64,
    /// Publications that wait for their acknowledgement at most.
    pub in_flight_max: usize,
    /// How long things take.
    pub timers: Timers,
    /// For tests: a rule that is not kept.
    pub without: Option<Rule>,
}

/// How long things take. Those that are about other reflectors have to be the same at all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// Between two leases of ours. What does not come back within three of them is lost.
    pub heartbeat: Duration,
    /// How long a lease is good for if it is not renewed.
    pub lease_lifetime: Duration,
    /// How long the routes of a reflector stay when its lease is over.
    pub stale: Duration,
    /// How long after its start a reflector speaks for peers of its former life that are not back.
    pub restart: Duration,
    /// How long remote routes stay while the engine is out of reach.
    pub hold: Duration,
    /// How long after its lease is over what a reflector has published is purged.
    pub gone: Duration,
    /// How long a tombstone stays in the engine.
    pub tombstone: Duration,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            heartbeat: Duration::from_secs(3),
            lease_lifetime: Duration::from_secs(10),
            stale: Duration::from_secs(120),
            restart: Duration::from_secs(120),
            hold: Duration::from_secs(3_600),
            gone: Duration::from_secs(1_800),
            tombstone: Duration::from_secs(600),
        }
    }
}

impl FabricConfig {
    /// Defaults for all but names.
    ///
    /// # Errors
    /// If a name is none: see [`check_name`].
    pub fn new(fabric: &str, name: &str) -> Result<FabricConfig, NameError> {
        check_name(fabric)?;
        check_name(name)?;
        Ok(FabricConfig {
            fabric: fabric.to_owned(),
            name: name.to_owned(),
            incarnation: 0,
            shards: 1,
            hash_seed: [0; 4],
            routes_max: 10_000_000,
            in_flight_max: 4_096,
            timers: Timers::default(),
            without: None,
        })
    }
}

/// What is wrong with a name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Too short, too long, or of other characters.
    #[error("{0:?} is not a name: it takes 1 to 32 of the characters A-Z, a-z, 0-9, _ and -")]
    Invalid(String),
}

/// Whether a fabric or a reflector may have this name: 1 to 32 of the characters A-Z, a-z, 0-9, `_`, `-`.
///
/// # Errors
/// If it may not.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let is_name = (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(fits);
    is_name.then_some(()).ok_or_else(|| NameError::Invalid(name.to_owned()))
}

/// The rules of the protocol that a test may switch off, to see that they are needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// After each connect everything is read from the beginning, and counts as said anew.
    ReadFromTheFirst,
    /// Reading ends when nothing is pending, not at what was last when it began.
    ReadToTheEnd,
    /// A lease of ours that does not come back means that the feed stalls.
    Canary,
    /// Nothing is published while reading; and what a former life left goes before the lease is there.
    ReadBeforeWriting,
    /// What did not arrive is sent again.
    SendAgain,
    /// A withdrawal that finds no room goes in a form that takes less than the record has.
    Bare,
    /// What arrived late from a connection of before is put right.
    Repair,
    /// A lease is written only on top of the one before.
    Fencing,
    /// What a reflector did not say again is lost only when it has said all.
    LoseWhenSynced,
    /// A reflector's routes stay for a while when its lease is over.
    Stale,
    /// A reflector whose lease is missing after a reading, and was there before, is stale from then on.
    StaleAfterReading,
    /// A lease that is neither renewed nor over is looked for.
    Overdue,
    /// Records of a reflector that has no lease do not count.
    SkipTheDead,
    /// After a restart what is left of the former life stands for peers that are not back.
    OwnStale,
    /// It does so only if that life ended recently.
    OwnStaleAge,
    /// Leases carry a digest of what was published.
    Digest,
    /// Without an engine remote routes stay for a while.
    Hold,
    /// What reflectors leave that never come back is purged.
    Janitor,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 18] = [
        Rule::ReadFromTheFirst,
        Rule::ReadToTheEnd,
        Rule::Canary,
        Rule::ReadBeforeWriting,
        Rule::SendAgain,
        Rule::Bare,
        Rule::Repair,
        Rule::Fencing,
        Rule::LoseWhenSynced,
        Rule::Stale,
        Rule::StaleAfterReading,
        Rule::Overdue,
        Rule::SkipTheDead,
        Rule::OwnStale,
        Rule::OwnStaleAge,
        Rule::Digest,
        Rule::Hold,
        Rule::Janitor,
    ];
}
