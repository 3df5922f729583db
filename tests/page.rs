//! The page that people see, in a headless Chromium: busy, empty, narrow, dark, from the keyboard, and with whatever
//! somebody may put into a name.
//!
//! Owns what is claimed of it. Must never assert a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::browser::Browser;
use common::http::ask;
use common::served::Served;
use common::{PATIENCE, Peer, add, hello, remove, route, subscribe};
use metalbond_uring::api::{Config, DummyClient, MetalBond, Vni};
use metalbond_uring::internals::io::raise_descriptor_limit;
use serde_json::{Value, json};

const BACKSPACE: &str = "\u{e003}";
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const RIGHT: &str = "\u{e014}";

/// The page of a node, loaded, with its first answers.
fn open(browser: &Browser, http: SocketAddr) {
    browser.open(&format!("http://{http}/"));
    browser.wait_for("document.querySelector('#tiles .value').textContent !== '–'");
    browser.wait_for("!document.querySelector('#peers .empty').textContent.includes('Asking')");
}

/// Nothing went wrong in the page, and nobody but the node was asked.
fn assert_quiet(browser: &Browser) {
    assert_eq!(browser.console(), Vec::<String>::new());
    let asked = "performance.getEntriesByType('resource').map(it => it.name)\
                 .filter(it => !it.startsWith(location.origin + '/') && !it.startsWith('data:'))";
    assert_eq!(browser.eval(asked), json!([]));
}

/// The page is not wider than its window; nor, where peers and VNIs are cards, is one of these wider than the page.
fn assert_fits(browser: &Browser) {
    let is_fine = "[document.documentElement, document.body]\
                   .every(it => it.scrollWidth <= innerWidth) && \
                   (innerWidth > 800 || [...document.querySelectorAll('.panel .scroll')]\
                   .every(it => it.scrollWidth <= it.clientWidth))";
    let beyond = "[...document.querySelectorAll('body *')]\
                  .filter(it => it.getBoundingClientRect().right > innerWidth + 1)\
                  .map(it => it.tagName + '.' + it.className + '#' + it.id).slice(0, 9)";
    assert_eq!(browser.eval(is_fine), true, "{}", browser.eval(beyond));
}

