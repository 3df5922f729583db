//! JSON for scripts, as the node tells it.
//!
//! Owns that it is whole, and harmless on a terminal. Must never change what it means.

use std::io::Read;

use serde::de::IgnoredAny;
use serde_json::Value;

use super::ShowError;
use super::screen::Screen;
use crate::ask::AskError;

/// Passes an answer on as it comes.
pub(super) fn pass_on(body: impl Read, url: &str, screen: &mut Screen) -> Result<(), ShowError> {
    let mut tee = Tee { body, screen, tail: Vec::new(), fault: None };
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
    let mut text = Vec::new();
    body.read_to_end(&mut text).map_err(|error| AskError::of_io(url, error))?;
    let value = serde_json::from_slice(&text).map_err(|error| AskError::of(url, error))?;
    if is_shown {
        screen.raw(&escaped(&text, &mut Vec::new()))?;
    }
    Ok(value)
}

/// Writes what is read through it.
struct Tee<'a, R> {
    body: R,
    screen: &'a mut Screen,
    /// The beginning of a character whose end has not come.
    tail: Vec<u8>,
    fault: Option<std::io::Error>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.body.read(buffer)?;
        let text = escaped(&buffer[..length], &mut self.tail);
        if let Err(error) = self.screen.raw(&text) {
            self.fault = Some(error);
            return Err(std::io::Error::other("cannot write"));
        }
        Ok(length)
    }
}

/// Control characters as JSON escapes: within a string they mean the same, and elsewhere there are none.
fn escaped(bytes: &[u8], tail: &mut Vec<u8>) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        // U+0080 to U+009F are two bytes, the first one 0xc2.
        if tail.pop().is_some() {
            match byte {
                0x80..0xa0 => text.extend(format!("\\u00{byte:02x}").into_bytes()),
                _ => text.extend([0xc2, byte]),
            }
            continue;
        }
        match byte {
            0xc2 => tail.push(byte),
            b'\n' | b'\r' | b'\t' => text.push(byte),
            0..0x20 | 0x7f => text.extend(format!("\\u00{byte:02x}").into_bytes()),
            _ => text.push(byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_wherever_the_bytes_are_cut() {
        let text = "{\"a\": \"x\u{1b}[2J\u{9b}2J\u{7f} \u{a0}ü\"}\n".as_bytes();
        for at in 0..text.len() {
            let mut tail = Vec::new();
            let mut out = escaped(&text[..at], &mut tail);
            out.extend(escaped(&text[at..], &mut tail));
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out, "{\"a\": \"x\\u001b[2J\\u009b2J\\u007f \u{a0}ü\"}\n");
        }
    }
}
