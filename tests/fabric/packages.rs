//! The examples in `packaging/` as they stand.

use std::path::{Path, PathBuf};
use std::process::Command;

use async_nats::{ConnectOptions, Event};
use tokio::sync::mpsc::unbounded_channel;

use crate::common::PATIENCE;
use crate::common::nats::NatsServer;
use crate::fleet::{Reflector, World};

/// Key pairs of this test; nobody else may have them.
const KEYS: [(&str, &str, &str); 4] = [
    (
        "rr-1",
        "SUAK5KOGZAPXYFW2SHAPLNQR2HFFG2B27YVE7W6WNEXZ3ROQOQFC23ORIM",
        "UBINUGXUH7CIDX657KJ3XYI4FDLQQZGSUW4EQSWGSSTP4Y2YWTMVWRVQ",
    ),
    (
        "rr-2",
        "SUABVFIFBYGAKRPH2CDJ3EGX2KQ4XVA4NZE5Y26Q43FCXSZVEZJM36SUBI",
        "UD7WOBKLMIV67PQBRHNWFVRCC7WQFONFUZV45A4I4N6J5TQX7SEYVVB2",
    ),
    (
        "operator",
        "SUAJUEPMVX6WOEM7I4BHI2HSIWLNHUG2VWMYQEVJTHSU4QJ4VQF7M2NQF4",
        "UCXSW3BD4KKOE4FC4Y5NUFLRKFCAE3ZEGU4MYQWUTSNAW7LRLKNE3544",
    ),
    (
        "administrator",
        "SUAATGRLZIABNLOTL27NGODBW4OY3MLTVU6JYFQHJN5R42VWMB7UXIQMWQ",
        "UDMNKIYQTGUYDKFHTFZHHAYZEWXKZFA66Q2YYVEK2WVDTYMJVMUKQND6",
    ),
];
/// Of a reflector that is not there.
const ANOTHER: &str = "UC76FXM3N7NRBSUWWWGL2IHWRKDYGNMEEP4XYSTCMRNTZX62ISA3WBZK";

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// A block of a configuration, with its braces on lines of their own.
fn without(text: &str, block: &str) -> String {
    let (before, rest) = text.split_once(&format!("\n{block} {{\n")).unwrap();
    let (_, after) = rest.split_once("\n}\n").unwrap();
    format!("{before}\n{after}")
}

/// `packaging/nats/fabric.conf` with keys, for one server on loopback.
fn configuration() -> String {
    let mut text = read("packaging/nats/fabric.conf");
    for (name, _, public) in KEYS {
        let placeholder = format!("\"PUBLIC KEY OF {name}\"");
        assert!(text.contains(&placeholder), "{name}");
        text = text.replace(&placeholder, public);
    }
    let text = text.replace("\"PUBLIC KEY OF rr-3\"", ANOTHER);
    let text = without(&without(&text, "cluster"), "tls").replace("/var/lib/nats", "STORE");
    let is_ours = |line: &&str| !["listen:", "http:"].iter().any(|word| line.starts_with(word));
    text.lines().filter(is_ours).map(|line| format!("{line}\n")).collect()
}

/// A file with somebody's seed.
fn seed(engine: &NatsServer, name: &str) -> PathBuf {
    let (_, seed, _) = KEYS.iter().find(|(known, ..)| *known == name).unwrap();
    let file = engine.folder().join(format!("{name}.nk"));
    std::fs::write(&file, seed).unwrap();
    file
}