fn cells(browser: &Browser, id: &str) -> Vec<Vec<String>> {
    let rows = browser.eval(&format!(
        "[...document.querySelectorAll('#{id} tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    ));
    serde_json::from_value(rows).unwrap()
}

/// Puts a text into a field as typing it does.
fn type_into(browser: &Browser, selector: &str, text: &str) {
    browser.eval(&format!("document.querySelector({}).select()", json!(selector)));
    browser.press(text);
}

#[test]
fn a_thousand_peers_are_shown_and_found() {
    let Some(browser) = Browser::start() else { return };
    let _ = raise_descriptor_limit();
    let served = Served::start(&["--cores", "2", "--keepalive", "3600"]);
    let mut peers: Vec<Peer> = (0..1_000)
        .map(|at: u32| {
            let mut peer = Peer::established(served.process.address(), 600, !at.is_multiple_of(3));
            let routes = (0..at % 7).flat_map(|number| add(&route(at % 40, at * 8 + number, at)));
            let vnis = (0..at % 5).flat_map(|number| subscribe((at + number) % 40));
            peer.send(&vnis.chain(routes).collect::<Vec<u8>>());
            peer
        })
        .collect();
    peers.last_mut().unwrap().barrier();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writer = peers[1].writer();
    let flag = Arc::clone(&is_over);
    let flapping = std::thread::Builder::new();
    let flapping = flapping.spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            let say = |frame: fn(&[u8]) -> Vec<u8>| {
                (0..60).flat_map(|number| frame(&route(1, 70_000 + number, 1))).collect::<Vec<u8>>()
            };
            let _ = writer.write_all(&[say(add), say(remove)].concat());
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    open(&browser, served.http);
    browser.wait_for(
        "document.querySelector('#peers-count').textContent.startsWith('200 of 1,000 shown')",
    );
    assert_eq!(browser.text("#tiles .value"), "1,000");
    assert_eq!(cells(&browser, "peers").len(), 200);
    // Rates are told, and drawn.
    browser.wait_for("document.querySelectorAll('#tiles .value')[3].textContent > '0'");
    browser
        .wait_for("document.querySelector('#rates .plot .line0').getAttribute('d').includes('L')");
    // Sorted by a head, by keyboard: the largest first, then the smallest.
    browser.eval("document.querySelectorAll('#peers thead button')[6].focus()");
    browser.press(ENTER);
    assert_eq!(
        browser.eval("document.querySelectorAll('#peers thead th')[6].ariaSort"),
        "descending"
    );
    let routes = |browser| cells(browser, "peers").into_iter().map(|row| row[6].clone());
    // 142 of them announce 6; the one that flaps may have more just now, up to 61.
    let mut more: Vec<u32> =
        routes(&browser).take(142).map(|routes| routes.parse().unwrap()).collect();
    more.retain(|routes| *routes != 6);
    assert!(more.len() <= 1 && more.iter().all(|routes| (6..=61).contains(routes)), "{more:?}");
    browser.press(ENTER);
    assert!(routes(&browser).take(142).all(|routes| routes == "0"));
    // Filters: by address, and by VNI.
    let address = peers[500].writer().local_addr().unwrap().to_string();
    type_into(&browser, "#peers-filter", &address);
    let found = cells(&browser, "peers");
    assert_eq!((found.len(), &found[0][0]), (1, &address));
    browser.wait_for("document.querySelector('#filter-said').textContent.startsWith('1 of 1,000')");
    browser.click("#vnis-tab");
    browser
        .wait_for("document.querySelector('#vnis-count').textContent.startsWith('40 of 40 shown')");
    browser.click("#vnis tbody button");
    browser
        .wait_for("document.querySelector('#peers-count').textContent.startsWith('50 of 1,000')");
    type_into(&browser, "#peers-filter", BACKSPACE);
    type_into(&browser, "#prefix", "10.0.15.160");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#said').textContent.startsWith('1 route for')");
    std::thread::sleep(shots_take(20));
    browser.eval("scrollTo(0, 0)");
    browser.shoot("busy");
    browser.eval("document.querySelector('#search').scrollIntoView()");
    browser.shoot("search");
    browser.resize(375, 812);
    assert_fits(&browser);
    browser.eval("document.querySelector('#tables-title').scrollIntoView()");
    browser.shoot("narrow-peers");
    browser.eval("scrollTo(0, 0)");
    browser.shoot("narrow");
    browser.resize(1280, 1000);
    browser.prefer("dark");
    browser.shoot("dark");
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_eq!(pale(&browser), json!([]), "{scheme}");
    }
    assert_quiet(&browser);
    is_over.store(true, Ordering::Relaxed);
    flapping.unwrap().join().unwrap();
}

/// The texts whose colours are too close to what is behind them (WCAG 2.2, level AA).
fn pale(browser: &Browser) -> Value {
    browser.eval(
        "(() => {
            const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
            const context = canvas.getContext('2d', { willReadFrequently: true });
            const rgba = (colour) => {
                context.clearRect(0, 0, 1, 1);
                context.fillStyle = colour;
                context.fillRect(0, 0, 1, 1);
                return [...context.getImageData(0, 0, 1, 1).data];
            };
            const light = (colour) => colour.slice(0, 3).map(it => it / 255)
                .map(it => it <= .04045 ? it / 12.92 : ((it + .055) / 1.055) ** 2.4)
                .reduce((sum, it, at) => sum + it * [.2126, .7152, .0722][at], 0);
            const behind = (node) => {
                for (; node; node = node.parentElement) {
                    const colour = rgba(getComputedStyle(node).backgroundColor);
                    if (colour[3] === 255) return colour;
                }
                return [255, 255, 255, 255];
            };
            const texts = [...document.querySelectorAll('body *')].filter(node =>
                node.checkVisibility() && [...node.childNodes].some(it => it.nodeType === 3 && it.textContent.trim()));
            const all = texts.map(node => {
                const style = getComputedStyle(node);
                const colour = node instanceof SVGElement ? style.fill : style.color;
                const [a, b] = [light(rgba(colour)), light(behind(node))].sort((a, b) => b - a);
                const isLarge = parseFloat(style.fontSize) >= 24;
                return [(a + .05) / (b + .05) >= (isLarge ? 3 : 4.5), node.className + ' ' + node.textContent.slice(0, 40)];
            });
            return all.length < 30 ? 'too few' : all.filter(([isFine]) => !isFine);
        })()",
    )
}

