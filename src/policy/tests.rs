//! Files and what they permit; what is said about wrong ones.

use proptest::prelude::*;

use super::strategies::{address, file, route, vni};
use super::*;
use crate::types::NextHopType;

/// What a peer may announce by this file: the line that permits it, or why not.
#[track_caller]
fn ask(file: &str, peer: &str, vni: u32, route: &str) -> Result<u32, Denial> {
    let rules = AnnouncePolicy::parse(file.as_bytes()).unwrap();
    let policy = Policy::new(NextHopPolicy::Any, Some(Arc::new(rules))).unwrap();
    let judge = policy.judge_of(peer.parse().unwrap());
    judge.line(Vni(vni), &self::route_of(route)).map(|line| line.unwrap())
}

/// `DESTINATION HOP [TYPE [TARGET_VNI]]`.
fn route_of(text: &str) -> Route {
    let words: Vec<&str> = text.split(' ').collect();
    let mut next_hop: crate::types::NextHop = words[1].parse().unwrap();
    next_hop.kind = NextHopType(words.get(2).map_or(0, |word| word.parse().unwrap()));
    next_hop.vni = Vni(words.get(3).map_or(0, |word| word.parse().unwrap()));
    Route { destination: words[0].parse().unwrap(), next_hop }
}

fn denied(line: u32) -> Result<u32, Denial> {
    Err(Denial::Denied { line })
}

#[test]
fn the_first_rule_that_is_about_a_route_decides() {
    let file = "# of zone a\n\
                deny destination 0.0.0.0/0{0},::/0{0}\n\
                \n\
                permit peer 2001:db8:a::/48 vni 100-199 next-hop own # tenants\n\
                deny peer 2001:db8:a::7\n\
                permit peer 2001:db8:a::/48 vni 200 destination 10.0.0.0/8 type nat,lb\n";
    let ask = |peer, vni, route| ask(file, peer, vni, route);
    assert_eq!(ask("2001:db8:a::1", 100, "10.0.0.0/24 2001:db8:a::1"), Ok(4));
    assert_eq!(ask("2001:db8:a::7", 199, "10.0.0.0/24 2001:db8:a::7"), Ok(4));
    assert_eq!(ask("2001:db8:a::1", 100, "0.0.0.0/0 2001:db8:a::1"), denied(2));
    assert_eq!(ask("2001:db8:a::1", 100, "::/0 2001:db8:a::1"), denied(2));
    assert_eq!(ask("2001:db8:a::1", 100, "10.0.0.0/24 2001:db8:a::2"), Err(Denial::NoRule));
    assert_eq!(ask("2001:db8:a::7", 200, "10.0.0.0/24 2001:db8:a::7 1"), denied(5));
    assert_eq!(ask("2001:db8:a::1", 200, "10.0.0.0/24 9.9.9.9 1"), Ok(6));
    assert_eq!(ask("2001:db8:a::1", 200, "10.0.0.0/24 9.9.9.9 2"), Ok(6));
    assert_eq!(ask("2001:db8:a::1", 200, "10.0.0.0/24 9.9.9.9 0"), Err(Denial::NoRule));
    assert_eq!(ask("2001:db8:a::1", 200, "11.0.0.0/24 9.9.9.9 1"), Err(Denial::NoRule));
    assert_eq!(ask("2001:db8:b::1", 100, "10.0.0.0/24 2001:db8:b::1"), Err(Denial::NoRule));
}

#[test]
fn a_file_without_rules_refuses_all_and_a_bare_permit_permits_all() {
    assert_eq!(ask("", "10.0.0.1", 0, "10.0.0.0/8 ::1"), Err(Denial::NoRule));
    assert_eq!(ask("# permit\n", "10.0.0.1", 0, "10.0.0.0/8 ::1"), Err(Denial::NoRule));
    assert_eq!(ask("permit", "10.0.0.1", 0, "10.0.0.0/8 ::1"), Ok(1));
    assert_eq!(ask("\u{feff}permit\r\n", "10.0.0.1", 0, "10.0.0.0/8 ::1"), Ok(1));
    assert_eq!(ask("deny", "10.0.0.1", 0, "10.0.0.0/8 ::1"), denied(1));
}

