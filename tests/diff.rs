//! `metalbond-uring diff`, run as operators run it: between real reflectors, and with whatever else shows a table.
//!
//! Owns what is claimed of its output and exit codes. `METALBOND_DIFF_ROUTES=1000000 cargo test --test diff one_route`
//! compares as many routes, and tells the time. Must never assert one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "common/asking.rs"]
mod asking;
mod common;
#[path = "common/fake_http.rs"]
mod fake_http;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use asking::{Asked, Said, assert_harmless, command, run};
use common::process::Process;
use common::{add, remove, route};
use fake_http::{FakeHttp, Reply};
use serde_json::Value;

/// Behind differences of one look.
const ADVICE: &str = "metalbond-uring diff: routes that were on their way differ too: --for 30s tells only what lasts\n";

/// Runs a comparison: exit code, stdout, stderr without the advice.
fn diff(arguments: &[&str]) -> (i32, String, String) {
    let Said { code, out, err } = run(&[&["diff"], arguments].concat());
    assert!(!err.contains("panicked"), "{err}");
    assert_harmless(&out);
    assert_harmless(&err);
    let is_one_look = code == Some(1) && !arguments.contains(&"--for");
    assert_eq!(err.ends_with(ADVICE), is_one_look, "{err}");
    (code.unwrap(), out, err.replace(ADVICE, ""))
}

#[test]
fn two_reflectors() {
    let (a, b) = (Asked::start(), Asked::start());
    let mut at_a = a.peer(&[add(&route(7, 1, 1)), add(&route(9, 1, 1))].concat());
    let mut at_b = b.peer(&[add(&route(7, 1, 1)), add(&route(9, 1, 1))].concat());
    a.wait_for_routes(2);
    b.wait_for_routes(2);
    let equal = (0, "equal: 2 routes in 2 VNIs\n".to_owned(), String::new());
    assert_eq!(diff(&[&a.http, &b.http]), equal);
    at_a.send(&[add(&route(7, 2, 1)), add(&route(8, 1, 1))].concat());
    // One after the other, so that each is another number of routes.
    at_b.send(&add(&route(7, 1, 2)));
    b.wait_for_routes(3);
    at_b.send(&remove(&route(9, 1, 1)));
    a.wait_for_routes(4);
    b.wait_for_routes(2);
    let (a_name, b_name) = (&a.http, &b.http);
    let expected = format!(
        "only at {b_name}: VNI 7 10.0.0.1/32 via 2001:db8::2\n\
         only at {a_name}: VNI 7 10.0.0.2/32 via 2001:db8::1\n\
         only at {a_name}: VNI 8 10.0.0.1/32 via 2001:db8::1\n\
         only at {a_name}: VNI 9 10.0.0.1/32 via 2001:db8::1\n\
         4 routes differ in 3 of 3 VNIs\n"
    );
    assert_eq!(diff(&[a_name, b_name]), (1, expected, String::new()));
    let expected = format!(
        "only at {a_name}: VNI 8 10.0.0.1/32 via 2001:db8::1\n1 route differs in 1 of 1 VNI\n"
    );
    assert_eq!(diff(&[a_name, b_name, "--vni", "8,10"]).1, expected);
    assert_eq!(diff(&[a_name, b_name, "--vni=10"]).0, 0);
    let (code, out, _) = diff(&[a_name, b_name, "--json", "--vni", "8"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!({
        "equal": false,
        "sides": [a_name, b_name],
        "compared": "routes",
        "vnis": 1,
        "differing_vnis": 1,
        "differing_routes": 1,
        "left_out": 0,
        "differences": [{
            "vni": 8,
            "destination": "10.0.0.1/32",
            "next_hop": {
                "address": "2001:db8::1", "vni": 0, "type": 0, "nat_port_from": 0, "nat_port_to": 0
            },
            "at": [a_name],
            "not_at": [b_name],
        }],
    });
    assert_eq!((code, told), (1, expected));
    let (code, out, _) = diff(&["--json", a_name, &format!("http://{a_name}/routes.json")]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["equal"], &told["vnis"]), (0, &true.into(), &3.into()));
}

#[test]
fn three_reflectors_and_a_file() {
    let sides = [Asked::start(), Asked::start(), Asked::start()];
    let said = [
        [add(&route(7, 1, 1)), add(&route(7, 2, 1)), add(&route(7, 3, 1))].concat(),
        [add(&route(7, 1, 1)), add(&route(7, 2, 1))].concat(),
        add(&route(7, 1, 1)),
    ];
    let _peers: Vec<_> = sides.iter().zip(&said).map(|(side, said)| side.peer(said)).collect();
    sides.iter().zip([3, 2, 1]).for_each(|(side, routes)| side.wait_for_routes(routes));
    let [a, b, c] = [0, 1, 2].map(|side| sides[side].http.as_str());
    let expected = format!(
        "at {a} and {b}, not at {c}: VNI 7 10.0.0.2/32 via 2001:db8::1\n\
         only at {a}: VNI 7 10.0.0.3/32 via 2001:db8::1\n\
         2 routes differ in 1 of 1 VNI\n"
    );
    assert_eq!(diff(&[a, b, c]), (1, expected, String::new()));
    // What was saved before: the same, then not.
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("diff-{}.json", std::process::id()));
    let name = file.to_str().unwrap();
    std::fs::write(&file, run(&["show", "routes", "--json", "--http", a]).out).unwrap();
    assert_eq!(diff(&[name, a]).0, 0);
    let (code, out, _) = diff(&[name, b]);
    assert_eq!(
        (code, out.lines().next().unwrap()),
        (1, &*format!("only at {name}: VNI 7 10.0.0.3/32 via 2001:db8::1"))
    );
    std::fs::write(&file, "{\"vnet\": {").unwrap();
    let (code, _, err) = diff(&[name, b]);
    assert_eq!(
        (code, err),
        (
            2,
            format!(
                "metalbond-uring diff: {name}: the answer was cut short: it ends amid a value\n"
            )
        )
    );
    std::fs::write(&file, "").unwrap();
    let (_, _, err) = diff(&[name, b]);
    assert_eq!(err, format!("metalbond-uring diff: cannot read {name}: the file is empty\n"));
    std::fs::remove_file(&file).unwrap();
    let (code, _, err) = diff(&[name, b]);
    assert_eq!(
        (code, err),
        (2, format!("metalbond-uring diff: cannot read {name}: no such file or directory\n"))
    );
}

