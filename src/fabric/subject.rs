//! Subjects: where a fabric's records lie in the engine.
//!
//! Owns their grammar. Must never take what it would write otherwise: two spellings of a route would be two records.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::config::check_name;
use super::record::Dropped;
use crate::types::{Action, Route, Vni};
use crate::wire::{
    HEADER_BYTES, UPDATE_FRAME_BYTES_MAX, action_and_key, decode_update, encode_update,
};

/// Bytes of the payload of an UPDATE at most.
const PAYLOAD_BYTES_MAX: usize = UPDATE_FRAME_BYTES_MAX - HEADER_BYTES;
/// Characters of a key at most: 4 for 3 bytes.
const KEY_LEN_MAX: usize = PAYLOAD_BYTES_MAX.div_ceil(3) * 4;

/// The subjects of one fabric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subjects {
    prefix: String,
}

/// What a subject is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject<'a> {
    /// A route at this reflector.
    Route {
        /// The reflector.
        name: &'a str,
        /// The route's VNI.
        vni: Vni,
        /// The route.
        route: Route,
    },
    /// The lease of this reflector.
    Lease(&'a str),
}

impl Subjects {
    /// Those of the fabric of this name. See [`check_name`].
    pub fn new(fabric: &str) -> Subjects {
        Subjects { prefix: format!("mb.{fabric}.") }
    }

    /// All of them: the stream takes these.
    pub fn all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// Those of all leases.
    pub fn leases(&self) -> String {
        format!("{}l.*", self.prefix)
    }

    /// That of a reflector's lease.
    pub fn lease(&self, name: &str) -> String {
        format!("{}l.{name}", self.prefix)
    }

    /// Those of all routes of a reflector.
    pub fn routes(&self, name: &str) -> String {
        format!("{}r.*.{name}.>", self.prefix)
    }

    /// That of a route at a reflector: its VNI, the reflector, and the payload of the UPDATE that announces it.
    pub fn route(&self, name: &str, vni: Vni, route: &Route) -> String {
        let mut frame = Vec::with_capacity(UPDATE_FRAME_BYTES_MAX);
        encode_update(&mut frame, Action::Add, vni, route);
        let (_, payload) = action_and_key(&frame);
        let mut subject = format!("{}r.{:x}.{name}.", self.prefix, vni.0);
        URL_SAFE_NO_PAD.encode_string(payload, &mut subject);
        subject
    }

    /// What a subject is about.
    ///
    /// # Errors
    /// Why it is none of ours.
    pub fn parse<'a>(&self, subject: &'a str) -> Result<Subject<'a>, Dropped> {
        let words = subject.strip_prefix(&self.prefix).ok_or(Dropped::Subject)?;
        let mut words = words.split('.');
        let mut next = || words.next().ok_or(Dropped::Subject);
        let parsed = match next()? {
            "l" => Subject::Lease(name_of(next()?)?),
            "r" => {
                let (vni, name, key) = (next()?, next()?, next()?);
                let (vni, name) = (vni_of(vni)?, name_of(name)?);
                Subject::Route { name, vni, route: route_of(vni, key)? }
            }
            _ => return Err(Dropped::Subject),
        };
        if words.next().is_some() { Err(Dropped::Subject) } else { Ok(parsed) }
    }
}

fn name_of(word: &str) -> Result<&str, Dropped> {
    check_name(word).map(|()| word).map_err(|_| Dropped::Name)
}

fn vni_of(word: &str) -> Result<Vni, Dropped> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_canonical = word == "0" || !word.starts_with('0');
    let fits = is_canonical && word.len() <= 8 && word.bytes().all(is_digit);
    let number = fits.then(|| u32::from_str_radix(word, 16).ok()).flatten();
    number.map(Vni).ok_or(Dropped::Vni)
}