#[test]
fn destinations_are_inside_a_prefix() {
    for (condition, destination, permits) in [
        ("10.0.0.0/8", "10.0.0.0/8", true),
        ("10.0.0.0/8", "10.255.255.255/32", true),
        // It is not inside, it is around.
        ("10.0.0.0/8", "0.0.0.0/0", false),
        ("10.0.0.0/8", "10.0.0.0/7", false),
        ("10.0.0.0/8", "11.0.0.0/8", false),
        // Host bits do not count.
        ("10.0.0.0/8", "10.1.2.3/8", true),
        ("0.0.0.0/0{0}", "1.2.3.4/0", true),
        ("0.0.0.0/0{0}", "128.0.0.0/1", false),
        ("0.0.0.0/0", "0.0.0.0/0", true),
        ("0.0.0.0/0", "::/0", false),
        // IPv4 in IPv6 dress is IPv6, as it is on the wire and in the kernel.
        ("10.0.0.0/8", "::ffff:10.0.0.0/104", false),
        ("::ffff:10.0.0.0/104", "::ffff:10.0.0.0/104", true),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", false),
        ("::/0", "::ffff:10.0.0.0/104", true),
        ("10.0.0.0/8{24-28}", "10.0.0.0/23", false),
        ("10.0.0.0/8{24-28}", "10.0.0.0/24", true),
        ("10.0.0.0/8{24-28}", "10.0.0.0/28", true),
        ("10.0.0.0/8{24-28}", "10.0.0.0/29", false),
        ("10.0.0.0/8{8}", "10.0.0.0/8", true),
        ("10.0.0.0/8{8}", "10.0.0.0/9", false),
        ("10.0.0.7", "10.0.0.7/32", true),
        ("10.0.0.7", "10.0.0.6/32", false),
        ("2001:db8::/32{64}", "2001:db8:7::/64", true),
        ("2001:db8::/32{64}", "2001:db8::/32", false),
    ] {
        let file = format!("permit destination {condition}");
        let said = ask(&file, "10.0.0.1", 0, &format!("{destination} 10.0.0.1"));
        assert_eq!(said.is_ok(), permits, "{condition}: {destination}");
    }
}

#[test]
fn next_hops_peers_and_vnis() {
    for (rule, peer, vni, route, permits) in [
        ("next-hop own", "10.0.0.1", 1, "10.0.0.0/8 10.0.0.1", true),
        ("next-hop own", "10.0.0.1", 1, "10.0.0.0/8 ::ffff:10.0.0.1", false),
        // The peer is known by its IPv4 address, however it came.
        ("next-hop own", "::ffff:10.0.0.1", 1, "10.0.0.0/8 10.0.0.1", true),
        ("peer ::ffff:10.0.0.0/104", "10.0.0.1", 1, "10.0.0.0/8 ::1", true),
        ("peer ::ffff:10.0.0.1", "10.0.0.1", 1, "10.0.0.0/8 ::1", true),
        ("peer ::/0", "10.0.0.1", 1, "10.0.0.0/8 ::1", false),
        ("peer ::/0,0.0.0.0/0", "10.0.0.1", 1, "10.0.0.0/8 ::1", true),
        ("next-hop own, 2001:db8::/64", "10.0.0.1", 1, "10.0.0.0/8 2001:db8::7", true),
        ("next-hop ::ffff:0:0/96", "10.0.0.1", 1, "10.0.0.0/8 10.0.0.1", false),
        ("next-hop ::ffff:0:0/96", "10.0.0.1", 1, "10.0.0.0/8 ::ffff:10.0.0.1", true),
        ("vni 0", "10.0.0.1", 0, "10.0.0.0/8 ::1", true),
        ("vni 4294967295", "10.0.0.1", u32::MAX, "10.0.0.0/8 ::1", true),
        ("vni 0-4294967295", "10.0.0.1", u32::MAX, "10.0.0.0/8 ::1", true),
        ("vni 7,1-3,9-12", "10.0.0.1", 7, "10.0.0.0/8 ::1", true),
        ("vni 7,1-3,9-12", "10.0.0.1", 8, "10.0.0.0/8 ::1", false),
        ("vni 7,1-3,9-12", "10.0.0.1", 13, "10.0.0.0/8 ::1", false),
        ("vni 7,1-3,9-12", "10.0.0.1", 0, "10.0.0.0/8 ::1", false),
        // One in another, and one that touches the next.
        ("vni 3-4,1-9,10", "10.0.0.1", 9, "10.0.0.0/8 ::1", true),
        ("vni 3-4,1-9,10", "10.0.0.1", 10, "10.0.0.0/8 ::1", true),
        ("vni 3-4,1-9,10", "10.0.0.1", 11, "10.0.0.0/8 ::1", false),
        ("target-vni 3-4,1-9,own", "10.0.0.1", 70, "10.0.0.0/8 ::1 0 9", true),
        ("target-vni 3-4,1-9,own", "10.0.0.1", 70, "10.0.0.0/8 ::1 0 10", false),
        // A target VNI of 0 is the route's own.
        ("target-vni own", "10.0.0.1", 7, "10.0.0.0/8 ::1", true),
        ("target-vni own", "10.0.0.1", 7, "10.0.0.0/8 ::1 0 7", true),
        ("target-vni own", "10.0.0.1", 7, "10.0.0.0/8 ::1 0 8", false),
        ("target-vni 7", "10.0.0.1", 7, "10.0.0.0/8 ::1", true),
        ("target-vni own,8-9", "10.0.0.1", 7, "10.0.0.0/8 ::1 0 9", true),
        ("type 0", "10.0.0.1", 7, "10.0.0.0/8 ::1 0", true),
        ("type std", "10.0.0.1", 7, "10.0.0.0/8 ::1 1", false),
        ("type -5,77", "10.0.0.1", 7, "10.0.0.0/8 ::1 -5", true),
    ] {
        let said = ask(&format!("permit {rule}"), peer, vni, route);
        assert_eq!(said.is_ok(), permits, "{rule}: {peer} says {route} in {vni}");
    }
}

