//! The client program and the kernel: routes are installed, a reflector's restart is not seen, and the end
//! leaves them or cleans up, as asked for.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[allow(dead_code)]
#[path = "common/netns.rs"]
mod netns;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::http::ask;
use common::openmetrics::Metrics;
use netns::{Monitor, TUNNEL, in_namespace, ip};

const PATIENCE: Duration = Duration::from_secs(30);

/// Our program in the namespace of this thread; killed when dropped.
struct Program(Child);

impl Program {
    fn start(args: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"));
        Program(command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn reflector() -> Program {
        Program::start(&["--listen", "[::1]:4711", "--cores", "1"])
    }

    fn client(args: &[&str]) -> Program {
        Program::start(&[&["client", "--server", "[::1]:4711"], args].concat())
    }

    /// Ends it as a service manager does.
    fn terminate(mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        eventually("the end", || self.0.try_wait().unwrap().is_some());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "waited in vain for {what}; {}", shown());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shown() -> String {
    // A table without routes does not exist.
    netns::try_ip("route show table 100").unwrap_or_default()
}

/// Free in a namespace of its own.
const HTTP: &str = "[::1]:4713";

const ANNOUNCED: &str =
    "7#10.0.1.0/24#2001:db8::1,7#10.0.2.0/24#2001:db8::1,7#2001:db8:9::/64#2001:db8::2";

#[test]
fn a_restart_of_the_reflector_is_not_seen_in_the_kernel() {
    in_namespace("a_restart_of_the_reflector_is_not_seen_in_the_kernel", || {
        ip("link set lo up");
        let reflector = Program::reflector();
        let announcer = Program::client(&["--announce", ANNOUNCED]);
        let installing =
            ["--subscribe=7", "--install-routes", "7#100", "--tun", TUNNEL, "--stale-time=60"];
        let installer = Program::client(&installing);
        let has_6 = || {
            netns::try_ip("-6 route show table 100").is_ok_and(|it| it.contains("2001:db8:9::/64"))
        };
        let installed =
            || shown().contains("10.0.1.0/24") && shown().contains("10.0.2.0/24") && has_6();
        eventually("the routes", installed);
        let line = shown();
        assert!(line.contains("encap ip6") && line.contains("dst 2001:db8::1"), "{line}");
        assert!(line.contains("proto 254") && line.contains(TUNNEL), "{line}");
        let monitor = Monitor::start();
        reflector.terminate();
        let reflector = Program::reflector();
        // Both come back within 10 s. What is announced then shows that they did.
        std::thread::sleep(Duration::from_secs(1));
        let late = Program::client(&["--announce", "7#10.0.3.0/24#2001:db8::3"]);
        eventually("a route of the new reflector", || shown().contains("10.0.3.0/24"));
        std::thread::sleep(Duration::from_secs(2));
        assert!(installed());
        for prefix in ["10.0.1.0/24", "10.0.2.0/24", "2001:db8:9::/64"] {
            assert_eq!(monitor.lines_about(prefix), Vec::<String>::new(), "nothing was touched");
        }
        // The end leaves the routes; the next run takes over those that are still wanted.
        late.terminate();
        eventually("a withdrawal", || !shown().contains("10.0.3.0/24"));
        installer.terminate();
        assert!(installed(), "they stay");
        let installer = Program::client(&[&installing[..], &["--cleanup"]].concat());
        std::thread::sleep(Duration::from_secs(2));
        assert!(installed());
        assert_eq!(monitor.lines_about("10.0.1.0/24"), Vec::<String>::new(), "taken over");
        installer.terminate();
        assert_eq!(shown(), "", "cleaned up");
        drop((announcer, reflector));
    });
}

/// As units and images call the Go program, through a link.
#[test]
fn called_metalbond_it_takes_the_go_programs_place() {
    in_namespace("called_metalbond_it_takes_the_go_programs_place", || {
        ip("link set lo up");
        let link = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("link-{}", std::process::id()))
            .join("metalbond");
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_metalbond-uring"), &link).unwrap();
        let start = |line: &str| {
            let mut command = Command::new(&link);
            command.args(line.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::null());
            Program(command.spawn().unwrap())
        };
        let server = start("server --listen [::1]:4711 --http [::1]:4712 --keepalive 3");
        let other = start("server --listen [::1]:4811 --http [::1]:4812 --keepalive 3 --verbose");
        let announcer = start(
            "client --server [::1]:4711 --server [::1]:4811 --keepalive 2 -v --http [::1]:4713 \
             --announce 23#10.0.1.0/24#2001:db8::1 --announce 23#10.0.2.0/24#2001:db8::2#NAT#1#32767 \
             --announce 23#10.0.3.0/24#2001:db8::3#lb,24#2001:db8:9::/64#2001:db8::4",
        );
        let installer = start(&format!(
            "client --server [::1]:4711,[::1]:4811 --subscribe 23,24 --subscribe 25 --ipv4-only --cleanup \
             --install-routes 23#100 --install-routes 24#0 --tun {TUNNEL} --http=[::1]:4714"
        ));
        let prefixes = ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"];
        let installed = || prefixes.iter().all(|prefix| shown().contains(prefix));
        eventually("the routes", installed);
        assert!(!ip("-6 route show table all").contains("2001:db8:9::"), "--ipv4-only");
        for address in ["[::1]:4712", "[::1]:4812", "[::1]:4714"] {
            eventually("the routes over HTTP", || {
                let Ok(mut stream) = std::net::TcpStream::connect(address) else { return false };
                std::io::Write::write_all(&mut stream, b"GET /routes.json HTTP/1.0\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
                prefixes.iter().all(|prefix| answer.contains(prefix))
            });
        }
        // One server less is not seen.
        server.terminate();
        std::thread::sleep(Duration::from_millis(500));
        assert!(installed());
        installer.terminate();
        assert_eq!(shown(), "", "cleaned up");
        drop((announcer, other));
        std::fs::remove_dir_all(link.parent().unwrap()).unwrap();
    });
}

#[test]
fn what_is_left_out_is_said() {
    in_namespace("what_is_left_out_is_said", || {
        ip("link set lo up");
        let reflector = Program::reflector();
        let route = |hop: u32| format!("7#10.0.1.1/32#2001:db8::{hop:x}");
        let many: Vec<String> = (1..=40).map(route).collect();
        let odd = ["::1", "fe80::1", "::ffff:192.0.2.1"].map(|hop| format!("7#10.0.2.0/24#{hop}"));
        let announced = [many, odd.to_vec()].concat().join(",");
        let announcer = Program::client(&["--announce", &announced]);
        let log = std::env::temp_dir().join(format!("metalbond-left-out-{}", std::process::id()));
        let installing =
            ["--subscribe=7", "--install-routes=7#100", "--tun", TUNNEL, "--http", HTTP];
        let said = |words: &str| std::fs::read_to_string(&log).unwrap().contains(words);
        for (flags, hops) in [(&[][..], 32), (&["--hops-max=38"], 38), (&["--hops-max=40"], 40)] {
            let args = [&["client", "--server", "[::1]:4711", "--cleanup"], &installing[..], flags];
            let mut command = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"));
            let stderr = std::fs::File::create(&log).unwrap();
            let client = command.args(args.concat()).stdin(Stdio::null()).stderr(stderr).spawn();
            let client = Program(client.unwrap());
            let wanted = format!("10.0.1.1/32 table 100: {hops} of 40 hops installed");
            if hops < 40 {
                eventually("the line about hops", || said(&wanted));
                eventually("the hops", || shown().matches("encap ip6").count() == hops);
            } else {
                // More than 38 are not shown by `ip route`, but `ip nexthop` has them.
                let count = || ip("nexthop show").matches("encap ip6").count();
                eventually("the hops", || count() == 40);
            }
            for odd in ["loopback", "link-local", "embeds an IPv4 address"] {
                eventually("the line about an odd hop", || said(odd));
            }
            assert!(!shown().contains("10.0.2.0"));
            let counted = || Metrics::read(&ask(HTTP.parse().unwrap(), "GET", "/metrics").1);
            eventually("all skips", || {
                let hops = ["loopback", "link_local", "embeds_ipv4"];
                hops.iter().all(|hop| {
                    let series = format!("metalbond_netlink_skipped_total{{reason=\"hop_{hop}\"}}");
                    counted().value(&series) == 1.0
                })
            });
            assert_eq!(counted().value("metalbond_netlink_routes"), 1.0);
            let added = counted().value("metalbond_netlink_operations_total{operation=\"add\"}");
            assert!(added >= 1.0);
            assert_eq!(
                counted().value("metalbond_netlink_hops_left_out"),
                f64::from(40 - hops as u32)
            );
            client.terminate();
            assert!(!said("left in the kernel"), "all is gone");
        }
        let _ = std::fs::remove_file(&log);
        drop((announcer, reflector));
    });
}

#[test]
fn what_is_wrong_with_the_device_is_said() {
    let args = ["client", "--server", "a:1", "--install-routes=7#100", "--tun", "no-such-device"];
    let output = Command::new(env!("CARGO_BIN_EXE_metalbond-uring")).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no-such-device") && text.contains("--tun"), "{text}");
}
