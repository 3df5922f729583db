//! Hostile and odd input, sent to the running binary. Each case of the corpus says what must happen to
//! the peer that sends it; everybody else must not notice.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::process::Process;
use common::*;
use serde_json::Value;

/// The server's own interval; the corpus offers 1, 5, 60 and the maximum.
const OWN_INTERVAL_S: u32 = 10;

/// What the case's UPDATEs are about.
const VNI: u32 = 100;

/// The bystanders' VNI.
const BYSTANDERS_VNI: u32 = 4_000_000;

/// Stands for the corpus's sleeps of a quarter of a second.
const SLEEP: Duration = Duration::from_millis(20);

/// The VNIs in which the observer sees what the case announces.
const OBSERVED: [u32; 3] = [VNI, 0, u32::MAX];

/// What must happen, read from the corpus' text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// Closed; what it had announced is withdrawn, and nothing else was taken.
    Close,
    /// That message has no effect; the connection and the rest go on.
    Drop,
    /// Every frame in `hex` does what it does when sent alone and whole.
    Processed,
    /// HELLO is answered with this interval.
    Negotiate(u32),
    /// HELLO counts as one of a server: no routes from another server, but those of clients.
    RecordIsServer,
    /// The subscription to the first VNI works, and there is none to the second.
    Subscribed(u32, Option<u32>),
    /// The observer sees exactly the corpus' list of UPDATEs, each of them once.
    Reflect,
    /// That, or closed and nothing seen.
    ReflectOrClose,
    /// A dump comes again after unsubscribing and subscribing.
    FreshDump,
    /// Announcements stay after unsubscribing; updates end.
    UnsubscribeKeepsRoutes,
    /// All of a flood is answered.
    Flood,
}

fn expected(case: &Value) -> Expected {
    let ours = case["ours"].as_str().unwrap();
    let name = case["name"].as_str().unwrap();
    if ours.starts_with("close the connection") {
        return Expected::Close;
    }
    if ours.starts_with("drop this message only") {
        return Expected::Drop;
    }
    match ours {
        "buffer until the frame is complete, then process it normally"
        | "process both in order"
        | "accept, ignore the payload"
        | "accept in order (HELLO, then KEEPALIVE)" => Expected::Processed,
        "accept, negotiate 1 s" => Expected::Negotiate(1),
        "accept, negotiate own (smaller) interval" => Expected::Negotiate(OWN_INTERVAL_S),
        "accept as 5 (protobuf rule for uint32)" => Expected::Negotiate(5),
        "accept, record isServer" => Expected::RecordIsServer,
        "accept (full uint32 on the wire)" => Expected::Subscribed(u32::MAX, None),
        "accept as VNI 7" => Expected::Subscribed(7, None),
        "idempotent: ignore the second one" => Expected::Subscribed(4242, None),
        "last value wins: VNI 100" => Expected::Subscribed(100, Some(5)),
        // One text for several messages: what they are tells what to look at.
        "accept" => match Frame::all_of(&hex_of(case))[0].kind {
            HELLO => Expected::Negotiate(OWN_INTERVAL_S),
            SUBSCRIBE => Expected::Subscribed(1 << 24, None),
            UPDATE => Expected::Processed,
            kind => panic!("{name}: accept a message of type {kind}?"),
        },
        "accept; identity is the address bytes as received; mask only when installing in the kernel"
        | "accept; identity is the address bytes as received; mask only when installing"
        | "accept and reflect; installer must skip it (ip6 encap needs an IPv6 target)"
        | "accept and reflect (Go does); installer should skip it"
        | "accept and reflect"
        | "reflect transparently (proto3 open enum) or drop; never reinterpret as STANDARD"
        | "accept, normalise ports to 0 for non-NAT types"
        | "normalise: the second ADD is a duplicate, the REMOVE removes the route"
        | "ignore the duplicate; do not redistribute"
        | "accept: protobuf merges repeated occurrences of a sub-message field (10.3.0.0/16)"
        | "accept, ignore unknown fields" => Expected::Reflect,
        "ignore: only the announcer may withdraw" => Expected::Drop,
        "accept or close; an (empty) unknown group is legal protobuf" => Expected::ReflectOrClose,
        "process in order: peer ends up subscribed and gets a fresh dump" => Expected::FreshDump,
        "unsubscribe ends only the subscription; announcements stay" => {
            Expected::UnsubscribeKeepsRoutes
        }
        "process all frames; never close because of backlog (bounded by TCP flow control)" => {
            Expected::Flood
        }
        unknown => panic!("{name}: what is to be checked for {unknown:?}?"),
    }
}