fn route_of(vni: Vni, key: &str) -> Result<Route, Dropped> {
    if key.len() > KEY_LEN_MAX {
        return Err(Dropped::Key);
    }
    let mut payload = [0; KEY_LEN_MAX];
    let count = URL_SAFE_NO_PAD.decode_slice(key, &mut payload).map_err(|_| Dropped::Key)?;
    let payload = &payload[..count];
    let update = decode_update(payload).map_err(|_| Dropped::Key)?;
    let mut frame = Vec::with_capacity(UPDATE_FRAME_BYTES_MAX);
    encode_update(&mut frame, Action::Add, vni, &update.route);
    // So is the VNI, and that it is an ADD.
    let is_canonical = frame[HEADER_BYTES..] == *payload;
    is_canonical.then_some(update.route).ok_or(Dropped::Key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::valid_update;

    fn subjects() -> Subjects {
        Subjects::new("zone-1")
    }

    fn key_of(payload: &str) -> String {
        URL_SAFE_NO_PAD.encode(hex::decode(payload).unwrap())
    }

    /// VNI 100, 10.0.0.0/24 via 2001:db8::5.
    const PAYLOAD: &str = "10641a0812040a000000181822120a1020010db8000000000000000000000005";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn routes_come_back(update in valid_update()) {
            let (vni, route) = (update.vni, update.route);
            let subject = subjects().route("r_1", vni, &route);
            prop_assert_eq!(subjects().parse(&subject), Ok(Subject::Route { name: "r_1", vni, route }));
            let key = subject.rsplit('.').next().unwrap();
            prop_assert!(key.len() <= KEY_LEN_MAX);
            // Nobody else's.
            prop_assert_eq!(Subjects::new("zone-2").parse(&subject), Err(Dropped::Subject));
            for cut in 1..key.len() {
                let cut = &subject[..subject.len() - cut];
                prop_assert_eq!(subjects().parse(cut), Err(Dropped::Key), "{}", cut);
            }
        }

        #[test]
        fn what_is_read_would_be_written_so(
            vni in "[0-9a-f]{1,9}", name in "[a-z.]{1,3}", key in "[A-Za-z0-9_-]{0,60}",
        ) {
            let subject = format!("mb.zone-1.r.{vni}.{name}.{key}");
            if let Ok(Subject::Route { name, vni, route }) = subjects().parse(&subject) {
                prop_assert_eq!(subjects().route(name, vni, &route), subject);
            }
        }
    }

    #[test]
    fn the_parts_are_those_of_the_design() {
        let subject = format!("mb.zone-1.r.64.R1.{}", key_of(PAYLOAD));
        let Ok(Subject::Route { name, vni, route }) = subjects().parse(&subject) else {
            panic!("{:?}", subjects().parse(&subject));
        };
        assert_eq!((name, vni), ("R1", Vni(100)));
        assert_eq!(route.to_string(), "10.0.0.0/24 via 2001:db8::5");
        assert_eq!(subjects().route(name, vni, &route), subject);
        assert_eq!(subjects().parse("mb.zone-1.l.R1"), Ok(Subject::Lease("R1")));
        assert_eq!(subjects().lease("R1"), "mb.zone-1.l.R1");
        assert_eq!(subjects().routes("R1"), "mb.zone-1.r.*.R1.>");
    }

    #[test]
    fn other_spellings_are_refused() {
        let key = key_of(PAYLOAD);
        let long = "a".repeat(33);
        // The same route as a REMOVE, with its VNI twice, with ports that it may not have, and without a next hop.
        let others = [
            format!("0801{PAYLOAD}"),
            format!("1064{PAYLOAD}"),
            format!("0800{PAYLOAD}"),
            format!("{}2005", PAYLOAD.replace("2212", "2214")),
            "10641a0812040a0000001818".to_owned(),
            String::new(),
        ];
        let mut bad: Vec<(String, Dropped)> = others
            .iter()
            .map(|payload| (format!("r.64.R1.{}", key_of(payload)), Dropped::Key))
            .collect();
        for (subject, reason) in [
            (format!("r.65.R1.{key}"), Dropped::Key),
            (format!("r.064.R1.{key}"), Dropped::Vni),
            (format!("r.100000064.R1.{key}"), Dropped::Vni),
            (format!("r.+64.R1.{key}"), Dropped::Vni),
            (format!("r..R1.{key}"), Dropped::Vni),
            (format!("r.64.R 1.{key}"), Dropped::Name),
            (format!("r.64..{key}"), Dropped::Name),
            (format!("r.64.{long}.{key}"), Dropped::Name),
            (format!("r.64.R1.{key}="), Dropped::Key),
            (format!("r.64.R1.{key}A"), Dropped::Key),
            (format!("r.64.R1.{}", key.replace('C', "+")), Dropped::Key),
            (format!("r.64.R1.{}", "A".repeat(10_000)), Dropped::Key),
            (format!("r.64.R1.{key}.x"), Dropped::Subject),
            ("r.64.R1".to_owned(), Dropped::Subject),
            ("x.R1".to_owned(), Dropped::Subject),
            ("l".to_owned(), Dropped::Subject),
            ("l.".to_owned(), Dropped::Name),
            ("l.R1.x".to_owned(), Dropped::Subject),
            (String::new(), Dropped::Subject),
        ] {
            bad.push((subject, reason));
        }
        // Bits that the last character has too many.
        let mut loose = key_of(&PAYLOAD[..PAYLOAD.len() - 2]);
        let last = loose.pop().unwrap();
        loose.push(char::from(last as u8 + 1));
        bad.push((format!("r.64.R1.{loose}"), Dropped::Key));
        for (subject, reason) in bad {
            assert_eq!(subjects().parse(&format!("mb.zone-1.{subject}")), Err(reason), "{subject}");
        }
    }
}
