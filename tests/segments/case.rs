//! The table of cases: what a path and a receiver may do to the ends of segments.
//!
//! Owns what is claimed of each. Must never hold code of the peer.

use std::time::Duration;

use crate::peer::{Holes, Manners};
use crate::receiver::Habits;

/// What is expected of slices: KEEPALIVEs that fill up segments tell of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slices {
    Used,
    Unused,
    /// It depends on how fast the machine is.
    Any,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub v6: bool,
    pub manners: Manners,
    /// More arguments of the server.
    pub arguments: Vec<String>,
    /// Segments that the server may send at once in the beginning.
    pub initcwnd: Option<u32>,
    pub routes: usize,
    /// Connections, one after the other, each from an address of its own.
    pub rounds: u16,
    pub slices: Slices,
    pub pace: &'static str,
    paces: &'static [&'static str],
}

const MANNERS: Manners = Manners {
    habits: Habits { space: 65_535, route: Duration::ZERO, stall: None, shrinks: None },
    mss: 1_440,
    timestamps: true,
    sack: true,
    delay: Duration::ZERO,
    loses: None,
    loses_updates: false,
    holes: Holes::None,
    mtu_falls: None,
};

const STALL: Duration = Duration::from_millis(1_200);

fn case(name: &str, slices: Slices, manners: Manners) -> Case {
    Case {
        name: name.to_owned(),
        v6: true,
        manners,
        arguments: Vec::new(),
        initcwnd: None,
        routes: 4_000,
        rounds: 1,
        slices,
        pace: "",
        paces: &["auto", "off"],
    }
}

/// Some connections of few routes: what comes amid a dump does so once in each.
fn few(paces: &'static [&'static str], case: Case) -> Case {
    Case { rounds: 8, routes: 1_500, paces, ..case }
}

fn with_habits(space: usize, route_us: u64, stall: Option<(usize, Duration)>) -> Manners {
    let route = Duration::from_micros(route_us);
    Manners { habits: Habits { space, route, stall, shrinks: None }, ..MANNERS }
}

/// All cases, most of them with proofs and without pace.
pub fn all() -> Vec<Case> {
    let mut cases = paths();
    cases.extend(windows());
    cases.extend(sizes());
    let mut all = Vec::new();
    for case in cases {
        for pace in case.paces {
            all.push(Case { name: format!("{}, {pace}", case.name), pace, ..case.clone() });
        }
    }
    all
}

fn paths() -> Vec<Case> {
    use Slices::{Any, Unused, Used};
    let slow = Manners { delay: Duration::from_millis(2), ..MANNERS };
    let holes = Manners { holes: Holes::Amid, ..MANNERS };
    let early = Manners { holes: Holes::Early, ..MANNERS };
    let lossy = |every| Manners { loses: Some(every), ..MANNERS };
    let no_sack = Manners { sack: false, ..lossy(29) };
    vec![
        case("clean", Used, MANNERS),
        Case { v6: false, ..case("clean, IPv4", Used, MANNERS) },
        case("no timestamps", Used, Manners { timestamps: false, ..MANNERS }),
        case("longer than 1 ms", Unused, slow),
        case("each 17th segment lost", Any, lossy(17)),
        case("each 5th segment lost", Any, lossy(5)),
        case("lost without SACK", Any, no_sack),
        case("longer than 1 ms, lost", Unused, Manners { delay: slow.delay, ..lossy(17) }),
        few(&["auto", "off"], case("holes before the first route", Any, early)),
        few(&["auto", "off"], case("holes", Any, holes)),
        Case {
            initcwnd: Some(2),
            ..few(&["auto", "off"], case("holes, small congestion window", Any, holes))
        },
        case("holes, longer than 1 ms", Unused, Manners { delay: slow.delay, ..holes }),
        Case { initcwnd: Some(2), ..case("small congestion window", Any, MANNERS) },
    ]
}

fn windows() -> Vec<Case> {
    use Slices::{Any, Used};
    let mut cases = Vec::new();
    for space in [3_001, 5_003, 10_007, 20_011, 35_023, 60_013] {
        let slices = if space < 5_000 { Any } else { Used };
        let name = |what| format!("window of {space}{what}");
        cases.push(case(&name(""), slices, with_habits(space, 0, None)));
        cases.push(case(&name(", slow reader"), slices, with_habits(space, 50, None)));
        let stalls = with_habits(space, 10, Some((1_000, STALL)));
        cases.push(case(&name(", a stall"), slices, stalls));
    }
    for space in [10_007, 35_023] {
        let stalls = with_habits(space, 0, Some((1_000, STALL)));
        let name = |what| format!("window of {space}, {what}");
        let deaf = Manners { loses_updates: true, ..stalls };
        cases.push(case(&name("window updates lost"), Any, deaf));
        let lossy = Manners { loses: Some(17), ..stalls };
        cases.push(case(&name("a stall, losses"), Any, lossy));
        let slow = Manners { delay: Duration::from_millis(2), ..stalls };
        cases.push(case(&name("a stall, longer than 1 ms"), Any, slow));
        // No receiver takes back what it has offered, but for want of memory: several segments at once would be cut.
        let shrinks = Habits { shrinks: Some(3), ..with_habits(space, 10, None).habits };
        let shrinks = Manners { habits: shrinks, ..MANNERS };
        cases.push(Case { paces: &["600"], ..case(&name("it shrinks"), Slices::Unused, shrinks) });
    }
    cases
}

fn sizes() -> Vec<Case> {
    use Slices::{Any, Unused, Used};
    let mut cases = Vec::new();
    for (mss, slices) in [(536, Unused), (700, Used), (1_000, Used), (1_200, Used), (1_400, Used)] {
        cases.push(case(&format!("MSS {mss}"), slices, Manners { mss, ..MANNERS }));
        let holes = Manners { mss, holes: Holes::Amid, ..MANNERS };
        cases.push(few(&["auto", "off"], case(&format!("MSS {mss}, holes"), Any, holes)));
    }
    let falls = Manners { mtu_falls: Some((12, 1_000)), ..MANNERS };
    let arguments = vec!["--mss=900".to_owned()];
    let name = "IPv4, MTU falls to 1,000, --mss 900";
    cases.push(Case { v6: false, arguments, ..case(name, Any, falls) });
    for v6 in [true, false] {
        let ip = if v6 { "IPv6" } else { "IPv4" };
        for from in [12, 60] {
            let falls = Manners { mtu_falls: Some((from, 1_280)), ..MANNERS };
            let name = |mss| format!("{ip}, MTU falls to 1,280 at segment {from}{mss}");
            cases.push(Case { v6, ..case(&name(""), Any, falls) });
            let arguments = vec!["--mss=auto".to_owned()];
            cases.push(Case {
                v6,
                arguments,
                ..case(&name(", segments as the path says"), Any, falls)
            });
        }
    }
    cases
}