#[test]
fn both_policies_must_permit() {
    let rules = |text: &str| Some(Arc::new(AnnouncePolicy::parse(text.as_bytes()).unwrap()));
    let judge = |next_hops, rules| {
        Policy::new(next_hops, rules).unwrap().judge_of("10.0.0.1".parse().unwrap())
    };
    let (own, other) = (route_of("10.0.0.0/8 10.0.0.1"), route_of("10.0.0.0/8 10.0.0.2"));
    assert!(Policy::new(NextHopPolicy::Any, None).is_none());
    let only_own = judge(NextHopPolicy::OwnAddress, None);
    assert_eq!(only_own.line(Vni(1), &own), Ok(None));
    assert_eq!(only_own.judge(Vni(1), &other), Err(Denial::NextHop));
    let both = judge(NextHopPolicy::OwnAddress, rules("permit vni 1"));
    assert_eq!(both.judge(Vni(1), &own), Ok(()));
    assert_eq!(both.judge(Vni(2), &own), Err(Denial::NoRule));
    assert_eq!(both.judge(Vni(1), &other), Err(Denial::NextHop));
}

#[test]
fn all_mistakes_are_told_with_their_lines() {
    let said = |text: &str| AnnouncePolicy::parse(text.as_bytes()).unwrap_err().to_string();
    for (line, words) in [
        (
            "Permit vni 1",
            r#""Permit" is no rule: one begins with permit or deny; did you mean permit?"#,
        ),
        ("peer 10.0.0.0/8", r#""peer" is no rule"#),
        ("permit nexthop own", r#""nexthop" is no condition"#),
        ("permit nexthop own", "did you mean next-hop?"),
        ("permit vni 1 2", r#""2" is no condition"#),
        ("permit vni 1 ,2", r#"",2" is no condition"#),
        ("permit vni 1 vni 2", "vni stands twice"),
        ("permit vni", "no value follows vni"),
        ("permit vni type nat", "no value follows vni"),
        (
            "permit vni 1, type nat",
            r#"vni "": nothing stands before, behind or between the commas"#,
        ),
        ("permit vni ,1", "between the commas"),
        ("permit vni 9-1", "ends before it begins"),
        ("permit vni 4294967296", "neither a number from 0 to 4294967295"),
        ("permit vni +1", "neither a number"),
        ("permit vni -1", "neither a number"),
        ("permit vni 1-", "neither a number"),
        ("permit target-vni owm", "did you mean own?"),
        ("permit peer 10.0.0.0/33", "neither an address nor a network"),
        ("permit peer 10.0.0.0/+8", "neither an address nor a network"),
        ("permit peer 010.0.0.0/8", "neither an address nor a network"),
        ("permit peer 10.0.0.7/8", "10.0.0.0/8 or 10.0.0.7 is meant"),
        ("permit peer own", "neither an address nor a network"),
        ("permit next-hop 10.0.0.7/8", "10.0.0.0/8 or 10.0.0.7 is meant"),
        ("permit next-hop wn", "did you mean own?"),
        ("permit destination 10.0.0.0/8{7}", "from 8 to 32, like {8} or {8-32}"),
        ("permit destination 10.0.0.0/8{8-33}", "from 8 to 32"),
        ("permit destination 10.0.0.0/8{9-8}", "from 8 to 32"),
        ("permit destination 10.0.0.0/8{9", "from 8 to 32"),
        ("permit destination 10.0.0.0/8{9}7", "from 8 to 32"),
        ("permit destination 10.0.0.1/8{9}", "10.0.0.0/8 or 10.0.0.1 is meant"),
        ("permit type nta", "did you mean nat?"),
        ("permit type 2147483648", "nor the number of a type"),
        ("permit type --1", "nor the number of a type"),
        ("permit type \u{1b}[31m", r#"type "\u{1b}[31m":"#),
    ] {
        let said = said(&format!("# first\n{line}\npermit"));
        assert!(said.starts_with("line 2: "), "{line}: {said}");
        assert!(said.contains(words), "{line}: {said}");
    }
    let several = said("permit vni x,1,y type nat peer z\npermit\nsure\n");
    let lines: Vec<&str> = several.lines().map(|line| &line[..14]).collect();
    assert_eq!(
        lines,
        ["line 1: vni \"x", "line 1: vni \"y", "line 1: peer \"", "line 3: \"sure\""]
    );
    let bytes = AnnouncePolicy::parse(b"permit\npermit # \xff\n").unwrap_err();
    assert_eq!(bytes.to_string(), "line 2: it is no text in UTF-8");
    let long = said(&format!("{}\n", "x".repeat(10_000)));
    assert!(long.len() < 200, "{} bytes", long.len());
}

#[test]
fn what_is_said_and_what_is_read_is_bounded() {
    let said = AnnouncePolicy::parse("no\n".repeat(1_000).as_bytes()).unwrap_err().to_string();
    assert_eq!(said.lines().count(), 21);
    assert!(said.ends_with("\nand 980 more"), "{said}");
    let rules = |count: usize| AnnouncePolicy::parse("deny\n".repeat(count).as_bytes());
    assert_eq!(rules(RULES_MAX).unwrap().rule_count(), RULES_MAX);
    assert_eq!(rules(RULES_MAX + 1).unwrap_err(), PolicyError::TooManyRules);
    let bytes = |count: usize| AnnouncePolicy::parse(&vec![b'#'; count]);
    assert_eq!(bytes(FILE_BYTES_MAX).unwrap().rule_count(), 0);
    assert_eq!(bytes(FILE_BYTES_MAX + 1).unwrap_err(), PolicyError::TooLarge);
    let values = |count: usize| {
        let values: Vec<String> = (0..count).map(|vni| (2 * vni).to_string()).collect();
        AnnouncePolicy::parse(format!("permit vni {}", values.join(",")).as_bytes())
    };
    assert!(values(text::VALUES_MAX).is_ok());
    let said = values(text::VALUES_MAX + 1).unwrap_err().to_string();
    assert_eq!(said, "line 1: vni has more than 1000 values: give them to several rules");
}

#[test]
fn differences_are_counted() {
    let parse = |text: &str| AnnouncePolicy::parse(text.as_bytes()).unwrap();
    let said = |former: &str, later: &str| parse(later).since(&parse(former)).to_string();
    assert_eq!(said("permit\ndeny", "# x\npermit\n\ndeny"), "nothing differs");
    assert_eq!(said("permit vni 2,1", "permit vni 1-2"), "nothing differs");
    assert_eq!(said("permit\ndeny", "deny\npermit"), "the order of the rules differs");
    assert_eq!(said("permit\ndeny", "permit\npermit vni 1\npermit"), "2 are new, 1 are gone");
}

#[test]
fn each_kind_has_its_word() {
    let kinds = [Denial::NextHop, Denial::Denied { line: 7 }, Denial::NoRule];
    for (index, denial) in kinds.into_iter().enumerate() {
        assert_eq!(denial.kind(), index);
        assert!(denial.to_string().ends_with(&format!("({})", denial.why().1)), "{denial}");
    }
    assert_eq!(kinds.len(), Denial::KINDS.len());
}

/// What operators copy does what it says.
#[test]
fn the_example_of_the_documents() {
    let text = include_str!("../../docs/POLICY.md");
    let (_, behind) = text.split_once("### An example").unwrap();
    let example = behind.split("```").nth(1).unwrap().strip_prefix("text\n").unwrap();
    let ask = |peer, vni, route| ask(example, peer, vni, route).is_ok();
    let (gateway, controller, hypervisor) = ("2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:a::7");
    assert!(ask(gateway, 7, "0.0.0.0/0 2001:db8:0:1::1"));
    assert!(!ask(gateway, 7, "0.0.0.0/0 2001:db8:0:1::2"));
    assert!(ask(controller, 7, "10.0.0.0/24 2001:db8:a::9"));
    assert!(!ask(controller, 7, "0.0.0.0/0 2001:db8:a::9"));
    assert!(ask(hypervisor, 100, "10.1.0.0/24 2001:db8:a::7"));
    assert!(!ask(hypervisor, 99, "10.1.0.0/24 2001:db8:a::7"));
    assert!(!ask(hypervisor, 100, "10.0.0.0/8 2001:db8:a::7"));
    assert!(!ask(hypervisor, 100, "::/0 2001:db8:a::7"));
    assert!(!ask(hypervisor, 100, "10.1.0.0/24 2001:db8:a::8"));
    assert!(!ask(hypervisor, 100, "10.1.0.0/24 2001:db8:a::7 0 200"));
    assert!(!ask("2001:db8:b::1", 100, "10.1.0.0/24 2001:db8:b::1"));
}

/// A rule for each of 10,000 hypervisors, and for each of 10,000 VNIs: few are looked at.
#[test]
fn a_judge_has_few_rules_to_look_at() {
    let mut text = String::new();
    for n in 0..10_000 {
        text += &format!("permit peer 2001:db8::{n:x} vni 100-199 next-hop own\n");
        text += &format!("permit vni {} destination 10.0.0.0/8\n", 1_000 + n);
    }
    let rules = AnnouncePolicy::parse(text.as_bytes()).unwrap();
    let peer = "2001:db8::270f".parse().unwrap();
    let buckets = rules.index.buckets_of(peer);
    assert_eq!(buckets.len(), 2);
    assert!(!buckets.spilled());
    assert!(rules.index.looked_at(&buckets, Vni(100)) <= 1);
    assert!(rules.index.looked_at(&buckets, Vni(1_500)) <= 2);
    assert!(size_of::<Bench>() <= 64, "{} bytes a source", size_of::<Bench>());
}

proptest! {
    #[test]
    fn the_index_finds_what_a_walk_finds(
        file in file(),
        peer in address(),
        vnis in proptest::collection::vec(vni(), 4),
        routes in proptest::collection::vec(route(), 4),
    ) {
        let rules = Arc::new(AnnouncePolicy::parse(file.as_bytes()).unwrap());
        let policy = Policy::new(NextHopPolicy::Any, Some(Arc::clone(&rules))).unwrap();
        let judge = policy.judge_of(peer);
        for vni in vnis.into_iter().map(Vni) {
            for route in &routes {
                let walked = rules.walk(peer.to_canonical(), vni, route);
                prop_assert_eq!(judge.line(vni, route), walked.map(Some));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again(file in file()) {
        let rules = AnnouncePolicy::parse(file.as_bytes()).unwrap();
        let again = AnnouncePolicy::parse(rules.to_string().as_bytes()).unwrap();
        prop_assert_eq!(again.index.rules(), rules.index.rules());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = AnnouncePolicy::parse(&bytes);
    }

    /// One mistyped character: what is read is written and read again, what is not is told.
    #[test]
    fn damaged_rules_do_no_harm(file in file(), place: proptest::sample::Index, byte: u8) {
        let mut bytes = file.into_bytes();
        if !bytes.is_empty() {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        match AnnouncePolicy::parse(&bytes) {
            Ok(rules) => {
                let again = AnnouncePolicy::parse(rules.to_string().as_bytes()).unwrap();
                prop_assert_eq!(again.index.rules(), rules.index.rules());
            }
            Err(error) => prop_assert!(error.to_string().starts_with("line ")),
        }
    }
}