#[test]
fn every_case_harms_only_who_sent_it() {
    let cases = common::corpus::file("bad-frames.json", "bad-streams.json");
    let cases = cases.as_array().unwrap();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for lane in 0..6 {
            let (next, failed) = (&next, &failed);
            scope.spawn(move || {
                let mut server = Process::serve(&[
                    "--keepalive",
                    &OWN_INTERVAL_S.to_string(),
                    "--cores",
                    ["1", "2", "3"][lane % 3],
                ]);
                let mut bystanders = Bystanders::start(&server);
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        run_case(case, &server);
                        bystanders.check();
                    }));
                    if outcome.is_err() {
                        failed.lock().unwrap().push(case["name"].to_string());
                        // A case that left something behind must not fail its successors.
                        server = Process::serve(&["--keepalive", &OWN_INTERVAL_S.to_string()]);
                        bystanders = Bystanders::start(&server);
                    }
                }
                assert!(server.is_running(), "{}", server.log());
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), cases.len());
    assert!(cases.len() >= 15);
}

/// Two peers with a life of their own on the same server.
struct Bystanders {
    announcer: Peer,
    subscriber: Peer,
    rounds: u32,
}

impl Bystanders {
    fn start(server: &Process) -> Bystanders {
        let announcer = Peer::established(server.address(), 60, false);
        let mut subscriber = Peer::established(server.address(), 60, true);
        subscriber.send(&subscribe(BYSTANDERS_VNI));
        subscriber.barrier();
        Bystanders { announcer, subscriber, rounds: 0 }
    }

    /// A route comes and goes between them, and nothing else did.
    fn check(&mut self) {
        self.rounds += 1;
        let route = route(BYSTANDERS_VNI, self.rounds, 1);
        self.announcer.send(&add(&route));
        self.subscriber.read_until("the bystanders' route", |peer| peer.view.contains(&route));
        self.announcer.send(&remove(&route));
        self.subscriber.read_until("its withdrawal", |peer| peer.view.is_empty());
        self.announcer.barrier();
        self.subscriber.barrier();
        assert_eq!(self.subscriber.updates, 2 * self.rounds as usize);
        assert_eq!(self.announcer.updates, 0);
    }
}

/// The stage of a case: who is there besides the one that sends it.
struct Stage<'a> {
    server: &'a Process,
    observer: Peer,
    other: Peer,
    /// What the other peer announced before.
    other_routes: BTreeSet<Vec<u8>>,
    offender: Peer,
    established: bool,
    /// What the offender announced before: it must stay, or go with the connection.
    marker: Vec<u8>,
}

