//! A headless Chromium, driven as the W3C's WebDriver standard says.
//!
//! Owns the few commands that the tests need: a client library would bring more than they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::PATIENCE;

/// The key of an element's id in answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One window; it is closed, and the driver ended, when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// A new window. None, with a loud line, where there is no Chromium or no driver; with
    /// `METALBOND_BROWSER_REQUIRED` set that is a failure.
    pub fn start() -> Option<Browser> {
        let (Some(driver), Some(chromium)) = (find("chromedriver"), find("chromium")) else {
            let words = "the page is NOT tested: it takes chromium and chromedriver (Debian: chromium, chromium-driver)";
            assert!(std::env::var_os("METALBOND_BROWSER_REQUIRED").is_none(), "{words}");
            // Past the test harness, which keeps to itself what a test prints that succeeds.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {words}");
            return None;
        };
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("the driver says its port");
        // What it says further is for nobody; it must not block either.
        std::thread::Builder::new().spawn(move || lines.for_each(drop)).unwrap();
        let mut browser =
            Browser { driver, address: ([127, 0, 0, 1], port).into(), session: String::new() };
        let options = json!({
            "binary": chromium,
            // Tests run as root in containers, where Chromium's sandbox does not start.
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--no-first-run", "--disable-background-networking", "--window-size=1280,1000"],
        });
        let always =
            json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let made = browser.ask("POST", "", &json!({ "capabilities": { "alwaysMatch": always } }));
        browser.session = format!("/{}", made["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Opens an address.
    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url }));
    }

    /// What an expression is in the page.
    pub fn eval(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.ask("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn wait_for(&self, expression: &str) {
        let deadline = Instant::now() + 3 * PATIENCE;
        while self.eval(&format!("!!({expression})")) != true {
            if Instant::now() >= deadline {
                let shown: String = self.text("body").chars().take(1_500).collect();
                panic!("waited in vain for {expression}: {shown}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The text that is to be seen of an element.
    pub fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({}).innerText", json!(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks an element.
    pub fn click(&self, selector: &str) {
        let found =
            self.ask("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        let id = found[ELEMENT].as_str().unwrap();
        self.ask("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Presses keys, one after the other, whatever has the focus.
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.ask("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// Gives the page so much room, as a phone has it, say.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Wants dark colours, or light ones.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What was written to the console since this was asked.
    pub fn console(&self) -> Vec<String> {
        let lines = self.ask("POST", "/se/log", &json!({ "type": "browser" }));
        lines.as_array().unwrap().iter().map(|line| line["message"].to_string()).collect()
    }

    /// Keeps a picture, if `METALBOND_SHOTS` names a folder for them.
    pub fn shoot(&self, name: &str) {
        let Some(folder) = std::env::var_os("METALBOND_SHOTS") else { return };
        let shot = self.devtools("Page.captureScreenshot", json!({ "format": "png" }));
        let path = PathBuf::from(folder).join(format!("{name}.b64"));
        std::fs::write(path, shot["data"].as_str().unwrap()).unwrap();
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
        let (address, session) = (self.address, &self.session);
        write!(
            stream,
            "{method} /session{session}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let answer = read_answer(stream);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let value = &answer["value"];
        assert!(value["error"].is_null(), "{path} {body}: {value}");
        value.clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask("DELETE", "", &json!({}));
        } else if let Ok(mut stream) = TcpStream::connect(self.address) {
            // Chromium would outlive its driver.
            let _ = write!(
                stream,
                "DELETE /session{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                self.session
            );
            let _ = stream.read(&mut [0; 64]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The body: as long as its head says, since the driver may keep the connection.
fn read_answer(stream: TcpStream) -> String {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}
