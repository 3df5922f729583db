//! `/routes.json` of a reflector of any kind, read as it comes.
//!
//! Owns the shapes in which routes are told (protocol section 8.2). Must never keep a route.

use std::fmt;
use std::io::Read;

use metalbond_uring::types::{Destination, NextHop, NextHopType, Route, Vni};
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

/// How much is told of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// All of it.
    Full,
    /// Its address alone: v0.3.0 of the Go program.
    AddressOnly,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// Routes that `each` was told of.
    pub(crate) routes: u64,
    /// Entries that are no routes (the Go program keeps some).
    pub(crate) unreadable: u64,
    /// Whether some next hop was told by its address alone.
    pub(crate) has_bare_addresses: bool,
}

/// Calls `each` with every route. It may put an end to that by an error.
///
/// # Errors
/// If it is not the answer that it should be, whole; or what `each` returned, as an I/O error.
pub(crate) fn read_routes(
    reader: impl Read,
    each: &mut dyn FnMut(Vni, &Route, Shape) -> std::io::Result<()>,
) -> Result<Told, serde_json::Error> {
    let mut routes = Routes { each, stopped: None, told: Told::default() };
    let mut json = serde_json::Deserializer::from_reader(reader);
    let read = Document(&mut routes).deserialize(&mut json).and_then(|()| json.end());
    let Routes { stopped, told, .. } = routes;
    match stopped {
        Some(error) => Err(serde_json::Error::io(error)),
        None => read.map(|()| told),
    }
}

struct Routes<'a> {
    each: &'a mut dyn FnMut(Vni, &Route, Shape) -> std::io::Result<()>,
    stopped: Option<std::io::Error>,
    told: Told,
}

impl Routes<'_> {
    fn tell<E: Error>(&mut self, vni: Vni, route: &Route, shape: Shape) -> Result<(), E> {
        self.told.routes += 1;
        self.told.has_bare_addresses |= shape == Shape::AddressOnly;
        (self.each)(vni, route, shape).map_err(|error| {
            self.stopped = Some(error);
            E::custom("stopped")
        })
    }
}

/// The whole answer.
struct Document<'a, 'b>(&'a mut Routes<'b>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"vnet\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_tables = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "vnet" {
                map.next_value_seed(Tables(&mut *self.0))?;
                has_tables = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if has_tables { Ok(()) } else { Err(A::Error::missing_field("vnet")) }
    }
}

/// All VNIs.
struct Tables<'a, 'b>(&'a mut Routes<'b>);

impl<'de> DeserializeSeed<'de> for Tables<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tables<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a table for each VNI")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let vni = key.parse().map(Vni);
            let vni = vni.map_err(|_| A::Error::invalid_value(Unexpected::Str(&key), &"a VNI"))?;
            map.next_value_seed(Table(&mut *self.0, vni))?;
        }
        Ok(())
    }
}

/// One VNI.
struct Table<'a, 'b>(&'a mut Routes<'b>, Vni);

impl<'de> DeserializeSeed<'de> for Table<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Table<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the next hops of each destination")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let destination = destination(&key);
            map.next_value_seed(Hops(&mut *self.0, self.1, destination))?;
        }
        Ok(())
    }
}

/// The next hops of one destination, which may be none that there can be.
struct Hops<'a, 'b>(&'a mut Routes<'b>, Vni, Option<Destination>);

impl<'de> DeserializeSeed<'de> for Hops<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Hops<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of next hops")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut hops: A) -> Result<(), A::Error> {
        let Hops(routes, vni, destination) = self;
        while let Some(Hop(hop, shape)) = hops.next_element()? {
            match (destination, hop) {
                (Some(destination), Some(next_hop)) => {
                    routes.tell(vni, &Route { destination, next_hop }, shape)?;
                }
                _ => routes.told.unreadable += 1,
            }
        }
        Ok(())
    }
}

/// A next hop, if it is one that there can be.
struct Hop(Option<NextHop>, Shape);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FullHop {
    target_address: String,
    #[serde(rename = "TargetVNI")]
    target_vni: u32,
    #[serde(rename = "Type")]
    kind: i32,
    #[serde(rename = "NATPortRangeFrom")]
    nat_port_from: u16,
    #[serde(rename = "NATPortRangeTo")]
    nat_port_to: u16,
}

