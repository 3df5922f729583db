//! JSON for scripts, as the node tells it.
//!
//! Owns that it is whole, and harmless on a terminal. Must never change what it means.

use std::io::Read;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::ShowError;
use super::screen::Screen;
use crate::ask::{AskError, is_harmless};

const NO_UTF8: &str = "it is not all UTF-8";

/// Passes an answer on as it comes.
pub(super) fn pass_on(body: impl Read, url: &str, screen: &mut Screen) -> Result<(), ShowError> {
    let mut tee = Tee { body, url, screen, tail: Vec::new(), fault: None };
    let read: Result<IgnoredAny, _> = serde_json::from_reader(std::io::BufReader::new(&mut tee));
    if let Some(error) = tee.fault {
        return Err(error.into());
    }
    read.map_err(|error| AskError::of(url, error))?;
    Ok(())
}

/// A whole answer, which is also written if that is wanted.
pub(super) fn keep(
    mut body: impl Read,
    url: &str,
    is_shown: bool,
    screen: &mut Screen,
) -> Result<Value, ShowError> {
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).map_err(|error| AskError::of_io(url, error))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| AskError::Nonsense { url: url.to_owned(), why: NO_UTF8.to_owned() })?;
    let value = serde_json::from_str(&text).map_err(|error| AskError::of(url, error))?;
    if is_shown {
        screen.raw(escaped(text.as_bytes(), &mut Vec::new()).0.as_bytes())?;
    }
    Ok(value)
}

/// Writes what is read through it.
struct Tee<'a, R> {
    body: R,
    url: &'a str,
    screen: &'a mut Screen,
    /// The beginning of a character whose end has not come.
    tail: Vec<u8>,
    fault: Option<std::io::Error>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.body.read(buffer)?;
        let (text, is_utf8) = escaped(&buffer[..length], &mut self.tail);
        if let Err(error) = self.screen.raw(text.as_bytes()) {
            self.fault = Some(error);
            return Err(std::io::Error::other("cannot write"));
        }
        let is_cut = length == 0 && !buffer.is_empty() && !self.tail.is_empty();
        if !is_utf8 || is_cut {
            let (url, why) = (self.url.to_owned(), NO_UTF8.to_owned());
            return Err(std::io::Error::other(AskError::Nonsense { url, why }));
        }
        Ok(length)
    }
}

/// What would harm a terminal as JSON escapes: within a string they mean the same, and elsewhere there is none. False
/// behind the text if it is followed by what is none; the beginning of a character is kept in `tail`.
fn escaped(bytes: &[u8], tail: &mut Vec<u8>) -> (String, bool) {
    tail.extend(bytes);
    let (valid, is_utf8) = match str::from_utf8(tail) {
        Ok(text) => (text, true),
        Err(error) => {
            let valid = str::from_utf8(&tail[..error.valid_up_to()]).unwrap_or_default();
            (valid, error.error_len().is_none())
        }
    };
    let mut text = String::with_capacity(valid.len());
    for c in valid.chars() {
        match c {
            '\n' | '\t' => text.push(c),
            // A space of JSON too, which hides no line.
            '\r' => text.push(' '),
            _ if is_harmless(c) => text.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    let length = valid.len();
    tail.drain(..length);
    (text, is_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_harm_is_escaped_wherever_the_bytes_are_cut() {
        let text =
            "{\"a\": \"x\u{1b}[2J\u{9b}2J\u{7f} \u{a0}ü\u{202e}\u{feff}\u{e0041}\"}\n".as_bytes();
        for at in 0..text.len() {
            let mut tail = Vec::new();
            let (mut out, begins) = escaped(&text[..at], &mut tail);
            let (rest, ends) = escaped(&text[at..], &mut tail);
            out += &rest;
            assert!(begins && ends && tail.is_empty(), "{at}");
            let expected =
                "{\"a\": \"x\\u001b[2J\\u009b2J\\u007f \u{a0}ü\\u202e\\ufeff\\udb40\\udc41\"}\n";
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn what_is_no_utf8_is_not_written() {
        for harm in [&b"\x9b2J"[..], b"\xc2x", b"\xff", b"\xed\xa0\x80"] {
            let text = [b"ab", harm].concat();
            assert_eq!(escaped(&text, &mut Vec::new()), ("ab".to_owned(), false));
        }
    }
}
