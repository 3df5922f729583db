//! The program `loadgen`: its scenarios against a reflector, what it finds when an update is damaged, and
//! what it says of servers that are none.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use metalbond_uring::internals::io::{Server, ServerConfig};
use metalbond_uring::internals::wire::{Deframer, Hello, KEEPALIVE_FRAME, Message, decode};

#[path = "common/load.rs"]
mod load;

use load::{BINARY, Run, run};

/// A run that must find everything right, and tells what the server cost.
#[track_caller]
fn right(arguments: &str) -> Run {
    let run = load::right(arguments);
    for stage in run.stages() {
        assert!(stage["server_cpu_s"].is_number(), "{stage}");
    }
    run
}

/// The process of the reflector that a run had started.
fn reflector_of(run: &Run) -> u32 {
    let (_, rest) =
        run.all().split_once("(process ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    rest.split(')').next().unwrap().parse().unwrap()
}

fn server() -> Server {
    Server::start(ServerConfig {
        listen: vec!["[::1]:0".parse().unwrap()],
        cores: 2,
        peers_max: 1000,
        ..ServerConfig::default()
    })
    .unwrap()
}

#[test]
fn mix() {
    let run = right("--peers 50 --duration-s 1 --rate 200");
    assert!(run.stderr.contains("loading a reflector of its own at [::1]:"), "{}", run.stderr);
    assert!(run.stderr.contains("--target \"[::1]:4711\" aims at a running one"), "{}", run.stderr);
    let updates = run.stage("updates");
    assert_eq!(updates["updates_sent"], 200);
    assert_eq!(updates["latency_samples"], updates["deliveries"]);
    let latency = &updates["latency"];
    assert!(latency["p50_ms"].as_f64().unwrap() > 0.0);
    assert!(latency["p50_ms"].as_f64() <= latency["p999_ms"].as_f64());
    assert_eq!(run.stage("vanish")["peers"], 45);
    assert_eq!(run.stage("return")["peers"], 50);
    // 2 VNIs, all 50 in both, 5 routes of each in each, to 49 others.
    assert_eq!(run.stage("announce")["deliveries"], 2 * 50 * 5 * 49);
    let reflector = reflector_of(&run);
    assert!(!std::path::Path::new(&format!("/proc/{reflector}")).exists(), "left behind");
}

/// Each kind has to be felt by somebody: what hostile peers could not do would harm nobody.
#[test]
fn fairness() {
    for (kind, least_per_s) in
        [("flood", 1_000.0), ("resubscribe", 50.0), ("subscriptions", 1_000.0), ("garbage", 50.0)]
    {
        let sizes = "--rounds 1 --duration-s 1 --announcers 2 --subscribers 3 --rate 100";
        let run = right(&format!("--scenario fairness --hostile {kind} {sizes}"));
        for stage in ["alone 1", "apart 1", "beside 1"] {
            let stage = run.stage(stage);
            assert_eq!(stage["deliveries"], 300, "{stage}");
            assert!(stage["latency"]["p99_ms"].as_f64().unwrap() > 0.0, "{stage}");
        }
        assert!(run.stage("alone 1")["hostile_per_s"].is_null());
        for stage in ["apart 1", "beside 1"] {
            let per_s = run.stage(stage)["hostile_per_s"].as_f64().unwrap();
            assert!(per_s >= least_per_s, "{kind} {stage}: {per_s} a second");
        }
        assert!(run.stderr.contains(&format!("{kind}: p99 ")), "{}", run.stderr);
        assert!(run.stderr.contains(" at another server on the same CPU: p99 "), "{}", run.stderr);
    }
    let server = server();
    let target = format!("--target {}", server.local_addr());
    let run = run(&format!("--scenario fairness --rounds 1 --duration-s 1 --json {target}"));
    assert_eq!(run.code, Some(0), "{}", run.all());
    assert_eq!(run.stage("beside 1")["ok"], true);
    assert!(!run.stages().iter().any(|stage| stage["stage"] == "apart 1"), "{}", run.all());
}

#[test]
fn upgrade() {
    let arguments =
        "--scenario upgrade --peers 40 --rate 400 --duration-s 1.5 --rounds 2 --cores 1";
    let run = right(arguments);
    assert!(run.stage("steady")["longest_pause_ms"].as_f64().unwrap() > 0.0);
    assert!(run.stage("steady")["upgrade"].is_null());
    for (stage, cores) in [("upgrade 1", 2), ("upgrade 2", 1)] {
        let stage = run.stage(stage);
        assert_eq!(stage["peers"], 40, "{stage}");
        assert!(stage["deliveries"].as_u64() > Some(0), "{stage}");
        assert_eq!(stage["resets"], 0, "{stage}");
        assert!(stage["longest_pause_ms"].as_f64().unwrap() > 0.0, "{stage}");
        let upgrade = &stage["upgrade"];
        assert_eq!(upgrade["cores"], cores, "{stage}");
        assert!(upgrade["told_pause_ms"].as_f64().unwrap() > 0.0, "{stage}");
        let bytes = |field: &str| upgrade[field].as_u64().unwrap();
        let (old, new) = (bytes("old_rss_bytes_peak"), bytes("new_rss_bytes_peak"));
        let together = stage["server_rss_bytes_peak"].as_u64().unwrap();
        assert!(old.max(new) < together && together <= old + new, "{stage}");
    }
    // Legacy peers, too; and people are told.
    let run = load::run("--scenario upgrade --peers 20 --duration-s 1.5 --rounds 1 --legacy");
    assert_eq!(run.code, Some(0), "{}", run.all());
    assert!(run.stdout.contains("upgrade 1: to "), "{}", run.all());
    assert!(run.stdout.contains("peers heard nothing for at most "), "{}", run.all());
    assert!(!run.stdout.contains(" ? "), "{}", run.all());
}

/// A reflector that does not take over is no upgrade, though no peer notices.
#[test]
fn an_upgrade_that_fails_is_the_reason() {
    let loadgen = Command::new(BINARY)
        .args("--scenario upgrade --peers 20 --duration-s 1 --rounds 1 --json".split(' '))
        .env("METALBOND_HANDOVER_TEST", "crash-after-items=1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = std::env::temp_dir().join(format!("loadgen-{}", loadgen.id()));
    let run = Run::of(loadgen.wait_with_output().unwrap());
    run.failed_with("the new reflector: the reflector ended (");
    assert_eq!(run.stage("upgrade 1")["connections_lost"], 0);
    assert!(!folder.exists(), "left behind");
}

#[test]
fn fanout() {
    let run = right("--scenario fanout --subscribers 50 --routes 500 --announcers 2");
    assert_eq!(run.stage("announce")["deliveries"], 50_000);
    assert_eq!(run.stage("withdraw")["deliveries"], 50_000);
    let run = right("--scenario fanout --subscribers 5 --routes 100 --rate 400");
    assert!(run.stage("announce")["wall_s"].as_f64().unwrap() > 0.2);
}

#[test]
fn mesh() {
    let run = right("--scenario=mesh --peers=50 --vnis=10");
    assert_eq!(run.stage("announce")["deliveries"], 50 * 4 * 10 * 19);
    assert!(run.stage("vanish")["deliveries"].as_u64() > Some(0));
}

#[test]
fn join() {
    let run = right("--scenario join --joiners 10 --routes 3000 --cores 1 --threads 1");
    assert_eq!(run.stage("join")["deliveries"], 30_000);
}

#[test]
fn herd() {
    let run = right("--scenario herd --peers 50 --vnis 5");
    assert_eq!(run.stage("restart")["peers"], 0);
    assert_eq!(run.stage("herd")["peers"], 50);
}

#[test]
fn latency() {
    let run = right("--scenario latency --announcers 2 --subscribers 20 --rate 300 --duration-s 1");
    assert_eq!(run.stage("updates")["latency_samples"], 6000);
    assert!(run.stage("updates")["generator_lag_ms"]["p99_ms"].is_number());
}

#[test]
fn churn() {
    let arguments = "--scenario churn --announcers 4 --subscribers 10 --routes 50 --rounds 3";
    let run = right(arguments);
    assert_eq!(run.stage("churn")["deliveries"], 4 * 50 * 10 * 2 * 3);
    assert_eq!(run.stage("vanish")["peers"], 12);
}

#[test]
fn slow() {
    let arguments = "--scenario slow --announcers 2 --subscribers 5 --rate 1000 --duration-s 0.5";
    // Twice the hold time of a server that would take not reading for being dead.
    let run = right(&format!("{arguments} --stall-s 5 --keepalive 1"));
    let stage = run.stage("one stalls");
    // The one that stalls is not measured.
    assert_eq!(stage["latency_samples"], 4 * 5000);
}

#[test]
fn a_table_is_replaced_and_lost() {
    for reading in ["", "--aligned --pace off", "--aligned --pace 20000"] {
        let sizes = "--announcers 3 --routes 3000 --subscribers 40";
        let run = right(&format!("--scenario loss {sizes} {reading}"));
        assert_eq!(run.stage("join")["deliveries"], 40 * 9_000);
        assert_eq!(run.stage("lose")["peers"], 40);
    }
}

#[test]
fn idle_peers_keep_their_connections() {
    let run = right("--scenario idle --peers 50 --duration-s 4 --keepalive 1");
    assert!(run.stage("connect")["server_rss_bytes_per_new_peer"].is_number());
    assert_eq!(run.stage("all answer")["peers"], 50);
}

#[test]
fn legacy_peers_survive_a_paced_reflector() {
    let run = right("--scenario join --joiners 5 --routes 4000 --legacy --process-us 10");
    assert_eq!(run.stage("join")["unaligned_reads"], 0);
    // 20,000 routes at once are more than the Go client's buffer holds.
    let arguments = "--scenario join --joiners 2 --routes 20000 --legacy --pace off";
    let run = run_until_failure(arguments);
    run.failed_with("unaligned reads");
    run.failed_with("legacy peers");
    // The bound on unread bytes apart, every read is whole frames.
    let run = right("--scenario join --joiners 2 --routes 20000 --aligned --pace off");
    assert_eq!(run.stage("join")["unaligned_reads"], 0);
}

#[test]
fn legacy_receivers_that_take_their_time_are_told_of() {
    let sizes = "--scenario join --joiners 3 --routes 3000 --legacy";
    let run = right(&format!("{sizes} --reader-cost-us 200 --reader-stall 50ms/1000"));
    let join = run.stage("join");
    // 200 us for each, 150 ms of stalls; up to 65,535 bytes are read ahead.
    assert!(join["wall_s"].as_f64().unwrap() > 0.2, "{join}");
    let share = join["receiver_share_min"].as_f64().unwrap();
    assert!(share > 0.05 && share <= 1.0, "{join}");
    assert!(join["receiver_share_median"].as_f64().unwrap() >= share, "{join}");
    for count in ["overruns", "hold_expiries", "resets"] {
        assert_eq!(join[count], 0, "{join}");
    }
    assert!(run.stage("settle")["receiver_share_min"].is_null());
}

/// A way to a server that is cut, once: connection `number` when more than `bytes` have passed in either
/// direction.
fn cut_way(server: SocketAddr, number: usize, bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    let carry = move |mut from: TcpStream, mut to: TcpStream, limit: usize| {
        let (mut passed, mut buffer) = (0, vec![0; 65_536]);
        while let Ok(length) = from.read(&mut buffer)
            && length > 0
            && passed <= limit
            && to.write_all(&buffer[..length]).is_ok()
        {
            passed += length;
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    };
    let accept = move || {
        for (at, near) in listener.incoming().enumerate() {
            let (near, far) = (near.unwrap(), TcpStream::connect(server).unwrap());
            far.set_nodelay(true).unwrap();
            near.set_nodelay(true).unwrap();
            let limit = if at == number { bytes } else { usize::MAX };
            let (back, forth) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::Builder::new().spawn(move || carry(near, far, limit)).unwrap();
            std::thread::Builder::new().spawn(move || carry(back, forth, limit)).unwrap();
        }
    };
    std::thread::Builder::new().spawn(accept).unwrap();
    address
}

#[test]
fn legacy_peers_come_back_with_all_they_had() {
    let server = server();
    // Connection 0 looks for the server; then come the announcer and a subscriber.
    for (connection, bytes) in [(1, 800), (2, 800), (3, 800)] {
        let target = cut_way(server.local_addr(), connection, bytes);
        let sizes = "--scenario fanout --announcers 1 --subscribers 2 --routes 60 --threads 1";
        let run = run(&format!("{sizes} --legacy --json --target {target}"));
        assert_eq!(run.code, Some(1), "{}", run.all());
        assert!(!run.all().contains("FAILED: "), "{}", run.all());
        assert!(run.all().contains("; it comes back"), "{}", run.all());
        let stages = run.stages();
        let resets: u64 = stages.iter().map(|stage| stage["resets"].as_u64().unwrap()).sum();
        assert_eq!(resets, 1, "{}", run.all());
        // All that the scenario has was run, and every view was right after each stage.
        assert_eq!(stages.last().unwrap()["stage"], "settle", "{}", run.all());
        assert_eq!(stages.last().unwrap()["ok"], true, "{}", run.all());
        assert_eq!(stages.last().unwrap()["peers"], 3, "{}", run.all());
    }
}

#[test]
fn only_keepalives_restart_a_legacy_hold_timer() {
    // It answers the first KEEPALIVEs (of whoever looks for it, of the handshake, of a stage's end), and later
    // ones with an update that is none.
    static KEEPALIVES: AtomicU32 = AtomicU32::new(0);
    let target = strange_server(|message, stream| match message {
        Message::Keepalive if KEEPALIVES.fetch_add(1, Ordering::Relaxed) > 3 => {
            stream.write_all(&[1, 0, 0, 5]).is_ok()
        }
        _ => handshake(message, stream),
    });
    let arguments =
        "--scenario idle --peers 1 --keepalive 1 --duration-s 4 --legacy --patience-s 1";
    let run = run(&format!("{arguments} --target {target}"));
    run.failed_with("1 hold times that ran out");
    // 2.5 s, or as much later as it was noticed.
    let told =
        |after_s| format!("no KEEPALIVE for {after_s} s (its hold time ran out); it comes back");
    assert!((2..10).any(|after_s| run.all().contains(&told(after_s))), "{}", run.all());
}

/// The kernel decides how much lies ready at a read, so one run may be lucky.
fn run_until_failure(arguments: &str) -> Run {
    for _ in 0..5 {
        let run = run(&format!("{arguments} --process-us 20"));
        if run.code != Some(0) {
            return run;
        }
    }
    panic!("no run failed");
}

#[test]
fn a_server_that_somebody_else_started() {
    let server = server();
    let (target, pid) = (server.local_addr(), std::process::id());
    for scenario in ["fanout --inflight 50", "herd --peers 30 --vnis 3"] {
        let run = right(&format!("--scenario {scenario} --target {target} --server-pid {pid}"));
        assert!(
            run.stderr.starts_with(&format!("loading the server at {target}")),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn damage_is_found_and_named() {
    let base = "--scenario fanout --subscribers 5 --routes 100 --patience-s 3";
    let skipped = run(&format!("{base} --sabotage skip"));
    skipped.failed_with("WRONG: 1 missing\n");
    skipped.failed_with("peer 1 lacks 10.0.0.2/32 via 2001:db8::2 in VNI 15728640");
    let corrupt = run(&format!("{base} --sabotage corrupt"));
    corrupt.failed_with("WRONG: 1 missing, 1 wrong\n");
    corrupt.failed_with("next hop is 2001:db8::3 instead of 2001:db8::2");
    let doubled = run(&format!("{base} --sabotage duplicate"));
    doubled.failed_with("WRONG: 1 duplicate\n");
    doubled.failed_with("peer 1 got a duplicate ADD of 10.0.0.2/32");
    let json = run(&format!("{base} --sabotage duplicate --json"));
    assert_eq!(json.code, Some(1));
    assert_eq!(json.stage("announce")["ok"], false);
    assert_eq!(json.stage("announce")["duplicate"], 1);
    assert_eq!(run(base).code, Some(0));
}

#[test]
fn wrong_command_lines() {
    for (arguments, words) in [
        ("--frob", "--frob"),
        ("--peers 0", "at least 1"),
        ("--scenario everything", "mix, fanout"),
        ("--peers 4000000000", "too many"),
        ("--scenario fanout --peers 5", "means nothing"),
        ("--target nowhere", "an address and a port"),
    ] {
        let run = run(arguments);
        assert_eq!(run.code, Some(2), "{}", run.all());
        assert!(run.stderr.contains(words) && run.stdout.is_empty(), "{}", run.all());
    }
    let help = run("--help");
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("--scenario") && help.stdout.contains("fanout   --announcers"));
}

/// An address at which nobody listens, as long as the socket is kept: its port is nobody else's.
fn silent_address() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"[::1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn nobody_listens() {
    let (_kept, free) = silent_address();
    let run = run(&format!("--target {free} --peers 5"));
    run.failed_with(&format!("loadgen: nothing answers at {free}"));
    run.failed_with("without --target loadgen starts a reflector by itself");
}

#[test]
fn no_such_process() {
    run("--target [::1]:1 --server-pid 4194304").failed_with("cannot watch process 4194304");
}

#[test]
fn too_few_descriptors() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 200; exec \"$0\" --peers 500", BINARY])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run::of(output).failed_with("500 peers need 600 open descriptors, but 200 are allowed");
}

#[test]
fn a_report_is_written_or_refused_at_once() {
    let path = std::env::temp_dir().join(format!("loadgen-{}.html", std::process::id()));
    let arguments = "--scenario latency --subscribers 3 --rate 200 --duration-s 1";
    right(&format!("{arguments} --report {}", path.display()));
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains("Latency by percentile") && page.contains("<polyline"));
    for fact in ["date", "host", "version", "command", "sizes"] {
        assert!(page.contains(&format!("<dt>{fact}</dt>")), "{fact}: {page}");
    }
    assert!(page.contains("server memory: ") && page.contains("server us: "), "{page}");
    assert!(page.trim_end().ends_with("</html>"));
    // A run that fails before its first stage leaves no old page in place.
    let (_kept, free) = silent_address();
    run(&format!("--target {free} --report {}", path.display())).failed_with("nothing answers");
    let page = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(page.contains("FAILED: nothing answers") && !page.contains("<polyline"), "{page}");
    let refused = run(&format!("{arguments} --report /nowhere/report.html"));
    refused.failed_with("cannot write /nowhere");
    assert_eq!(refused.stdout, "", "before anything is run");
}

