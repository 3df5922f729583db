//! Questions over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::PATIENCE;

/// A whole answer: its head, and its body.
pub fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    ask_with(address, method, path, "")
}

/// The same, with lines of a head.
pub fn ask_with(address: SocketAddr, method: &str, path: &str, head: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The old version: the answer comes as it is, and ends with the connection.
    write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// An answer that is JSON.
pub fn json(address: SocketAddr, path: &str) -> Value {
    let (head, body) = ask(address, "GET", path);
    assert!(head.starts_with("HTTP/1.0 200 "), "{path}: {head} {body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until there is an answer.
pub fn wait_until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
