//! Whether a server is there and speaks MetalBond, found out before thousands of peers come.
//!
//! Owns one short conversation. Must never wait without a limit.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use metalbond_uring::internals::wire::{Deframer, Hello, KEEPALIVE_FRAME, Message, decode};
use thiserror::Error;

/// How long the server may take for each step.
const LIMIT: Duration = Duration::from_secs(5);

/// Why a target is of no use.
#[derive(Error, Debug)]
pub enum TargetError {
    /// No connection.
    #[error(
        "nothing answers at {0}: {1}. Start the server, or check its address; without --target loadgen starts \
         a reflector by itself"
    )]
    Connect(SocketAddr, io::Error),
    /// None of a name's addresses is of use.
    #[error("no address of the server is of use: {}", .0.iter().map(Self::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<TargetError>),
    /// Something else listens there.
    #[error("the server at {0} does not speak MetalBond: {1}. Check its address")]
    Foreign(SocketAddr, String),
    /// It hung up.
    #[error(
        "the server at {0} closed the connection during the handshake ({1}): its log may say why (a limit of \
         peers?), or it does not speak MetalBond"
    )]
    Closed(SocketAddr, String),
    /// It says nothing.
    #[error(
        "the server at {0} did not answer {1} within 5 s: it does not speak MetalBond, or is overloaded"
    )]
    Silent(SocketAddr, &'static str),
}

/// The first of the addresses at which a handshake succeeds.
///
/// # Errors
/// What is wrong with each, if none is of use.
pub fn find(targets: &[SocketAddr], keepalive_s: u32) -> Result<SocketAddr, TargetError> {
    let mut errors = Vec::new();
    for &target in targets {
        match probe(target, keepalive_s) {
            Ok(()) => return Ok(target),
            Err(error) => errors.push(error),
        }
    }
    Err(match errors.pop() {
        Some(only) if errors.is_empty() => only,
        last => TargetError::Several(errors.into_iter().chain(last).collect()),
    })
}

/// Makes a handshake and hangs up.
fn probe(target: SocketAddr, keepalive_s: u32) -> Result<(), TargetError> {
    let connect = |error| TargetError::Connect(target, error);
    let mut stream = TcpStream::connect_timeout(&target, LIMIT).map_err(connect)?;
    if stream.local_addr().ok() == Some(target) {
        // A free port of the ephemeral range may be given to the connection to it.
        return Err(connect(io::ErrorKind::ConnectionRefused.into()));
    }
    stream.set_read_timeout(Some(LIMIT)).map_err(connect)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(connect)?;
    let mut deframer = Deframer::new();
    let mut hello = Vec::new();
    let message = Hello { keepalive_interval_s: keepalive_s, is_server: false, reassembles: true };
    Message::Hello(message).encode(&mut hello);
    let answer = ask(target, &mut stream, &mut deframer, &hello, "HELLO")?;
    if !matches!(answer, Message::Hello(_)) {
        let found = format!("it answered HELLO with {}", answer.message_type());
        return Err(TargetError::Foreign(target, found));
    }
    let answer = ask(target, &mut stream, &mut deframer, &KEEPALIVE_FRAME, "KEEPALIVE")?;
    if answer != Message::Keepalive {
        let found = format!("it answered KEEPALIVE with {}", answer.message_type());
        return Err(TargetError::Foreign(target, found));
    }
    Ok(())
}

fn ask(
    target: SocketAddr,
    stream: &mut TcpStream,
    deframer: &mut Deframer,
    question: &[u8],
    name: &'static str,
) -> Result<Message, TargetError> {
    let foreign = |found: String| TargetError::Foreign(target, found);
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => TargetError::Silent(target, name),
        _ => TargetError::Closed(target, error.to_string()),
    };
    stream.write_all(question).map_err(broken)?;
    // One byte at a time: nothing of a later frame is taken.
    let mut byte = [0];
    loop {
        let length = match stream.read(&mut byte) {
            // The teardown of a ring (the probe's) interrupts a read that has a time limit.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(broken)?,
        };
        if length == 0 {
            return Err(TargetError::Closed(target, format!("instead of an answer to {name}")));
        }
        match deframer.next(&mut &byte[..]) {
            Ok(Some(frame)) => return decode(frame).map_err(|error| foreign(error.to_string())),
            Ok(None) => {}
            Err(error) => return Err(foreign(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What the probe says about a server that reads something and then sends these bytes.
    fn said_of(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::Builder::new()
            .spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(answer);
            })
            .unwrap();
        let error = probe(target, 5).unwrap_err();
        server.join().unwrap();
        error.to_string()
    }

    #[test]
    fn others_are_told_apart() {
        let words = said_of(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert!(words.contains("does not speak MetalBond: protocol version 72"), "{words}");
        assert!(said_of(b"").contains("closed the connection"));
        assert!(said_of(&KEEPALIVE_FRAME).contains("answered HELLO with KEEPALIVE"));
        assert!(said_of(&[1, 0, 0, 1]).contains("interval 0"));
    }

    #[test]
    fn nobody_there() {
        let free = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
        let words = find(&[free], 5).unwrap_err().to_string();
        assert!(words.starts_with(&format!("nothing answers at {free}")), "{words}");
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let free = || TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
        let (a, b) = (free(), free());
        let words = find(&[a, b], 5).unwrap_err().to_string();
        for target in [a, b] {
            assert!(words.contains(&format!("nothing answers at {target}")), "{words}");
        }
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let hello = Hello { keepalive_interval_s: 5, is_server: true, reassembles: true };
            let mut answers = Vec::new();
            Message::Hello(hello).encode(&mut answers);
            answers.extend_from_slice(&KEEPALIVE_FRAME);
            stream.write_all(&answers).unwrap();
            // Until the probe hangs up.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(find(&[a, target, b], 5).unwrap(), target);
        server.unwrap().join().unwrap();
    }
}
