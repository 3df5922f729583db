//! What an answer may be at most, so that it cannot fill the memory.
//!
//! Owns the length of a text, the depth and the length of the whole. Must never keep a byte.

use std::io::Read;

use super::AskError;

/// Bytes of one text or number: the longest that nodes tell are reasons and names.
const TOKEN_BYTES_MAX: usize = 4_096;
/// Brackets that are open at a time. JSON readers stop at 128, but not amid what they leave out.
const DEPTH_MAX: usize = 128;

/// JSON that ends by an error where it is more than an answer can be.
pub(crate) struct Bounded<R> {
    inner: R,
    url: String,
    /// Bytes that may follow.
    left: u64,
    token_bytes: usize,
    depth: usize,
    is_text: bool,
    /// Within a text, behind a backslash.
    is_escape: bool,
}

impl<R> Bounded<R> {
    pub(crate) fn new(inner: R, url: &str, bytes_max: u64) -> Bounded<R> {
        Bounded {
            inner,
            url: url.to_owned(),
            left: bytes_max,
            token_bytes: 0,
            depth: 0,
            is_text: false,
            is_escape: false,
        }
    }

    /// Whether the next byte may stand there.
    fn take(&mut self, byte: u8) -> Result<(), String> {
        self.token_bytes += 1;
        if self.is_text {
            self.is_text = self.is_escape || byte != b'"';
            self.is_escape = !self.is_escape && byte == b'\\';
        } else {
            match byte {
                b'"' => self.is_text = true,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if byte.is_ascii_whitespace() || b"\"[]{},:".contains(&byte) {
                self.token_bytes = 0;
            }
        }
        if self.token_bytes > TOKEN_BYTES_MAX {
            return Err(format!(
                "a text of more than {TOKEN_BYTES_MAX} bytes is no table of routes, nor of anything else here"
            ));
        }
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} brackets are open"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let mut checked = Ok(());
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => checked = Err("it is longer than any such answer".to_owned()),
        }
        for byte in &buffer[..length] {
            checked = checked.and_then(|()| self.take(*byte));
        }
        match checked {
            Ok(()) => Ok(length),
            Err(why) => {
                let url = self.url.clone();
                Err(std::io::Error::other(AskError::Nonsense { url, why }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, bytes_max: u64) -> Result<usize, String> {
        let mut read = Vec::new();
        let mut bounded = Bounded::new(text.as_bytes(), "here", bytes_max);
        let result = bounded.read_to_end(&mut read);
        result.map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_too_much_is_an_error() {
        let text = |bytes: usize| format!("[1, \"\\\"{}\"]", "x".repeat(bytes));
        let whole = text(TOKEN_BYTES_MAX - 3);
        assert_eq!(read(&whole, whole.len() as u64), Ok(whole.len()));
        assert!(read(&whole, whole.len() as u64 - 1).unwrap_err().contains("longer than any"));
        assert!(read(&text(TOKEN_BYTES_MAX), u64::MAX).unwrap_err().contains("no table of routes"));
        let number = "7".repeat(TOKEN_BYTES_MAX + 1);
        assert!(read(&number, u64::MAX).unwrap_err().contains("no table of routes"));
        // No text, however many bytes: short ones, and spaces.
        for many in ["\"x\",", " ", "[]", "\"[\"", "1,"] {
            assert!(read(&many.repeat(10_000), u64::MAX).is_ok(), "{many}");
        }
        assert!(read(&"[".repeat(DEPTH_MAX), u64::MAX).is_ok());
        assert!(read(&"[".repeat(DEPTH_MAX + 1), u64::MAX).unwrap_err().contains("brackets"));
    }
}