/// A server of its own kind: `answer` is called with each message, and false hangs up.
fn strange_server(answer: fn(&Message, &mut TcpStream) -> bool) -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    let spawn = |body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().spawn(body).unwrap();
    };
    spawn(Box::new(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::Builder::new()
                .spawn(move || {
                    let (mut deframer, mut buffer) = (Deframer::new(), [0; 4096]);
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        let mut bytes = &buffer[..length];
                        while let Ok(Some(frame)) = deframer.next(&mut bytes) {
                            if !answer(&decode(frame).unwrap(), &mut stream) {
                                return;
                            }
                        }
                    }
                })
                .unwrap();
        }
    }));
    address
}

/// Answers as a server does, but passes no routes on.
fn handshake(message: &Message, stream: &mut TcpStream) -> bool {
    let mut frame = Vec::new();
    match message {
        Message::Hello(hello) => {
            Message::Hello(Hello { is_server: true, ..*hello }).encode(&mut frame)
        }
        Message::Keepalive => frame.extend_from_slice(&KEEPALIVE_FRAME),
        _ => {}
    }
    stream.write_all(&frame).is_ok()
}

#[test]
fn a_server_that_speaks_something_else() {
    let target = strange_server(|_, stream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        true
    });
    let run = run(&format!("--target {target} --peers 5"));
    run.failed_with("does not speak MetalBond: protocol version 50, expected 1");
}

