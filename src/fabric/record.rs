//! Records: routes as subjects, their announcers as values.
//!
//! Owns the format. Must never take what it would write otherwise: two spellings of a route would be two records.

/// Why a record does not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dropped {
    /// Its subject is neither a route's nor a lease's.
    Subject,
    /// The VNI in its subject is not 1 to 8 lower case hexadecimal digits, without zeros in front.
    Vni,
    /// The reflector in its subject has a name that none has.
    Name,
    /// The key in its subject is not base64url of a canonical ADD of this VNI.
    Key,
    /// Its value is of a version that we do not know.
    Version,
    /// Its value is none.
    Value,
    /// Its lease is none.
    Lease,
    /// There are too many reflectors.
    Reflectors,
    /// There are too many routes (`--fabric-routes-max`).
    Routes,
    /// Its reflector has no lease.
    Dead,
}
