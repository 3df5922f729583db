//! What the command line takes, and what it says.

use super::*;

#[track_caller]
fn server(args: &[&str]) -> ServerOptions {
    match parse(args) {
        Ok(Invocation::Server(options)) => options,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn wrong(args: &[&str]) -> String {
    let exit = parse(args).expect_err("the command line is wrong");
    assert_eq!((exit.code, exit.stream), (2, Stream::Stderr), "{args:?}");
    assert!(exit.text.starts_with("metalbond-uring: "), "{}", exit.text);
    assert!(exit.text.ends_with("\nTry: metalbond-uring --help\n"), "{}", exit.text);
    exit.text
}

#[test]
fn defaults() {
    let options = server(&[]);
    assert_eq!(
        options,
        ServerOptions {
            server: ServerConfig {
                listen: vec!["[::]:4711".parse().unwrap()],
                segment_bytes_max: 1220,
                cores: 0,
                keepalive_interval_s: 5,
                reflect_own: ReflectOwn::None,
                pace: Pace::Auto,
                peers_max: 65_536,
                peers_per_address_max: 16_384,
                handshakes_max: 32_768,
                limits: Limits {
                    routes_per_peer_max: 100_000,
                    routes_per_vni_max: 2_000_000,
                    routes_max: 10_000_000,
                    updates_per_s_max: 100_000,
                    vnis_per_peer_max: 16_384,
                    subscriptions_max: 2_000_000,
                    queue_bytes_max: 1 << 30,
                    queue_bytes_per_peer_max: 128 << 20,
                    ..Limits::default()
                },
                stale_time: std::time::Duration::ZERO,
                allow: vec![],
                tcp_md5: vec![],
                memory_max: MemoryMax::Auto,
                drain_time: Duration::ZERO,
                policy: PolicyConfig::default(),
                fabric: None,
            },
            handover: None,
            detach: false,
            http: None,
            metrics_per_peer: false,
            log_format: LogFormat::Text,
            verbose: false,
        }
    );
    assert_eq!(server(&["server"]), options);
    assert_eq!(server(&["server", "--"]), options);
}

#[test]
fn every_flag_in_both_spellings() {
    let values = [
        ("--listen", "127.0.0.1:0"),
        ("--mss", "1440"),
        ("--cores", "3"),
        ("--keepalive", "7"),
        ("--reflect-own", "lb"),
        ("--pace", "12"),
        ("--routes-per-peer-max", "4294967295"),
        ("--routes-per-vni-max", "4"),
        ("--routes-max", "4294967295"),
        ("--updates-per-s-max", "5"),
        ("--subscriptions-max", "6"),
        ("--queue-mib-per-peer-max", "7"),
        ("--stale-time", "86400"),
        ("--vnis-per-peer-max", "2"),
        ("--peers-max", "1048576"),
        ("--peers-per-address-max", "9"),
        ("--handshakes-max", "8"),
        ("--queue-mib-max", "4294967295"),
        ("--allow", "10.0.0.7/8,::ffff:192.0.2.0/120,2001:db8::1"),
        ("--memory-max", "16777216"),
        ("--drain-time", "3600"),
        ("--tcp-md5", "::/0=a=b,10.0.0.7/8=/k"),
        ("--nexthop-policy", "own-prefix/64"),
        ("--announce-policy", "/etc/policy"),
        ("--fabric", "tls://nats,[::1]:5/main"),
        ("--fabric-name", "rr_1"),
        ("--fabric-creds", "/creds"),
        ("--fabric-ca", "/ca"),
        ("--fabric-identity", "none"),
        ("--fabric-routes-max", "4294967295"),
        ("--fabric-replicas", "5"),
        ("--fabric-heartbeat", "60"),
        ("--fabric-lease", "600"),
        ("--fabric-stale-time", "1800"),
        ("--fabric-restart-time", "86400"),
        ("--fabric-hold-time", "604800"),
        ("--handover", "/run/h"),
        ("--handover-time", "60"),
        ("--http", ":4712"),
        ("--log-format", "logfmt"),
    ];
    let expected = every_flag();
    let mut apart: Vec<&str> = vec!["server", "--verbose", "--metrics-per-peer", "--detach"];
    apart.extend(values.iter().flat_map(|(flag, value)| [*flag, *value]));
    assert_eq!(server(&apart), expected);
    let joined: Vec<String> =
        values.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
    let mut joined: Vec<&str> = joined.iter().map(String::as_str).collect();
    joined.extend(["-v", "-v", "--metrics-per-peer", "--detach"]);
    assert_eq!(server(&joined), expected);
}

/// What the flags above mean.
fn every_flag() -> ServerOptions {
    ServerOptions {
        server: ServerConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            segment_bytes_max: 1440,
            cores: 3,
            keepalive_interval_s: 7,
            reflect_own: ReflectOwn::LoadBalancer,
            pace: Pace::RoutesPerS(12),
            peers_max: 1_048_576,
            peers_per_address_max: 9,
            handshakes_max: 8,
            limits: Limits {
                routes_per_peer_max: u32::MAX,
                routes_per_vni_max: 4,
                routes_max: 4_294_967_295,
                updates_per_s_max: 5,
                vnis_per_peer_max: 2,
                subscriptions_max: 6,
                queue_bytes_max: 4_294_967_295 * 1_048_576,
                queue_bytes_per_peer_max: 7 << 20,
                ..Limits::default()
            },
            stale_time: std::time::Duration::from_secs(86_400),
            // In their order, without host bits; IPv4 in IPv6 dress is IPv4.
            allow: ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::1/128"]
                .map(|net| net.parse().unwrap())
                .into(),
            memory_max: MemoryMax::Mib(1 << 24),
            drain_time: Duration::from_secs(3600),
            tcp_md5: [("10.0.0.0/8", "/k"), ("::/0", "a=b")]
                .map(|(net, file)| Md5Key::from_file(net.parse().unwrap(), file))
                .into(),
            policy: PolicyConfig {
                next_hops: NextHopPolicy::OwnPrefix(64),
                announce_file: Some("/etc/policy".into()),
            },
            fabric: Some(crate::io::FabricOptions {
                address: "tls://nats:4222,[::1]:5/main".parse().unwrap(),
                name: "rr_1".parse().unwrap(),
                credentials_file: Some("/creds".into()),
                ca_file: Some("/ca".into()),
                identity: Identity::Connection,
                routes_max: 4_294_967_295,
                replicas: 5,
                heartbeat: Duration::from_secs(60),
                lease: Duration::from_secs(600),
                stale_time: Duration::from_secs(1800),
                restart_time: Duration::from_secs(86_400),
                hold_time: Duration::from_secs(604_800),
            }),
        },
        handover: Some(HandoverOptions {
            path: "/run/h".into(),
            time_max: Duration::from_secs(60),
        }),
        detach: true,
        http: Some(HostPort { host: String::new(), port: 4712 }),
        metrics_per_peer: true,
        log_format: LogFormat::Logfmt,
        verbose: true,
    }
}

#[test]
fn a_place_to_hand_over() {
    let handover = |args: &[&str]| server(args).handover;
    let at = |seconds| {
        Some(HandoverOptions { path: "/run/h".into(), time_max: Duration::from_secs(seconds) })
    };
    assert_eq!(handover(&["--handover", "/run/h"]), at(5));
    assert_eq!(handover(&["--handover=/run/h", "--handover-time=60"]), at(60));
    assert_eq!(handover(&["--handover-time", "1"]), None);
    assert!(server(&["--detach", "--handover", "/run/h"]).detach);
    assert!(wrong(&["--detach"]).contains("--detach: with --handover only"));
}

#[test]
fn words() {
    assert_eq!(server(&["--reflect-own", "none"]).server.reflect_own, ReflectOwn::None);
    assert_eq!(server(&["--reflect-own", "all-but-nat"]).server.reflect_own, ReflectOwn::AllButNat);
    assert_eq!(server(&["--pace", "off"]).server.pace, Pace::Off);
    assert_eq!(server(&["--pace", "auto"]).server.pace, Pace::Auto);
    assert_eq!(server(&["--keepalive", "0"]).server.keepalive_interval_s, 0);
    assert_eq!(server(&["--keepalive", "86400"]).server.keepalive_interval_s, 86_400);
    assert_eq!(server(&["--memory-max", "auto"]).server.memory_max, MemoryMax::Auto);
    assert_eq!(server(&["--cores", "1024"]).server.cores, 1024);
}

#[test]
fn addresses() {
    let listen = |value: &str| server(&["--listen", value]).server.listen;
    let parsed = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
    assert_eq!(listen("[::]:4711"), parsed("[::]:4711"));
    assert_eq!(listen(":4711"), parsed("[::]:4711"));
    assert_eq!(listen("0.0.0.0:1"), parsed("0.0.0.0:1"));
    assert_eq!(listen("[2001:db8::1]:65535"), parsed("[2001:db8::1]:65535"));
    let zoned = listen("[fe80::1%lo]:4711");
    assert!(matches!(&zoned[..], [SocketAddr::V6(one)] if one.scope_id() > 0), "{zoned:?}");
    let named = listen("localhost:4711");
    assert!(!named.is_empty());
    assert!(named.iter().all(|address| address.ip().is_loopback() && address.port() == 4711));
}

#[test]
fn wrong_values_name_the_flag_the_value_and_what_it_takes() {
    for (flag, value, takes) in [
        ("--listen", "4711", "host is missing"),
        ("--listen", "localhost", "port is missing"),
        ("--listen", "[::1]", "port is missing"),
        ("--listen", "::1:4711", "brackets"),
        ("--listen", "[fe80::1]:4711", "needs its device"),
        ("--listen", "[::]:65536", "is no port"),
        ("--listen", "[::]:", "is no port"),
        ("--listen", "[::]:http", "is no port"),
        ("--listen", "no such name:4711", "[::]:4711"),
        ("--listen", "", "[::]:4711"),
        ("--listen", "http://[::1]:4711", "without"),
        ("--http", "4712", "host is missing"),
        ("--http", "[::1]", "port is missing"),
        ("--http", "::1:4712", "brackets"),
        ("--log-format", "xml", "text, json or logfmt"),
        ("--cores", "0", "1 to 1024"),
        ("--cores", "1025", "1 to 1024"),
        ("--cores", "-1", "1 to 1024"),
        ("--cores", "many", "1 to 1024"),
        ("--cores", "99999999999999999999", "1 to 1024"),
        ("--keepalive", "86401", "0 to 86400"),
        ("--keepalive", "5s", "0 to 86400"),
        ("--keepalive", "4294967296", "0 to 86400"),
        ("--reflect-own", "all", "none, lb or all-but-nat"),
        ("--reflect-own", "LB", "none, lb or all-but-nat"),
        ("--pace", "0", "auto, off, or"),
        ("--pace", "fast", "auto, off, or"),
        ("--routes-per-peer-max", "0", "1 to 4294967295"),
        ("--routes-per-peer-max", "4294967296", "1 to 4294967295"),
        ("--vnis-per-peer-max", "0", "1 to 4294967295"),
        ("--routes-per-vni-max", "0", "1 to 4294967295"),
        ("--routes-max", "-1", "1 to 4294967295"),
        ("--updates-per-s-max", "0", "1 to 4294967295"),
        ("--subscriptions-max", "4294967296", "1 to 4294967295"),
        ("--queue-mib-per-peer-max", "0", "1 to 4294967295"),
        ("--stale-time", "86401", "0 to 86400"),
        ("--stale-time", "5m", "0 to 86400"),
        ("--peers-max", "0", "1 to 1048576"),
        ("--peers-max", "1048577", "1 to 1048576"),
        ("--peers-per-address-max", "0", "1 to 1048576"),
        ("--peers-per-address-max", "1048577", "1 to 1048576"),
        ("--handshakes-max", "0", "1 to 1048576"),
        ("--handshakes-max", "-1", "1 to 1048576"),
        ("--memory-max", "31", "32 to 16777216, or auto"),
        ("--memory-max", "16777217", "32 to 16777216, or auto"),
        ("--memory-max", "Auto", "32 to 16777216, or auto"),
        ("--memory-max", "512M", "32 to 16777216, or auto"),
        ("--drain-time", "3601", "0 to 3600"),
        ("--drain-time", "30s", "0 to 3600"),
        ("--handover-time", "0", "1 to 60"),
        ("--handover-time", "61", "1 to 60"),
        ("--queue-mib-max", "0", "1 to 4294967295"),
        ("--queue-mib-max", "1.5", "1 to 4294967295"),
    ] {
        for text in [wrong(&[flag, value]), wrong(&[&format!("{flag}={value}")])] {
            assert!(text.contains(&format!("option '{flag}'")), "{flag} {value}: {text}");
            assert!(text.contains(&format!("value '{value}'")), "{flag} {value}: {text}");
            assert!(text.contains(takes), "{flag} {value}: {text}");
            let example = format!("for example: metalbond-uring {flag} ");
            assert!(text.contains(&example), "{flag} {value}: {text}");
        }
    }
}

#[test]
fn examples_and_missing_or_doubled_values() {
    let is_no_list = |Takes(flag, ..): &&Takes| !GRAMMAR.lists.contains(flag);
    for Takes(flag, takes, example) in VALUES.iter().filter(is_no_list) {
        match flag.starts_with("--fabric-") {
            // They say more about one.
            true => server(&["--fabric", "nats://a/F", flag, example]),
            false => server(&[flag, example]),
        };
        let text = wrong(&["server", flag]);
        assert!(text.contains(&format!("'{flag}'")) && text.contains(takes), "{text}");
        let text = wrong(&[flag, example, flag, example]);
        assert!(text.contains(&format!("'{flag}'")) && text.contains("duplicate"), "{text}");
        // The next flag is not taken for a value.
        let text = wrong(&[flag, "--verbose"]);
        assert!(text.contains(&format!("'{flag}': --verbose follows")), "{text}");
        assert!(text.contains(takes), "{text}");
    }
}

#[test]
fn who_is_allowed_is_a_list() {
    let allow = |args: &[&str]| server(args).server.allow.len();
    assert_eq!(allow(&["--allow", "10.0.0.0/8,192.0.2.1", "--allow=::1"]), 3);
    for (value, why) in [
        ("10.0.0.0/33", "no address and no network"),
        ("example.org", "no address and no network"),
        ("10.0.0.0/8,10.0.0.1/8", "given twice"),
        ("", "commas"),
        ("10.0.0.0/8,", "commas"),
    ] {
        let text = wrong(&["--allow", value]);
        assert!(text.contains("--allow") && text.contains(why), "{value}: {text}");
        assert!(text.contains("for example: metalbond-uring --allow 10.0.0.0/8,"), "{text}");
    }
}

#[test]
fn keys_are_files_of_networks() {
    for (value, why) in [
        ("10.0.0.0/8", "no = between"),
        ("10.0.0.0/8=", "no file behind"),
        ("=/etc/key", "no address and no network"),
        ("10.0.0.0/33=/etc/key", "no address and no network"),
        ("10.0.0.0/8=a,10.0.0.1/8=b", "10.0.0.0/8 has two key files"),
        ("10.0.0.0/8=a,::ffff:10.0.0.0/104=b", "10.0.0.0/8 has two key files"),
        ("10.0.0.0/8=a,10.0.0.0/8=a", "given twice"),
        ("10.0.0.0/8=a,", "commas"),
    ] {
        let text = wrong(&["--tcp-md5", value]);
        assert!(text.contains("--tcp-md5") && text.contains(why), "{value}: {text}");
        assert!(text.contains("for example: metalbond-uring --tcp-md5 10.0.0.0/8=/"), "{text}");
    }
}

#[test]
fn wrong_words() {
    assert!(wrong(&["--frob"]).contains("--frob"));
    assert!(wrong(&["--frob=3"]).contains("Unrecognized argument: --frob\n"));
    assert!(wrong(&["--=3"]).contains("Unrecognized argument"));
    assert!(wrong(&["-x"]).contains("-x\nTry"), "no short flag is like another");
    assert!(wrong(&["-"]).contains("\"-\""));
    assert!(wrong(&[""]).contains("\"\""));
    assert!(wrong(&["server", "server"]).contains("\"server\""));
    assert!(wrong(&["-v", "client"]).contains("command comes first"));
    assert!(wrong(&["--", "--cores"]).contains("\"--cores\" after `--`"));
    assert!(wrong(&["--verbose=maybe"]).contains("--verbose takes no value but true or false"));
    assert!(wrong(&["--server", "[::1]:1"]).contains("a flag of `metalbond-uring client`"));
}

#[test]
fn mistyped_words_and_what_is_meant() {
    for (word, meant) in [
        ("sever", "server"),
        ("serve", "server"),
        ("cleint", "client"),
        ("Client", "client"),
        ("clients", "client"),
        ("hlep", "help"),
        ("version", "--version"),
        ("listen", "--listen"),
        ("--lsten", "--listen"),
        ("-listen", "--listen"),
        ("--Listen=[::1]:4711", "--listen"),
        ("--core", "--cores"),
        ("--peers", "--peers-max"),
        ("--handshakes", "--handshakes-max"),
        ("--keep-alive=5", "--keepalive"),
        ("--keep_alive", "--keepalive"),
        ("--routes_per_peer_max", "--routes-per-peer-max"),
        ("--vebrose", "--verbose"),
    ] {
        let text = wrong(&[word, "5"]);
        assert!(text.contains(&format!("\nDid you mean {meant}?\n")), "{word}: {text}");
    }
    for word in ["--frob", "frob", "--f", "xyz", "--127.0.0.1", "-"] {
        assert!(!wrong(&[word]).contains("Did you mean"), "{word}");
    }
    assert!(wrong(&["help", "cleint"]).contains("Did you mean client?"));
    assert!(wrong(&["server", "lsten"]).contains("Did you mean --listen?"));
}

#[test]
fn switches_of_the_go_program_may_have_true_or_false_behind() {
    assert!(server(&["--verbose=true"]).verbose && server(&["-v=1"]).verbose);
    assert!(!server(&["--verbose=false"]).verbose && !server(&["--verbose=no"]).verbose);
}

/// Every way to ask for a text, and the text of the command itself.
#[track_caller]
fn said(args: &[&str]) -> String {
    let exit = parse(args).expect_err("it only prints");
    assert_eq!((exit.code, exit.stream), (0, Stream::Stdout), "{args:?}");
    exit.text
}

#[test]
fn help_and_version() {
    let of_server = said(&["--help"]);
    for args in [
        &["-h"][..],
        &["help"],
        &["help", "server"],
        &["help", "help"],
        &["server", "--help"],
        &["server", "-h"],
        &["--cores", "2", "--help"],
    ] {
        assert_eq!(said(args), of_server, "{args:?}");
    }
    assert!(of_server.contains("\n  client            connect to servers"), "{of_server}");
    let of_completions = said(&["help", "completions"]);
    assert!(of_completions.starts_with("Usage: metalbond-uring completions <bash"));
    assert_eq!(said(&["help", "man"]), of_completions);
    let of_client = said(&["client", "--help"]);
    for args in [&["client", "-h"][..], &["help", "client"], &["client", "-v", "--help"]] {
        assert_eq!(said(args), of_client, "{args:?}");
    }
    for (text, grammar) in [(&of_server, &GRAMMAR), (&of_client, &client::GRAMMAR)] {
        for flag in grammar.flags() {
            assert!(text.contains(&format!(" {flag}")), "{flag}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    let version = format!("metalbond-uring {VERSION}\n");
    for command in [&[][..], &["server"], &["client"]] {
        for flag in ["-V", "--version"] {
            assert_eq!(said(&[command, &[flag]].concat()), version);
        }
    }
}

#[test]
fn the_readme_has_each_flag_and_says_the_same_of_v() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, of_client) = readme.split_once("\n## Be a client\n").unwrap();
    for (text, grammar) in [(readme.as_str(), &GRAMMAR), (of_client, &client::GRAMMAR)] {
        // Up to the end of the first table.
        let rows = text.lines().skip_while(|line| !line.starts_with("| flag "));
        let table: String = rows.take_while(|line| line.starts_with('|')).collect();
        for flag in grammar.flags() {
            let asks = ["--help", "-h", "--version", "-V", "--verbose"].contains(&flag);
            assert!(asks || table.contains(&format!("`{flag}")), "{flag}: {table}");
        }
    }
    let verbose = "log more: what happens to single peers, routes and messages";
    for text in [&said(&["--help"]), &said(&["client", "--help"]), &readme] {
        assert!(text.contains(verbose), "{text}");
    }
}