impl<'de> Deserialize<'de> for Hop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hop, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Hop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a next hop")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Hop, E> {
                // A target VNI may follow in brackets.
                let address = text.split(' ').next().unwrap_or_default();
                Ok(Hop(address.parse().ok(), Shape::AddressOnly))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Hop, A::Error> {
                let hop = FullHop::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let next_hop = hop.target_address.parse().ok().map(|address| NextHop {
                    address,
                    vni: Vni(hop.target_vni),
                    kind: NextHopType(hop.kind),
                    nat_port_from: hop.nat_port_from,
                    nat_port_to: hop.nat_port_to,
                });
                Ok(Hop(next_hop, Shape::Full))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A destination: its text (v0.3.0), or JSON that has it.
fn destination(key: &str) -> Option<Destination> {
    #[derive(Deserialize)]
    struct Key {
        #[serde(rename = "Prefix")]
        prefix: String,
    }

    if !key.starts_with('{') {
        return key.parse().ok();
    }
    let key: Key = serde_json::from_str(key).ok()?;
    key.prefix.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<String>, Told), String> {
        let mut found = Vec::new();
        let told = read_routes(text.as_bytes(), &mut |vni, route, shape| {
            let NextHop { kind, nat_port_from, nat_port_to, .. } = route.next_hop;
            found.push(format!("{vni} {route} {kind} {nat_port_from}-{nat_port_to} {shape:?}"));
            Ok(())
        });
        told.map(|told| (found, told)).map_err(|error| error.to_string())
    }

    const FULL: &str = r#"{"date": "2026-11-22 11:00:25", "vnet": {
        "100": {"{\"IPVersion\":4,\"Prefix\":\"1.2.3.4/32\"}": [{"TargetAddress": "2001:db8::5",
            "TargetVNI": 7, "Type": 1, "NATPortRangeFrom": 1000, "NATPortRangeTo": 2000}],
            "{\"IPVersion\":0,\"Prefix\":\"invalid Prefix\"}": [{"TargetAddress": "2001:db8::5",
            "TargetVNI": 0, "Type": 0, "NATPortRangeFrom": 0, "NATPortRangeTo": 0}]},
        "20": {}}, "metalbondVersion": "development"}"#;

    #[test]
    fn both_shapes_are_read() {
        let (found, told) = read(FULL).unwrap();
        assert_eq!(found, ["100 1.2.3.4/32 via 2001:db8::5 (VNI: 7) NAT 1000-2000 Full"]);
        assert_eq!((told.routes, told.unreadable, told.has_bare_addresses), (1, 1, false));
        let (found, told) = read(
            r#"{"vnet":{"100":{"10.0.23.0/24":["2001:db8::1","2001:db8::2 (VNI: 7)"],"x":["::1"]}}}"#,
        )
        .unwrap();
        assert_eq!(
            found,
            [
                "100 10.0.23.0/24 via 2001:db8::1 STANDARD 0-0 AddressOnly",
                "100 10.0.23.0/24 via 2001:db8::2 STANDARD 0-0 AddressOnly"
            ]
        );
        assert_eq!((told.unreadable, told.has_bare_addresses), (1, true));
        assert_eq!(read("{\"vnet\":{}}").unwrap().1.routes, 0);
    }

    #[test]
    fn what_is_something_else_is_refused() {
        for (text, words) in [
            ("", "EOF"),
            ("<html>", "expected value"),
            ("[]", "an object with \"vnet\""),
            ("{}", "missing field `vnet`"),
            (r#"{"vnet":[]}"#, "a table for each VNI"),
            (r#"{"vnet":{"x":{}}}"#, "expected a VNI"),
            (r#"{"vnet":{"4294967296":{}}}"#, "expected a VNI"),
            (r#"{"vnet":{"1":{"10.0.0.0/8":"::1"}}}"#, "a list of next hops"),
            (r#"{"vnet":{"1":{"10.0.0.0/8":[7]}}}"#, "a next hop"),
            (r#"{"vnet":{"1":{"10.0.0.0/8":[{}]}}}"#, "missing field"),
            (r#"{"vnet":{}} x"#, "trailing"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for length in 0..FULL.len() {
            assert!(read(&FULL[..length]).is_err(), "cut after {length} bytes");
        }
    }

    #[test]
    fn it_can_be_stopped() {
        let stop = || Err(std::io::Error::other("enough"));
        let error = read_routes(FULL.as_bytes(), &mut |_, _, _| stop()).unwrap_err();
        assert_eq!(std::io::Error::from(error).to_string(), "enough");
    }
}