/// Pictures take a while to be worth looking at; without them nobody waits.
fn shots_take(seconds: u64) -> Duration {
    Duration::from_secs(std::env::var_os("METALBOND_SHOTS").map_or(0, |_| seconds))
}

#[test]
fn an_empty_node_says_so_in_light_and_dark_and_narrow() {
    let Some(browser) = Browser::start() else { return };
    let served = Served::start(&["--cores", "1"]);
    open(&browser, served.http);
    assert_eq!(browser.text("#peers .empty"), "No peers are connected.");
    assert_eq!(browser.text("#tiles .value"), "0");
    assert!(browser.text("#node").starts_with("route reflector · "), "{}", browser.text("#node"));
    browser.shoot("empty");
    let colour = "getComputedStyle(document.body).backgroundColor";
    browser.prefer("light");
    let light = browser.eval(colour);
    browser.prefer("dark");
    assert_ne!(browser.eval(colour), light);
    for width in [320, 375, 600, 900] {
        browser.resize(width, 700);
        assert_fits(&browser);
    }
    assert_quiet(&browser);
}

#[test]
fn the_keyboard_is_enough() {
    let Some(browser) = Browser::start() else { return };
    let served = Served::start(&["--cores", "2"]);
    let announcer = served.peer(&[add(&route(7, 1, 1)), subscribe(7)].concat());
    let other = served.peer(&subscribe(7));
    served.wait_for_routes(1);
    open(&browser, served.http);
    // The first stop leads past everything else.
    browser.press(TAB);
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    browser.press(ENTER);
    browser.press(TAB);
    let outside = "'As a table'";
    let focused = "(document.activeElement.id || document.activeElement.textContent)";
    assert_eq!(browser.eval(&format!("{focused} !== {outside} && {focused}")), "prefix");
    // What has the focus is marked.
    assert_ne!(browser.eval("getComputedStyle(document.activeElement).outlineStyle"), "none");
    browser.press("10.0.0.1");
    browser.press(TAB);
    browser.press("7");
    browser.press(ENTER);
    browser.wait_for(
        "document.querySelector('#said').textContent === '1 route for 10.0.0.1 in VNI 7.'",
    );
    assert_eq!(browser.eval("document.querySelector('#said').getAttribute('role')"), "status");
    let found = browser.text("#found");
    let [announcer, other] =
        [&announcer, &other].map(|peer| peer.writer().local_addr().unwrap().to_string());
    let (before, after) = found.split_once("Not seen by (1)").unwrap();
    assert!(before.contains(&announcer) && before.contains(&other), "{found}");
    assert!(after.contains("own routes") && after.contains(&announcer), "{found}");
    // What is mistyped is told of by the node, word for word; and again, though nothing else changed.
    for _ in 0..2 {
        type_into(&browser, "#prefix", "<b>x");
        browser.press(ENTER);
        browser.wait_for("document.querySelector('#said').textContent.startsWith('prefix=\"<b>x\" is no prefix')");
    }
    browser.console();
    // Tabs by arrow.
    browser.eval("document.querySelector('#peers-tab').focus()");
    browser.press(RIGHT);
    assert_eq!(browser.eval("document.activeElement.id"), "vnis-tab");
    browser.wait_for("document.querySelectorAll('#vnis tbody tr').length === 1");
    // Every field and button has a name, every head of a column a scope.
    let nameless = "[...document.querySelectorAll('input, select, button')].filter(it => \
                    !(it.labels?.length || it.textContent.trim() || it.ariaLabel)).length + \
                    document.querySelectorAll('th:not([scope]), table:not(:has(caption)), img:not([alt])').length + \
                    document.querySelectorAll('.plot:not([aria-label])').length";
    assert_eq!(browser.eval(nameless), 0);
    assert_quiet(&browser);
}