#[test]
fn one_route_of_many() {
    let routes =
        std::env::var("METALBOND_DIFF_ROUTES").map_or(20_000, |text| text.parse().unwrap());
    for vnis in [1, 500] {
        let (a, b) = (Asked::start(), Asked::start());
        let announced: Vec<u8> =
            (0..routes).flat_map(|number| add(&route(number % vnis, number, 1))).collect();
        let _at_a = a.peer(&announced);
        let mut at_b = b.peer(&announced);
        at_b.send(&add(&route(vnis / 2, 0x00ff_ffff, 9)));
        at_b.barrier();
        a.wait_for_routes(routes as usize);
        b.wait_for_routes(routes as usize + 1);
        let begun = Instant::now();
        let (code, out, _) = diff(&[&a.http, &b.http]);
        eprintln!("{routes} routes in {vnis} VNIs: one differs, found in {:?}", begun.elapsed());
        let route = format!("VNI {} 10.255.255.255/32 via 2001:db8::9", vnis / 2);
        let many = if vnis == 1 { "VNI" } else { "VNIs" };
        let expected =
            format!("only at {}: {route}\n1 route differs in 1 of {vnis} {many}\n", b.http);
        assert_eq!((code, out), (1, expected));
    }
}

/// Destinations, each with an address of a next hop.
type Routes<'a> = &'a [(&'a str, &'a str)];

/// `/vnis.json` with these VNIs, of one route each, and their digests.
fn vnis_json(vnis: &[(u32, &str)]) -> Reply {
    let rows: Vec<String> = (vnis.iter())
        .map(|(vni, digest)| format!("{{\"vni\": {vni}, \"routes\": 1, \"digest\": \"{digest}\"}}"))
        .collect();
    Reply::json(format!("{{\"vnis\": [{}]}}", rows.join(",")))
}