impl<'a> Stage<'a> {
    fn set(case: &Value, server: &'a Process) -> Stage<'a> {
        let address = server.address();
        let mut observer = Peer::established(address, 60, false);
        for vni in OBSERVED {
            observer.send(&subscribe(vni));
        }
        observer.barrier();
        // A dump may repeat what came and went while its base was kept: ADD and REMOVE.
        observer.settle(QUIET);
        assert!(observer.view.is_empty(), "left by an earlier case: {:?}", observer.view);
        let mut stage = Stage {
            server,
            observer,
            other: Peer::established(address, 60, false),
            other_routes: BTreeSet::new(),
            offender: Peer::connect(address),
            established: case["stage"] == "established",
            marker: route(VNI, 99, 0x9999),
        };
        if let Some(announced) = case["other_peer_announced_before"].as_str() {
            stage.other_announces(hex::decode(announced).unwrap());
        }
        if stage.established {
            stage.offender.handshake(&hello(60, false, false));
            stage.offender.send(&add(&stage.marker));
            let expected = stage.present();
            stage.observer.read_until("the marker", |peer| peer.view == expected);
        } else {
            assert_eq!(case["stage"], "fresh");
        }
        if let Some(vni) = case["subscribed_before"].as_u64() {
            stage.offender.send(&subscribe(vni as u32));
            stage.offender.barrier();
        }
        stage.offender.settle(Duration::from_millis(5));
        stage.offender.frames.clear();
        stage.offender.keepalives = 0;
        stage.observer.frames.clear();
        stage
    }

    fn other_announces(&mut self, frame: Vec<u8>) {
        self.other.send(&frame);
        self.other_routes.insert(frame[4..].to_vec());
        let expected = self.other_routes.clone();
        self.observer.read_until("the other's route", |peer| peer.view.is_superset(&expected));
    }

    /// What is announced as long as the offender is there and its case has no effect.
    fn present(&self) -> BTreeSet<Vec<u8>> {
        let mut routes = self.other_routes.clone();
        if self.established {
            routes.insert(self.marker.clone());
        }
        routes
    }

    fn play(&mut self, case: &Value) {
        for segment in case["segments"].as_array().unwrap() {
            match segment["hex"].as_str() {
                Some(bytes) => self.offender.send(&hex::decode(bytes).unwrap()),
                None => std::thread::sleep(SLEEP),
            }
        }
    }

    /// The offender establishes, if it has not: for cases that end with an accepted HELLO.
    fn establish(&mut self) {
        if !self.established {
            self.offender.barrier();
        }
    }

    /// The observer sees a new route of the offender, and has seen nothing but `seen` before.
    fn later_update_works(&mut self, seen: &[Frame]) {
        let later = route(VNI, 98, 0x9998);
        self.offender.send(&add(&later));
        // VNIs have homes of their own: it may come before the others.
        self.observer.read_until("a later route", |peer| {
            peer.view.contains(&later) && peer.update_frames().len() > seen.len()
        });
        self.observer.settle(QUIET);
        let mut expected = seen.to_vec();
        expected.extend(Frame::all_of(&add(&later)));
        let mut came = self.observer.update_frames();
        // VNIs have homes of their own: no order between them.
        came.sort();
        expected.sort();
        assert_eq!(came, expected);
        assert_eq!(self.observer.redundant, 0);
        assert!(!self.offender.closed);
    }

    /// The offender gets the other's announcements in `vni`.
    fn gets_routes_of(&mut self, vni: u32) {
        let live = route(vni, 97, 0x9997);
        self.other.send(&add(&live));
        self.offender.read_until("a route of the subscription", |peer| peer.view.contains(&live));
        self.offender.settle(QUIET);
        assert_eq!(self.offender.redundant, 0);
    }

    /// All leave; what they announced is withdrawn from the observer.
    fn leave(mut self) {
        drop((self.offender, self.other));
        self.observer.read_until("all withdrawals", |peer| peer.view.is_empty());
        self.observer.barrier();
    }
}

fn run_case(case: &Value, server: &Process) {
    let expected = expected(case);
    let mut stage = Stage::set(case, server);
    match expected {
        Expected::Flood => check_flood(case, &mut stage),
        Expected::FreshDump => {
            let present = route(VNI, 96, 0x9996);
            stage.other_announces(add(&present));
            stage.play(case);
            stage.offender.read_until("two dumps", |peer| {
                peer.update_frames().iter().filter(|f| f.bytes() == add(&present)).count() == 2
            });
            stage.gets_live_only_once();
        }
        Expected::UnsubscribeKeepsRoutes => {
            stage.play(case);
            stage.offender.barrier();
            let seen =
                Frame::all_of(&hex::decode(case["segments"][0]["hex"].as_str().unwrap()).unwrap());
            stage.later_update_works(&seen);
            stage.offender.frames.clear();
            stage.other_announces(add(&route(VNI, 96, 0x9996)));
            stage.offender.settle(QUIET);
            assert_eq!(stage.offender.update_frames(), []);
        }
        _ => {
            stage.play(case);
            check(case, expected, &mut stage);
        }
    }
    stage.leave();
}

impl Stage<'_> {
    fn gets_live_only_once(&mut self) {
        let live = route(VNI, 97, 0x9997);
        self.other.send(&add(&live));
        self.offender.read_until("a live route", |peer| peer.view.contains(&live));
        self.offender.settle(QUIET);
        let frames = self.offender.update_frames();
        assert_eq!(frames.iter().filter(|f| f.bytes() == add(&live)).count(), 1);
    }
}

fn check(case: &Value, expected: Expected, stage: &mut Stage) {
    match expected {
        Expected::Close => check_close(case, stage),
        Expected::Drop => {
            stage.offender.barrier();
            assert_eq!(stage.offender.keepalives, 1);
            stage.later_update_works(&[]);
        }
        Expected::Processed => check_processed(case, stage),
        Expected::Negotiate(interval_s) => {
            assert_eq!(answer(stage).bytes(), hello(interval_s, true, false));
            stage.establish();
            stage.later_update_works(&[]);
        }
        Expected::RecordIsServer => {
            assert_eq!(answer(stage).bytes(), hello(OWN_INTERVAL_S, true, false));
            stage.establish();
            check_is_server(stage);
        }
        Expected::Subscribed(vni, not) => {
            stage.offender.barrier();
            stage.gets_routes_of(vni);
            if let Some(not) = not {
                stage.other.send(&add(&route(not, 95, 0x9995)));
                stage.other.barrier();
                stage.offender.settle(QUIET);
            }
            assert_eq!(stage.offender.view.iter().filter(|r| r[..] != stage.marker).count(), 1);
            stage.later_update_works(&observed(&route(vni, 97, 0x9997), vni));
        }
        Expected::Reflect => stage.later_update_works(&reflected(case)),
        Expected::ReflectOrClose => {
            stage.offender.settle(QUIET);
            if stage.offender.closed {
                check_close(case, stage);
            } else {
                stage.later_update_works(&reflected(case));
            }
        }
        special => unreachable!("{special:?}"),
    }
}