#[test]
fn a_daemon_that_is_gone_is_told_of_and_one_that_is_back_too() {
    let Some(browser) = Browser::start() else { return };
    let mut served = Served::start(&["--cores", "1"]);
    let http = served.http;
    open(&browser, http);
    browser.eval("document.querySelector('#prefix').focus()");
    served.process.signal("KILL");
    served.process.exit_status();
    browser.wait_for(
        "document.querySelector('#trouble').textContent.includes('cannot be reached since ')",
    );
    assert_eq!(browser.eval("document.querySelector('#trouble').getAttribute('role')"), "alert");
    assert_fits(&browser);
    browser.shoot("gone");
    let _again = Served::at(&http.to_string(), &["--cores", "1"]);
    browser.wait_for("document.querySelector('#trouble').textContent === ''");
    browser.wait_for("document.querySelector('#rates .legend').textContent.includes('0')");
    assert_eq!(browser.eval("document.activeElement.id"), "prefix", "the focus stays where it was");
}

#[test]
fn nobody_is_asked_while_nobody_looks() {
    let Some(browser) = Browser::start() else { return };
    let served = Served::start(&["--cores", "1"]);
    open(&browser, served.http);
    let hide = |is_hidden: bool| {
        browser.eval(&format!(
            "(Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }}), \
             document.dispatchEvent(new Event('visibilitychange')))"
        ));
    };
    let asked =
        || browser.eval("performance.getEntriesByType('resource').length").as_u64().unwrap();
    hide(true);
    // What was under way ends.
    let deadline = Instant::now() + PATIENCE;
    let mut before = asked();
    loop {
        std::thread::sleep(Duration::from_secs(3));
        let now = asked();
        if now == before {
            break;
        }
        assert!(Instant::now() < deadline, "it is asked on and on");
        before = now;
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(asked(), before);
    hide(false);
    browser.wait_for(&format!("performance.getEntriesByType('resource').length > {before}"));
}

#[test]
fn a_client_shows_its_servers() {
    let Some(browser) = Browser::start() else { return };
    let node = MetalBond::new(Config { cores: 1, ..Config::default() }, DummyClient).unwrap();
    let http = node.start_http_server("[::1]:0").unwrap();
    open(&browser, http);
    assert_eq!(browser.text("#peers .empty"), "No server is connected, and no peer.");
    let server = Served::start(&["--cores", "1"]);
    node.add_peer(&server.process.address().to_string(), None).unwrap();
    node.announce_route(Vni(5), "10.0.1.0/24".parse().unwrap(), "2001:db8::1".parse().unwrap())
        .unwrap();
    browser.wait_for("document.querySelectorAll('#peers tbody tr').length === 1");
    browser.wait_for(
        "document.querySelector('#peers tbody tr').cells[1].textContent === 'established'",
    );
    let row = &cells(&browser, "peers")[0];
    assert_eq!([&row[0], &row[2]], [&server.process.address().to_string(), "our server"]);
    assert!(browser.text("#node").starts_with("client · "));
    type_into(&browser, "#prefix", "10.0.1.0/24");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#said').textContent.startsWith('1 route for')");
    assert!(browser.text("#found").contains("this node"), "{}", browser.text("#found"));
    assert_quiet(&browser);
    node.shutdown();
}

/// What somebody may try who can put a text anywhere.
const HOSTILE: &str =
    "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>\u{202e}'\"`${1}&lt;";

/// Serves the page as the daemon does, this history, and hostile answers to all else that it asks.
fn hostile_daemon(history: Value) -> SocketAddr {
    let served = Served::start(&["--cores", "1"]);
    let (head, page) = ask(served.http, "GET", "/");
    let head =
        head.lines().filter(|line| line.contains(": ") && !line.starts_with("content-length"));
    let head = head.collect::<Vec<_>>().join("\r\n");
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &head, &page, &history);
        }
    };
    std::thread::Builder::new().spawn(serve).unwrap();
    address
}

