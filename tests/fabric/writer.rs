//! A foreign writer: a connection to the engine that publishes what it likes.
//!
//! Owns a few words of NATS's protocol, on purpose: a client library would not say what is wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::common::PATIENCE;

pub struct Writer {
    stream: BufReader<TcpStream>,
}

impl Writer {
    pub fn connect(host: &str) -> Writer {
        let stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writer = Writer { stream: BufReader::new(stream) };
        writer.line_with("INFO ");
        writer.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n");
        writer.flush();
        writer
    }

    /// Publishes; the engine answers nobody.
    pub fn publish(&mut self, subject: &str, value: &[u8]) {
        self.send(format!("PUB {subject} {}\r\n", value.len()).as_bytes());
        self.send(&[value, b"\r\n"].concat());
    }

    /// The same with headers, each `Name: value`.
    pub fn publish_with(&mut self, subject: &str, headers: &[&str], value: &[u8]) {
        let headers = format!("NATS/1.0\r\n{}\r\n\r\n", headers.join("\r\n"));
        let all = headers.len() + value.len();
        self.send(format!("HPUB {subject} {} {all}\r\n", headers.len()).as_bytes());
        self.send(&[headers.as_bytes(), value, b"\r\n"].concat());
    }

    /// Bounds a fabric's stream, as `nats stream edit --max-bytes` does.
    pub fn bound_stream(&mut self, fabric: &str, bytes: u64) {
        let told = self.ask(&format!("$JS.API.STREAM.INFO.MB_{fabric}"), "");
        let mut config = told["config"].clone();
        config["max_bytes"] = bytes.into();
        let told = self.ask(&format!("$JS.API.STREAM.UPDATE.MB_{fabric}"), &config.to_string());
        assert_eq!(told["config"]["max_bytes"], bytes, "{told}");
    }

    /// A question with its answer.
    pub fn ask(&mut self, subject: &str, question: &str) -> Value {
        self.send(b"SUB answer 1\r\nUNSUB 1 1\r\n");
        self.send(format!("PUB {subject} answer {}\r\n{question}\r\n", question.len()).as_bytes());
        self.line_with("MSG answer ");
        let mut answer = String::new();
        self.stream.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Waits until the server has taken all that was sent. Returns what it complained of.
    pub fn flush(&mut self) -> Vec<String> {
        self.send(b"PING\r\n");
        self.line_with("PONG")
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn line_with(&mut self, words: &str) -> Vec<String> {
        let mut others = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "closed: {others:?}");
            match line.trim_end() {
                line if line.starts_with(words) => return others,
                "PING" => self.send(b"PONG\r\n"),
                line => others.push(line.to_owned()),
            }
        }
    }
}