/// Runs `metalbond-uring fabric forget rr-2` as somebody. Whether it succeeded, and what it said.
fn forget(engine: &NatsServer, by: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_metalbond-uring"))
        .args(["fabric", "forget", "rr-2", "--fabric", &engine.fabric("main"), "--fabric-creds"])
        .arg(seed(engine, by))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// What the server says when somebody publishes to these subjects.
async fn refusals(engine: &NatsServer, by: &str, subjects: &[&str]) -> usize {
    let (happened, mut events) = unbounded_channel();
    let (_, seed, _) = KEYS.iter().find(|(known, ..)| *known == by).unwrap();
    let options = ConnectOptions::with_nkey((*seed).to_owned()).event_callback(move |event| {
        let _ = happened.send(event);
        std::future::ready(())
    });
    let client = options.connect(engine.host()).await.unwrap();
    let mut refused = 0;
    for subject in subjects {
        client.publish((*subject).to_owned(), "x".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let violation =
        |event: &Event| event.to_string().to_lowercase().contains("permissions violation");
    while refused < subjects.len()
        && let Ok(Some(event)) = tokio::time::timeout(PATIENCE / 4, events.recv()).await
    {
        refused += usize::from(violation(&event));
    }
    refused
}

#[test]
fn permissions_are_enough_and_no_more() {
    let Some(engine) = NatsServer::with(&configuration()) else { return };
    let start = |name: &str| {
        let creds = format!("--fabric-creds={}", seed(&engine, name).display());
        Reflector::start(name, &engine.fabric("main"), &[&creds])
    };
    let reflectors = vec![start("rr-1"), start("rr-2")];
    reflectors.iter().for_each(|it| it.is(&["synced"]));
    let mut world = World { engine, reflectors, hosts: Vec::new(), echoes: false };
    let (a, b) = (world.join(&[0]), world.join(&[1]));
    world.join(&[0, 1]);
    world.settle();
    world.agree();
    // In nobody else's name, and nothing is removed.
    let forbidden = [
        "mb.main.r.7.rr-1.AAAA",
        "mb.main.l.rr-1",
        "mb.main.r.7.rr-2.AAAA.x",
        "mb.main.x",
        "$JS.API.STREAM.PURGE.MB_main",
        "$JS.API.STREAM.DELETE.MB_main",
        "$JS.API.STREAM.UPDATE.MB_main",
        "$JS.API.STREAM.MSG.DELETE.MB_main",
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(refusals(&world.engine, "rr-2", &forbidden));
    assert_eq!(refused, forbidden.len());
    // Whoever looks after the stream announces nothing.
    let routes = ["mb.main.r.7.rr-1.AAAA", "mb.main.l.rr-1"];
    let refused = runtime.block_on(refusals(&world.engine, "administrator", &routes));
    assert_eq!(refused, routes.len());
    world.settle();
    // What a reflector has left is removed by the operator, when it is gone.
    let (removed, said) = forget(&world.engine, "operator");
    assert!(!removed, "it lives: {said}");
    world.reflectors[1].stop();
    world.leave(b, 1);
    world.leave(2, 1);
    world.connect(b, 0);
    world.settle();
    crate::common::http::wait_until("the end of its lease", || {
        (world.reflectors[0].status()["reflectors"][0]["state"] == "lost").then_some(())
    });
    let (removed, said) = forget(&world.engine, "rr-1");
    assert!(!removed && said.contains("Take credentials that may remove"), "{said}");
    assert!(said.contains("mb.main.l.rr-2"), "{said}");
    let (removed, said) = forget(&world.engine, "operator");
    assert!(removed, "{said}");
    world.settle();
    world.reflectors[0].is(&["synced"]);
    // Nobody is to look after it any more.
    crate::common::http::wait_until("that it is gone", || {
        (world.reflectors[0].status()["reflectors"][0]["state"] == "gone").then_some(())
    });
    assert!(!world.hosts[a].routes.is_empty());
}

/// The server takes the configurations that are not run here.
#[test]
fn configurations_are_right() {
    let Some(program) = NatsServer::program() else { return };
    let compose = read("packaging/compose/fabric.yaml");
    let (_, content) = compose.split_once("    content: |\n").unwrap();
    let content = content.lines().take_while(|line| line.starts_with("      "));
    let compose = content.map(|line| format!("{}\n", line.trim_start()).replace("$$", "$"));
    for (name, text) in [
        ("compose", compose.collect::<String>()),
        ("kubernetes", read("packaging/kubernetes-fabric/nats.conf")),
    ] {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nats-{name}.conf"));
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(&program)
            .args(["-t", "-c"])
            .arg(&file)
            .env("POD_NAME", "nats-0")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&said));
        assert!(text.contains("jetstream") && text.contains("cluster"), "{name}: {text}");
    }
}