/// `/routes.json` of these VNIs: destinations and next hops, as upstream's newest version tells them.
fn full(vnis: &[(u32, Routes)]) -> Reply {
    let hop = |address: &str| {
        format!(
            "{{\"TargetAddress\": \"{address}\", \"TargetVNI\": 0, \"Type\": 0, \"NATPortRangeFrom\": 0, \
             \"NATPortRangeTo\": 0}}"
        )
    };
    let route = |(destination, address): &(&str, &str)| {
        let version = if destination.contains(':') { 6 } else { 4 };
        let key = format!("{{\"IPVersion\":{version},\"Prefix\":\"{destination}\"}}");
        format!("{}: [{}]", Value::from(key), hop(address))
    };
    let table = |(vni, routes): &(u32, Routes)| {
        format!("\"{vni}\": {{{}}}", routes.iter().map(route).collect::<Vec<_>>().join(", "))
    };
    let tables: Vec<String> = vnis.iter().map(table).collect();
    Reply::json(format!(
        "{{\"date\": \"2026-11-22 11:00:25\", \"vnet\": {{{}}}, \"metalbondVersion\": \"development\"}}",
        tables.join(", ")
    ))
}

const SAME: &str = "0123456789abcdef";
const ONE: &str = "1111111111111111";
const OTHER: &str = "2222222222222222";

#[test]
fn only_vnis_that_differ_are_asked_for() {
    let side = |digest: &'static str| {
        FakeHttp::start(move |path| match path.split('?').next().unwrap() {
            "/vnis.json" => vnis_json(&[(1, SAME), (7, digest), (9, SAME)]),
            _ => full(&[(7, &[("10.0.0.0/24", "2001:db8::1")])]),
        })
    };
    let (a, b) = (side(ONE), side(OTHER));
    // Digests differ, and then the tables agree: an update was on its way.
    let expected = (0, "equal: 3 routes in 3 VNIs\n".to_owned(), String::new());
    assert_eq!(diff(&[&a.name(), &b.name()]), expected);
    assert_eq!(a.asked(), ["/vnis.json", "/summary.json", "/routes.json?vni=7"]);
    assert_eq!(b.asked(), a.asked());
    let c = side(ONE);
    assert_eq!(diff(&[&a.name(), &c.name(), "--vni", "7,9"]).0, 0);
    assert_eq!(c.asked(), ["/vnis.json?vni=7&vni=9", "/summary.json"]);
}

/// The Go program: `/routes.json` so, and a page for any other path.
fn go(routes: &'static str) -> FakeHttp {
    FakeHttp::start(move |path| match path {
        "/routes.json" => Reply::json(routes),
        _ => Reply::page(),
    })
}

const GO_HEAD: &str = r#"{"date": "2026-11-22 11:00:25", "vnet": {"7": {
    "{\"IPVersion\":4,\"Prefix\":\"10.0.0.1/32\"}": [
      {"TargetAddress": "2001:db8::1", "TargetVNI": 0, "Type": 0, "NATPortRangeFrom": 0, "NATPortRangeTo": 0},
      {"TargetAddress": "2001:db8::2", "TargetVNI": 9, "Type": 1, "NATPortRangeFrom": 1, "NATPortRangeTo": 9}],
    "{\"IPVersion\":0,\"Prefix\":\"invalid Prefix\"}": [
      {"TargetAddress": "2001:db8::1", "TargetVNI": 0, "Type": 0, "NATPortRangeFrom": 0, "NATPortRangeTo": 0}]
  }}, "metalbondVersion": "development"}"#;
const GO_030: &str = r#"{"date": "2026-11-22 11:00:25", "vnet": {"7": {"10.0.0.1/32": ["2001:db8::1",
    "2001:db8::2 (VNI: 9)"]}}, "metalbondVersion": ""}"#;

