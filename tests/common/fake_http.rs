//! A web server that says whatever a test wants, right or wrong.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Writes a body.
pub type Author = Box<dyn FnOnce(&mut dyn Write) -> std::io::Result<()> + Send>;

/// What it does with a question.
pub enum Reply {
    /// An answer: status, kind of content, body.
    Whole(u16, &'static str, String),
    /// An answer that says it is longer than it is.
    Cut(&'static str, String),
    /// So many bytes, whatever they are, and the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, and then nothing, for longer than anybody waits.
    Hang(&'static str),
    /// The beginning of an answer, and a space each few milliseconds: never silent, never whole.
    Trickle,
    /// "Try again", by a status of 503.
    Busy,
    /// JSON that is made as it is sent.
    Stream(Author),
}

/// A running one; its threads end with the test.
pub struct FakeHttp {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Reply {
    pub fn json(body: impl Into<String>) -> Reply {
        Reply::Whole(200, "application/json", body.into())
    }

    /// What the Go program says to every path that it does not know.
    pub fn page() -> Reply {
        let page = "<html><title>MetalBond - Route Tables</title></html>";
        Reply::Whole(200, "text/html; charset=utf-8", page.to_owned())
    }
}

impl FakeHttp {
    /// Answers each path, with its query, so.
    pub fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> FakeHttp {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                spawn(move || {
                    let Some(path) = question(&stream) else { return };
                    log.lock().unwrap().push(path.clone());
                    // Whoever asked may be gone.
                    let _ = reply(stream, answer(&path));
                });
            }
        });
        FakeHttp { address, asked }
    }

    /// As an operand of a command.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// The paths that were asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().spawn(body).unwrap();
}

/// The path of a request, when its head is whole.
fn question(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    lines.find(String::is_empty)?;
    Some(path)
}

fn reply(mut stream: TcpStream, reply: Reply) -> std::io::Result<()> {
    let head = |status: u16, kind: &str, length: usize| {
        format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
    };
    match reply {
        Reply::Whole(status, kind, body) => {
            stream.write_all(head(status, kind, body.len()).as_bytes())?;
            stream.write_all(body.as_bytes())
        }
        Reply::Cut(kind, body) => {
            stream.write_all(head(200, kind, body.len() + 1).as_bytes())?;
            stream.write_all(body.as_bytes())
        }
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Hang(bytes) => {
            stream.write_all(bytes.as_bytes())?;
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        Reply::Trickle => {
            let head = "HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n{";
            stream.write_all(head.as_bytes())?;
            loop {
                stream.write_all(b" ")?;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Reply::Busy => {
            let head = "HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 10\r\n\r\ntry again\n";
            stream.write_all(head.as_bytes())
        }
        Reply::Stream(write) => {
            // Its end is that of the connection.
            let head =
                "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
            let mut out = std::io::BufWriter::with_capacity(64 << 10, stream);
            out.write_all(head.as_bytes())?;
            write(&mut out)?;
            out.flush()
        }
    }
}
