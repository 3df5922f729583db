//! Where it is shown: a terminal, or a pipe or file.
//!
//! Owns stdout. Must never colour what is no terminal, nor take a reader that went away for a fault.

use std::ffi::OsString;
use std::io::{BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

use metalbond_uring::internals::cli::PROGRAM;

use super::table::{Colour, cut, painted};

/// Where lines go.
pub(super) struct Screen {
    out: BufWriter<StdoutLock<'static>>,
    /// Columns, if it is a terminal.
    pub(super) width: Option<usize>,
    pub(super) has_colours: bool,
    /// Lines of a terminal that is written over and over.
    height: Option<usize>,
    /// Lines that there is still room for.
    left: Option<usize>,
    is_first: bool,
}

impl Screen {
    /// Of this process; `is_watched` if all is shown again and again in place.
    pub(super) fn new(is_watched: bool) -> Screen {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let size = is_terminal.then(|| size(&stdout));
        Screen {
            has_colours: is_terminal && wants_colours(|name| std::env::var_os(name)),
            width: size.map(|(width, _)| width),
            height: size.filter(|_| is_watched).map(|(_, height)| height),
            left: None,
            out: BufWriter::with_capacity(64 << 10, stdout.lock()),
            is_first: true,
        }
    }

    /// Begins anew: in place on a terminal, else behind an empty line.
    pub(super) fn begin(&mut self) -> std::io::Result<()> {
        let is_first = std::mem::take(&mut self.is_first);
        if self.height.is_some() {
            // Its size may have changed.
            let (width, height) = size(std::io::stdout());
            (self.width, self.height, self.left) = (Some(width), Some(height), Some(height));
            return self.out.write_all(b"\x1b[H");
        }
        if is_first { Ok(()) } else { self.out.write_all(b"\n") }
    }

    /// Writes a line, which has no line feed. False if there is no room for another.
    pub(super) fn line(&mut self, line: &str) -> std::io::Result<bool> {
        match &mut self.left {
            None => {
                self.out.write_all(line.as_bytes())?;
                self.out.write_all(b"\n")?;
                Ok(true)
            }
            // The last line of the terminal stays empty.
            Some(left) if *left > 2 => {
                *left -= 1;
                write!(self.out, "{line}\x1b[K\r\n")?;
                Ok(true)
            }
            Some(0) => Ok(false),
            Some(left) => {
                *left = 0;
                self.out.write_all(b"\xe2\x80\xa6\x1b[K\r\n")?;
                Ok(false)
            }
        }
    }

    /// Whether it is a terminal that is written over and over.
    pub(super) fn is_in_place(&self) -> bool {
        self.height.is_some()
    }

    /// Says something that is no part of what is shown.
    pub(super) fn note(&mut self, text: &str) -> std::io::Result<()> {
        if self.is_in_place() {
            return self.heading(text).map(drop);
        }
        self.out.flush()?;
        // If nobody listens, what is shown counts.
        let _ = writeln!(std::io::stderr(), "{PROGRAM} show: {text}");
        Ok(())
    }

    /// A line that is a heading.
    pub(super) fn heading(&mut self, text: &str) -> std::io::Result<bool> {
        let text = cut(text, &mut self.width.unwrap_or(usize::MAX));
        let text = if self.has_colours { painted(&text, Colour::Heading) } else { text };
        self.line(&text)
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends what [`Screen::begin`] began.
    pub(super) fn end(&mut self) -> std::io::Result<()> {
        if self.height.is_some() {
            self.out.write_all(b"\x1b[J")?;
        }
        self.out.flush()
    }
}

/// Whether the reader has enough (`| head`).
pub(super) fn is_closed(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

fn size(terminal: impl std::os::fd::AsFd) -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(terminal).ok();
    let of =
        |size: Option<u16>, default| size.filter(|size| *size > 0).map_or(default, usize::from);
    (of(size.map(|size| size.ws_col), 80), of(size.map(|size| size.ws_row), 24))
}

/// Whether the environment has nothing against it.
fn wants_colours(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && variable("TERM").is_none_or(|value| value != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_refuse_colours() {
        let wants = |name: &'static str, value: &'static str| {
            wants_colours(|asked| (asked == name).then(|| value.into()))
        };
        assert!(wants("TERM", "xterm") && wants("NO_COLOR", "") && wants("", ""));
        assert!(!wants("NO_COLOR", "1") && !wants("TERM", "dumb"));
    }
}