#[test]
fn a_server_that_hangs_up_in_the_middle() {
    let target = strange_server(|message, stream| {
        !matches!(message, Message::Update(_)) && handshake(message, stream)
    });
    let run = run(&format!("--scenario fanout --subscribers 3 --routes 50 --target {target}"));
    run.failed_with("1 connection was lost; first: peer 0: the server ");
}

#[test]
fn a_server_that_passes_nothing_on() {
    let target = strange_server(handshake);
    let arguments = "--scenario fanout --subscribers 3 --routes 50 --patience-s 1";
    let run = run(&format!("{arguments} --target {target}"));
    run.failed_with("3 peers have not what they should: 150 routes missing");
    run.failed_with(
        "peer 1 lacks 10.0.0.0/32 via 2001:db8:: in VNI 15728640 (announced by peer 0)",
    );
}

#[test]
fn a_server_that_stops_answering() {
    let target = strange_server(|message, stream| {
        // Silent from the first SUBSCRIBE on.
        !matches!(message, Message::Subscribe(_)) && handshake(message, stream) || {
            std::thread::sleep(Duration::from_secs(20));
            false
        }
    });
    let arguments = "--scenario latency --subscribers 3 --patience-s 1 --target";
    run(&format!("{arguments} {target}"))
        .failed_with("of waiting for 0 of 3 KEEPALIVEs to be answered; is the server stuck");
    // The hold time ends it where more patience is had.
    let run = run(&format!("--keepalive 1 {arguments} {target}").replace("--patience-s 1", ""));
    assert_eq!(run.code, Some(1), "{}", run.all());
    let told = |after_s| format!("the server was silent for {after_s} s");
    assert!((2..10).any(|after_s| run.all().contains(&told(after_s))), "{}", run.all());
}