fn answer(mut stream: TcpStream, head: &str, page: &str, history: &Value) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    let _ = request.read_line(&mut line);
    let mut rest = String::new();
    while request.read_line(&mut rest).is_ok_and(|read| read > 2) {}
    let h = HOSTILE;
    let list = json!({ "count": h, "peers": [{ "address": h, "pending_bytes": h }, null, h] });
    let (kind, status, body) = match line.split([' ', '?']).nth(1).unwrap_or_default() {
        "/" => (head.to_owned(), "200 OK", page.to_owned()),
        "/summary.json" => {
            let group = json!({ h: h, "n": 1 });
            (String::new(), "200 OK", json!({
                "version": h, "uptime_s": h, "shards": h, "routes": h, "vnis": h, "pending_bytes": h,
                "peers": { "established": h, "connecting": h, "slow": h }, "since_start": group, "disconnects": group,
                "memory_bytes": group, "pacing": group,
            }).to_string())
        }
        "/history.json" => (String::new(), "200 OK", history.to_string()),
        "/peers.json" => (String::new(), "200 OK", json!({ "peers": [
            { "id": h, "address": h, "class": h, "state": h, "direction": h, "established_for_s": h,
              "keepalive_interval_s": h, "reassembles": h, "routes": h, "pending_bytes": h, "slow": true,
              "slow_vnis": h, "vnis": h, "updates_received": h, "updates_sent": h, "reconnections_last_hour": h },
            null, 7, {}, { "id": h, "address": "[fe80::1%<b>]:4711", "vnis": [h, null], "state": null },
        ] }).to_string()),
        "/vnis.json" => (String::new(), "200 OK", json!({ "vnis": [
            { "vni": h, "routes": h, "sources": h, "subscribers": h, "slow_subscribers": h, "digest": h }, {}, null,
        ] }).to_string()),
        _ if line.contains("refuse") => (String::new(), "400 Bad Request", h.to_owned()),
        _ => (String::new(), "200 OK", json!({ "cut": h, "routes": [
            { "vni": h, "destination": h,
              "next_hop": { "address": h, "type": h, "vni": h, "nat_port_from": h, "nat_port_to": h },
              "announced_by": list, "seen_by": list, "not_subscribed": list,
              "perhaps_not_yet": { "count": h, "reasons": [{ "why": h, "count": h, "peers": list["peers"] }, {}] },
              "connecting": { "count": 1, "peers": list["peers"] },
              "not_seen_by": { "count": h, "reasons": [{ "why": h, "count": h, "peers": list["peers"] }, {}] } },
            {},
        ] }).to_string()),
    };
    let head = if kind.is_empty() { "content-type: application/json" } else { &kind };
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}

#[test]
fn whatever_is_told_is_shown_as_text() {
    let Some(browser) = Browser::start() else { return };
    let h = HOSTILE;
    let http = hostile_daemon(json!({ "last": h, "samples": [
        { "number": h, "unix_time_ms": h, "updates_received_per_s": h, "updates_sent_per_s": h, "propagation_us": h },
        null, h,
        { "number": 1, "unix_time_ms": 1e300, "updates_received_per_s": -1e300, "propagation_us": { "p50": h } },
    ] }));
    browser.open(&format!("http://{http}/"));
    browser.wait_for("document.querySelector('#peers tbody tr')");
    browser.wait_for("document.querySelector('#node').textContent.includes('<img')");
    browser.eval("document.querySelectorAll('details').forEach(it => it.open = true)");
    browser.wait_for("document.querySelector('#figures').textContent.includes('<img')");
    browser.click("#vnis-tab");
    browser.wait_for("document.querySelector('#vnis tbody').textContent.includes('<img')");
    type_into(&browser, "#prefix", "<i>10.0.0.1");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#found').textContent.includes('<img')");
    type_into(&browser, "#prefix", "refuse");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#said').textContent.includes('<script>')");
    let made = "document.querySelectorAll('img, b, i, body script ~ script, #found script').length";
    assert_eq!(browser.eval(made), 0);
    assert_eq!(browser.eval("window.hit === undefined"), true);
    browser.resize(375, 700);
    assert_fits(&browser);
    let console = browser.console();
    assert!(console.iter().all(|line| line.contains("400 (Bad Request)")), "{console:?}");
    // Were a value taken for HTML all the same, the browser would not run it.
    let policy = "(() => { try { document.body.innerHTML = '<b></b>'; return 'taken'; } catch { return 'refused'; } })()";
    assert_eq!(browser.eval(policy), "refused");
}