#[test]
fn a_side_may_be_of_the_go_program() {
    let ours = Asked::start();
    let mut peer = ours.peer(&add(&route(7, 1, 1)));
    ours.wait_for_routes(1);
    let (head, old) = (go(GO_HEAD), go(GO_030));
    let (head_name, old_name) = (head.name(), old.name());
    let no_route = format!(
        "metalbond-uring diff: {head_name} tells of what is no route: 1 entries are left out\n"
    );
    let expected = format!(
        "only at {head_name}: VNI 7 10.0.0.1/32 via 2001:db8::2 in VNI 9 type NAT ports 1-9\n\
         1 route differs in 1 of 1 VNI\n"
    );
    assert_eq!(diff(&[&ours.http, &head_name]), (1, expected, no_route.clone()));
    assert_eq!(head.asked()[..2], ["/vnis.json", "/routes.json"]);
    let expected = format!(
        "only at {old_name}: VNI 7 10.0.0.1/32 via 2001:db8::2\n1 route differs in 1 of 1 VNI\n"
    );
    let note = format!(
        "metalbond-uring diff: only destinations and addresses of next hops are compared: {old_name} tells no more\n"
    );
    let url = format!("http://{old_name}/routes.json");
    let url_note = note.replace(&old_name, &url);
    assert_eq!(diff(&[&ours.http, &old_name]), (1, expected.clone(), note.clone()));
    assert_eq!(diff(&[&ours.http, &url]).2, url_note);
    // A hop of another type is the same by its address.
    peer.send(&add(&route(7, 1, 2)));
    ours.wait_for_routes(2);
    assert_eq!(diff(&[&ours.http, &old_name]).0, 0);
    assert_eq!(diff(&[&ours.http, &head_name]).0, 1);
    // Both are of the Go program.
    let (code, _, err) = diff(&[&head_name, &old_name]);
    assert_eq!((code, err), (0, format!("{note}{no_route}")));
    assert_eq!(diff(&[&head_name, &go(GO_HEAD).name()]).0, 0);
    assert_eq!(diff(&[&old_name, &go(GO_030).name(), "--vni", "8"]).0, 0);
    let (code, out, _) = diff(&[&ours.http, &old_name, &head_name, "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    let compared = &told["compared"];
    assert_eq!((code, compared), (0, &"destinations_and_next_hop_addresses".into()));
}

#[test]
fn a_side_without_digests_is_compared_by_its_routes() {
    let with = |vnis: &'static str| {
        FakeHttp::start(move |path| match path.split('?').next().unwrap() {
            "/vnis.json" => Reply::json(vnis),
            _ => full(&[(7, &[("10.0.0.1/32", "2001:db8::1")])]),
        })
    };
    let ours = Asked::start();
    let _peer = ours.peer(&add(&route(7, 1, 1)));
    ours.wait_for_routes(1);
    let without = with("{\"vnis\": [{\"vni\": 7, \"routes\": 1}]}");
    assert_eq!(diff(&[&ours.http, &without.name()]).0, 0);
    let not_found = FakeHttp::start(|path| match path {
        "/routes.json" => full(&[(7, &[("10.0.0.2/32", "2001:db8::1")])]),
        _ => Reply::Whole(404, "text/plain", "no such page".to_owned()),
    });
    assert_eq!(diff(&[&ours.http, &not_found.name()]).0, 1);
    let wrong = with("{\"vnis\": [{\"vni\": 7, \"routes\": 1, \"digest\": \"x\"}]}");
    let (code, _, err) = diff(&[&ours.http, &wrong.name()]);
    assert!(code == 2 && err.contains("has not 16 hexadecimal digits"), "{err}");
}

#[test]
fn who_cannot_be_asked_is_told_of_by_status_2() {
    let ours = Asked::start();
    let _peer = ours.peer(&add(&route(7, 1, 1)));
    ours.wait_for_routes(1);
    let taken = std::net::TcpListener::bind("[::1]:0").unwrap();
    let nobody = taken.local_addr().unwrap().to_string();
    drop(taken);
    let check = |name: &str, words: &str| {
        // Only for the ends that never come; a busy node is asked again for so long.
        let is_awaited = ["nothing came", "status 503"].iter().any(|it| words.contains(it));
        let timeout = if is_awaited { "2s" } else { "30s" };
        for arguments in [
            &[&*ours.http, name, "--timeout", timeout][..],
            &[name, &ours.http, "--timeout", timeout, "--for", "1m", "--json"],
        ] {
            let (code, out, err) = diff(arguments);
            assert!(code == 2 && out.is_empty(), "{words}: {code} {out}");
            assert!(err.contains(words) && err.contains(name), "{words}: {err}");
            assert_eq!(err.lines().count(), 1, "{err}");
        }
    };
    check(&nobody, "connection refused; is it running with --http?");
    check(&ours.address().to_string(), "gives no HTTP answer");
    type Case = (&'static str, fn() -> Reply, &'static str);
    let cases: [Case; 9] = [
        ("/vnis.json", || Reply::json("garbage"), "not an answer that makes sense"),
        ("/vnis.json", || Reply::Whole(500, "text/plain", "no".into()), "status 500: no"),
        ("/vnis.json", || Reply::Hang(""), "nothing came for 2 s"),
        ("/vnis.json", || Reply::Busy, "status 503: try again"),
        ("/routes.json", || Reply::Cut("application/json", "{\"vnet\": {".into()), "cut short"),
        ("/routes.json", || Reply::Cut("application/json", "{\"vnet\": {}}".into()), "cut short"),
        ("/routes.json", || Reply::json("{\"vnet\": {"), "cut short"),
        (
            "/routes.json",
            || Reply::json("{\"vnet\": {\"7\": []}}"),
            "not an answer that makes sense",
        ),
        ("/routes.json", || Reply::page(), "answers with text/html, not JSON"),
    ];
    for (path, reply, words) in cases {
        let fake = FakeHttp::start(move |asked| match asked.split('?').next().unwrap() {
            asked if asked == path => reply(),
            "/vnis.json" => vnis_json(&[(7, ONE)]),
            _ => full(&[]),
        });
        check(&fake.name(), words);
    }
}

#[test]
fn they_are_waited_for() {
    let (a, b) = (Asked::start(), Asked::start());
    let _at_a = a.peer(&[add(&route(7, 1, 1)), add(&route(7, 2, 1))].concat());
    let mut at_b = b.peer(&add(&route(7, 1, 1)));
    a.wait_for_routes(2);
    b.wait_for_routes(1);
    let expected = format!(
        "only at {}: VNI 7 10.0.0.2/32 via 2001:db8::1\n1 route differs all the time, 1 at the end\n",
        a.http
    );
    assert_eq!(diff(&[&a.http, &b.http, "--for", "700ms"]), (1, expected, String::new()));
    let waiting = command(&["diff", &a.http, &b.http, "--for", "10m"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(600));
    at_b.send(&add(&route(7, 2, 1)));
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "equal: 2 routes in 1 VNI\n");
    assert!(output.status.success());
}

/// Route 1 is missing all the time, 2 at first, 3 later, and 4 is now here, now there.
#[test]
fn what_changes_meanwhile_is_not_told() {
    let looks = Arc::new(AtomicUsize::new(0));
    let side = |is_first: bool| {
        let looks = Arc::clone(&looks);
        FakeHttp::start(move |path| {
            if path == "/vnis.json" {
                return vnis_json(&[(7, if is_first { ONE } else { OTHER })]);
            }
            if path == "/summary.json" {
                return Reply::json("{}");
            }
            let look = if is_first {
                looks.fetch_add(1, Ordering::SeqCst)
            } else {
                looks.load(Ordering::SeqCst)
            };
            let hop = "2001:db8::1";
            let late = look >= 2;
            let mut routes = Vec::new();
            if is_first {
                routes.extend([("10.0.0.1/32", hop), ("10.0.0.2/32", hop)]);
                routes.extend(late.then_some(("10.0.0.3/32", hop)));
                routes.extend((!late).then_some(("10.0.0.4/32", hop)));
            } else {
                routes.extend(late.then_some(("10.0.0.2/32", hop)));
                routes.extend(late.then_some(("10.0.0.4/32", hop)));
            }
            full(&[(7, &routes)])
        })
    };
    let (a, b) = (side(true), side(false));
    let (code, out, _) = diff(&[&a.name(), &b.name(), "--for", "4s"]);
    assert!(looks.load(Ordering::SeqCst) >= 4, "too few looks");
    let expected = format!(
        "only at {}: VNI 7 10.0.0.1/32 via 2001:db8::1\n1 route differs all the time, 3 at the end\n",
        a.name()
    );
    assert_eq!((code, out), (1, expected));
}

#[test]
fn where_nothing_lasts_that_is_said() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let a = FakeHttp::start(move |path| match path {
        "/vnis.json" => vnis_json(&[(7, ONE)]),
        _ => {
            let number = counted.fetch_add(1, Ordering::SeqCst) % 200;
            let route = format!("10.0.0.{number}/32");
            full(&[(7, &[(&route, "2001:db8::1")])])
        }
    });
    let b = FakeHttp::start(|path| match path {
        "/vnis.json" => vnis_json(&[(7, OTHER)]),
        _ => full(&[]),
    });
    let (code, out, _) = diff(&[&a.name(), &b.name(), "--for", "1s"]);
    let expected =
        "they never agreed, but no route differed all the time: at the end 1 route differs\n";
    assert_eq!((code, &*out), (1, expected));
}