/// What the observer sees of a route that the other announced.
fn observed(route: &[u8], vni: u32) -> Vec<Frame> {
    if OBSERVED.contains(&vni) { Frame::all_of(&add(route)) } else { Vec::new() }
}

fn check_close(case: &Value, stage: &mut Stage) {
    stage.offender.read_until_closed();
    let expected = stage.other_routes.clone();
    stage.observer.read_until("the withdrawals", |peer| peer.view == expected);
    stage.observer.settle(QUIET);
    // Whole frames before the bad one have their effect; of these there is only the odd UPDATE.
    let seen: Vec<Frame> = stage.observer.update_frames();
    if stage.established {
        assert_eq!(seen, Frame::all_of(&remove(&stage.marker)), "{}", case["name"]);
    } else {
        assert_eq!(seen, []);
    }
    // Never a second HELLO, and nothing that needs an established connection.
    let answers: Vec<u8> = stage.offender.frames.iter().map(|frame| frame.kind).collect();
    let dump = stage.offender.update_frames();
    assert!(dump.is_empty(), "{dump:?}");
    let starts_well = hex_of(case).starts_with(&[1, 0, 2, 1, 8, 60]);
    let hello_allowed = !stage.established && starts_well;
    assert!(answers.is_empty() || (hello_allowed && answers == [HELLO]), "{answers:?}");
}

fn check_processed(case: &Value, stage: &mut Stage) {
    let frames = Frame::all_of(&hex_of(case));
    let count = |kind| frames.iter().filter(|frame| frame.kind == kind).count();
    let answers = count(HELLO) + count(KEEPALIVE);
    stage.offender.read_until("all answers", |peer| peer.frames.len() >= answers);
    let kinds: Vec<u8> = stage.offender.frames.iter().map(|frame| frame.kind).collect();
    let order: Vec<u8> =
        frames.iter().map(|frame| frame.kind).filter(|&kind| kind != UPDATE).collect();
    assert_eq!(kinds, order);
    stage.establish();
    let updates: Vec<_> = frames.into_iter().filter(|frame| frame.kind == UPDATE).collect();
    stage.later_update_works(&updates);
}

fn check_is_server(stage: &mut Stage) {
    stage.offender.send(&subscribe(VNI));
    stage.offender.barrier();
    let mut server = Peer::connect(stage.server.address());
    server.handshake(&hello(60, true, false));
    let of_server = route(VNI, 94, 0x9994);
    server.send(&add(&of_server));
    stage.observer.read_until("a server's route", |peer| peer.view.contains(&of_server));
    let of_client = route(VNI, 93, 0x9993);
    stage.other_announces(add(&of_client));
    stage.offender.read_until("a client's route", |peer| peer.view.contains(&of_client));
    stage.offender.settle(QUIET);
    assert_eq!(stage.offender.view, BTreeSet::from([of_client]));
}

fn check_flood(case: &Value, stage: &mut Stage) {
    let generator = case["generator"].as_str().unwrap();
    let (count, rest) = generator.split_once(" x 01000002").unwrap();
    let count: usize = count.parse().unwrap();
    let mut bytes = keepalive().repeat(count);
    let mut answers = count;
    if let Some(rest) = rest.strip_prefix(" + one KEEPALIVE with ") {
        let padding: usize = rest.split(' ').next().unwrap().parse().unwrap();
        bytes.extend(frame(KEEPALIVE, &vec![0; padding]));
        answers += 1;
    }
    stage.server.signal("STOP");
    let mut writer = stage.offender.writer();
    let flood = std::thread::Builder::new()
        .spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap())
        .unwrap();
    std::thread::sleep(SLEEP * 5);
    stage.server.signal("CONT");
    flood.join().unwrap();
    stage.offender.read_until("all answers", |peer| peer.keepalives >= answers);
    stage.offender.barrier();
    // One that does not reassemble gets others besides.
    assert!(stage.offender.keepalives > answers);
    stage.later_update_works(&[]);
}

fn answer(stage: &mut Stage) -> Frame {
    stage.offender.read_until("a HELLO", |peer| !peer.frames.is_empty());
    stage.offender.frames[0].clone()
}

/// The UPDATEs that the observer is to see, without repeated ones (the corpus lists what a server sends
/// that passes duplicates on).
fn reflected(case: &Value) -> Vec<Frame> {
    let list = case["reflected"].as_array();
    let list = list.or(case["go_redistributes_to_vni100_subscriber"].as_array()).unwrap();
    let mut frames = Vec::new();
    for text in list {
        let mut parsed = Frame::all_of(&hex::decode(text.as_str().unwrap()).unwrap());
        parsed.retain(|frame| !frames.contains(frame));
        frames.extend(parsed);
    }
    frames
}

fn hex_of(case: &Value) -> Vec<u8> {
    hex::decode(case["hex"].as_str().unwrap_or_default()).unwrap()
}