/// Of a node that has run for so long: what is written at its plots.
fn marks(browser: &Browser, samples: u64, per_s: f64) -> Vec<String> {
    let sample = |number: u64| {
        let unix_time_ms = 1_790_000_000_000 + number * 2_000;
        let us = 10 * number;
        json!({ "number": number, "unix_time_ms": unix_time_ms, "updates_received_per_s": per_s,
                "updates_sent_per_s": 0, "propagation_us": { "p50": us, "p99": us * 100 } })
    };
    let samples: Vec<Value> = (1..=samples).map(sample).collect();
    let http = hostile_daemon(json!({ "last": samples.len(), "samples": samples }));
    browser.open(&format!("http://{http}/"));
    browser
        .wait_for("document.querySelector('#rates .plot .line0').getAttribute('d').includes('L')");
    let marks =
        browser.eval("[...document.querySelectorAll('.plot text')].map(it => it.textContent)");
    serde_json::from_value(marks).unwrap()
}

#[test]
fn plots_name_their_minutes_and_sizes() {
    let Some(browser) = Browser::start() else { return };
    let rates = ["0", "1,000", "100", "10"];
    let times = ["0", "100 ms", "10 ms", "1 ms", "100 µs", "10 µs"];
    let expect = |minutes: &[&str]| {
        let sizes = [&rates[..], &times[..]];
        let marks = sizes.iter().flat_map(|sizes| sizes.iter().chain(minutes));
        marks.map(|mark| (*mark).to_owned()).collect::<Vec<String>>()
    };
    assert_eq!(marks(&browser, 40, 999.5), expect(&["−2 min", "−1 min", "now"]));
    let five = ["−5 min", "−4 min", "−3 min", "−2 min", "−1 min", "now"];
    assert_eq!(marks(&browser, 100, 1_000.0), expect(&five));
    browser.resize(375, 800);
    assert_eq!(marks(&browser, 100, 101.0), expect(&["−5 min", "−2.5 min", "now"]));
    browser.resize(1280, 1000);
    let found = marks(&browser, 300, 1.0);
    assert_eq!(found[..2], ["0", "10"], "one a second is not the largest that there may be");
    assert_eq!(found[2..8], ["−10 min", "−8 min", "−6 min", "−4 min", "−2 min", "now"]);
    // The same, told as a table: a row a minute.
    browser.eval("document.querySelectorAll('details').forEach(it => it.open = true)");
    browser.wait_for("document.querySelectorAll('#times tbody tr').length === 10");
    let row = browser.text("#times tbody tr");
    assert!(row.ends_with("2.9 ms\t300 ms"), "{row}");
}

#[test]
fn a_peer_that_says_it_is_a_server_is_shown_as_one() {
    let Some(browser) = Browser::start() else { return };
    let served = Served::start(&["--cores", "1"]);
    let mut peer = Peer::connect(served.process.address());
    peer.handshake(&hello(60, true, false));
    open(&browser, served.http);
    let row = &cells(&browser, "peers")[0];
    assert_eq!([&row[1], &row[2], &row[8], &row[9]], ["established", "server", "no", "no"]);
    assert_quiet(&browser);
}