/// A reflector that restarts amid the wait is waited for; one that stays away is an error at the end.
#[test]
fn a_side_may_be_away_for_a_while() {
    for comes_back in [true, false] {
        let was_asked = AtomicBool::new(false);
        let failed = AtomicBool::new(false);
        let a = FakeHttp::start(move |path| {
            if path != "/vnis.json" {
                return full(&[(7, &[("10.0.0.1/32", "2001:db8::1")])]);
            }
            if !was_asked.swap(true, Ordering::SeqCst) {
                return vnis_json(&[(7, ONE)]);
            }
            if !failed.swap(true, Ordering::SeqCst) || !comes_back {
                return Reply::Raw(Vec::new());
            }
            vnis_json(&[(7, SAME)])
        });
        let b = FakeHttp::start(|path| match path {
            "/vnis.json" => vnis_json(&[(7, SAME)]),
            _ => full(&[]),
        });
        let patience = if comes_back { "10m" } else { "1s" };
        let (code, _, err) = diff(&[&a.name(), &b.name(), "--for", patience]);
        assert_eq!(code, if comes_back { 0 } else { 2 }, "{err}");
    }
}

#[test]
fn very_many_differences_are_counted() {
    let (a, b) = (Asked::start(), Asked::start());
    let announced: Vec<u8> = (0..1_234).flat_map(|number| add(&route(7, number, 1))).collect();
    let _peer = a.peer(&announced);
    a.wait_for_routes(1_234);
    for patience in [&[][..], &["--for", "300ms"]] {
        let diff = |more: &[&str]| diff(&[&[&*a.http, &b.http], patience, more].concat());
        let (code, out, _) = diff(&[]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((code, lines.len()), (1, 1_002));
        assert_eq!(lines[1_000], "and 234 more (--all tells of each)");
        assert!(lines[1_001].starts_with("1234 routes differ "), "{}", lines[1_001]);
        assert_eq!(diff(&["--all"]).1.lines().count(), 1_235);
        let told: Value = serde_json::from_str(&diff(&["--json"]).1).unwrap();
        assert_eq!(told["differences"].as_array().unwrap().len(), 1_000);
        assert_eq!((&told["left_out"], &told["differing_routes"]), (&234.into(), &1_234.into()));
        let lasting = if patience.is_empty() { None } else { Some(1_234) };
        assert_eq!(told.get("lasting_routes").and_then(Value::as_u64), lasting);
    }
    // Whoever reads may have enough.
    let mut child = command(&["diff", &a.http, &b.http, "--all"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(1), ""));
}

#[test]
fn hostile_answers_do_no_harm() {
    let ours = Asked::start();
    let harm = "\u{1b}[2J\u{7}\u{9b}\u{202e}\r\n";
    let text = serde_json::to_string(harm).unwrap();
    for body in [
        format!("{{\"vnet\": {{{text}: {{}}}}}}"),
        format!("{{\"vnet\": {{\"7\": {{{text}: [{text}]}}}}}}"),
        format!("{{\"vnet\": {text}}}"),
        format!("{{{text}: {text}}}"),
        format!(
            "{{\"vnet\": {{\"7\": {{\"10.0.0.0/8\": [{{\"TargetAddress\": {text}, \"Type\": {text}}}]}}}}}}"
        ),
        "[".repeat(100_000),
        "{\"vnet\":".repeat(100_000),
        format!("{{\"vnet\": {{\"7\": {{\"{{{}\": []}}}}}}", "[".repeat(1_000)),
        harm.to_owned(),
        format!("{{\"vnet\": {{\"7\": {{\"{}\": []}}}}}}", "x".repeat(5_000)),
        format!("{{\"vnet\": {{}}, \"x\": {}", "[".repeat(100_000)),
    ] {
        let fake = FakeHttp::start(move |_| Reply::json(body.clone()));
        let (code, ..) = diff(&[&ours.http, &format!("http://{}/routes.json", fake.name())]);
        assert!(code == 2 || code == 0, "{code}");
    } // Numbers and digests of VNIs that nobody can have.
    for rows in [
        "{\"vni\": 1, \"routes\": 18446744073709551615, \"digest\": \"0123456789abcdef\"},
         {\"vni\": 2, \"routes\": 18446744073709551615, \"digest\": \"0123456789abcdef\"}",
        "{\"vni\": 1, \"routes\": 18446744073709551615, \"digest\": \"0123456789abcdef\"},
         {\"vni\": 1, \"routes\": 1, \"digest\": \"ffffffffffffffff\"}",
    ] {
        let side = || FakeHttp::start(move |_| Reply::json(format!("{{\"vnis\": [{rows}]}}")));
        let (code, out, _) = diff(&[&side().name(), &side().name()]);
        assert!(code == 0 && out.starts_with("equal: "), "{out}");
        let is_two = rows.contains("\"vni\": 2");
        assert!(!is_two || out.starts_with("equal: 18446744073709551615 routes in 2"), "{out}");
        assert_eq!(diff(&[&ours.http, &side().name()]).0, 2, "its /routes.json is none");
    }
}

/// Digests of a client count its own routes too, which its table of received routes has not.
#[test]
fn a_client_is_compared_by_what_it_has_received() {
    let ours = Asked::start();
    let _peer = ours.peer(&add(&route(7, 1, 1)));
    let server = ours.address().to_string();
    let announce = "7#10.0.0.9/32#2001:db8::9";
    let client =
        Process::client(&["--server", &server, "--subscribe", "7", "--announce", announce]);
    let http = &*client.address().to_string();
    ours.wait_for_routes(2);
    let whole = format!("http://{http}/routes.json");
    let deadline = Instant::now() + common::PATIENCE;
    while !run(&["show", "routes", "--http", http]).out.contains("10.0.0.1/32") {
        assert!(Instant::now() < deadline, "{}", client.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let note = format!(
        "metalbond-uring diff: {http} is a client: it is compared by the routes that it has received\n"
    );
    let expected = "VNI 7 10.0.0.9/32 via 2001:db8::9\n1 route differs in 1 of 1 VNI\n".to_owned();
    let expected = format!("only at {}: {expected}", ours.http);
    assert_eq!(diff(&[&ours.http, http]), (1, expected.clone(), note));
    assert_eq!(diff(&[&ours.http, &whole]), (1, expected, String::new()));
    assert_eq!(diff(&[http, &whole, "--vni", "7"]).0, 0);
}

/// An answer without an end, for which nobody waits.
#[test]
fn who_does_not_come_to_an_end_is_told_of() {
    let ours = Asked::start();
    for path in ["/vnis.json", "/summary.json", "/routes.json"] {
        let fake = FakeHttp::start(move |asked| match asked.split('?').next().unwrap() {
            asked if asked == path => Reply::Trickle,
            "/vnis.json" => vnis_json(&[(7, ONE)]),
            "/summary.json" => Reply::json("{}"),
            _ => full(&[]),
        });
        let name = fake.name();
        let (code, out, err) = diff(&[&ours.http, &name, "--for", "1s", "--timeout", "2s"]);
        assert!(code == 2 && out.is_empty(), "{code} {out}");
        assert!(err.contains("the answer was not whole after"), "{err}");
    }
}

#[test]
fn one_side_by_two_names_is_refused() {
    let ours = Asked::start();
    let (_, port) = ours.http.rsplit_once(':').unwrap();
    for other in [format!("localhost:{port}"), format!("[0:0::1]:{port}"), format!(":{port}")] {
        let (code, out, err) = diff(&[&ours.http, &other]);
        assert!(code == 2 && out.is_empty() && err.contains("was given twice"), "{other}: {err}");
    }
}
