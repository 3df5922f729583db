//! Log lines on their way to stderr, and the thread that writes them.
//!
//! Owns the bound on what waits and the count of what did not fit. Must never let a thread that logs
//! wait for whoever reads the log: that may be a pipe which nobody reads, or a full disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metalbond_uring::internals::vital;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// Between two attempts at a descriptor that somebody made non-blocking and that is full.
const PAUSE: Duration = Duration::from_millis(20);

/// How often the thread looks up.
const TICK: Duration = Duration::from_secs(1);

/// When there may be something to log about the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// Some time has passed.
    Tick,
    /// There is room again, after some lines did not fit and some could not be written.
    Missing {
        /// Lines that did not fit.
        left_out: u64,
        /// Lines that failed.
        failed: u64,
    },
}

/// Takes lines from any thread, without waiting.
#[derive(Clone, Debug, Default)]
pub struct LogQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line was taken out and is not written yet.
    is_writing: bool,
    /// Lines that did not fit.
    left_out: u64,
}

impl LogQueue {
    /// Queues a line, which ends with a line feed, or counts it if there is no room.
    pub fn push(&self, line: &[u8]) {
        let mut pending = self.shared.pending();
        if pending.bytes + line.len() > PENDING_BYTES_MAX {
            pending.left_out += 1;
            return;
        }
        pending.bytes += line.len();
        pending.lines.push_back(line.to_vec());
        self.shared.filled.notify_one();
    }

    /// Waits until everything is written, but not longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let pending = self.shared.pending();
        let is_busy = |pending: &mut Pending| pending.is_writing || !pending.lines.is_empty();
        // Whether it was in time or not: there is nothing more to be done.
        let _ = self.shared.emptied.wait_timeout_while(pending, patience, is_busy);
    }

    /// Starts the thread that writes to this process's stderr. It calls `on` at each occasion to log
    /// something about the log itself.
    ///
    /// # Errors
    /// No descriptor or no thread.
    pub fn write_to_stderr(&self, on: impl Fn(Occasion) + Send + 'static) -> io::Result<()> {
        // Not std's handle: its lock would be held while a write is stuck.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let shared = Arc::clone(&self.shared);
        vital::spawn("log", move || shared.write_all(stderr, on))?;
        Ok(())
    }
}

impl Shared {
    #[allow(clippy::disallowed_methods)] // the program's log has a clock of its own
    fn write_all(&self, mut to: impl Write, on: impl Fn(Occasion)) {
        let (mut failed, mut ticked_at) = (0u64, Instant::now());
        loop {
            let line = self.next_line(TICK);
            if ticked_at.elapsed() >= TICK {
                ticked_at = Instant::now();
                on(Occasion::Tick);
            }
            let Some(line) = line else { continue };
            let is_written = write_line(&mut to, &line).is_ok();
            failed += u64::from(!is_written);
            let left_out = self.dealt_with(line.len(), is_written);
            if is_written && (left_out > 0 || failed > 0) {
                let failed = std::mem::take(&mut failed);
                on(Occasion::Missing { left_out, failed });
            }
        }
    }

    /// None if none came in time.
    fn next_line(&self, patience: Duration) -> Option<Vec<u8>> {
        let pending = self.pending();
        let is_empty = |pending: &mut Pending| pending.lines.is_empty();
        let waited = self.filled.wait_timeout_while(pending, patience, is_empty);
        let (mut pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let line = pending.lines.pop_front()?;
        pending.is_writing = true;
        Some(line)
    }

    /// A line is written, or could not be. Returns how many were left out, once they can be told.
    fn dealt_with(&self, bytes: usize, is_written: bool) -> u64 {
        let mut pending = self.pending();
        pending.is_writing = false;
        pending.bytes -= bytes;
        if pending.lines.is_empty() {
            self.emptied.notify_all();
        }
        if !is_written || pending.bytes > PENDING_BYTES_MAX / 2 {
            return 0;
        }
        std::mem::take(&mut pending.left_out)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Each change is complete before anything can panic.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The formatter's writer: one call of `write` is one line.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LogQueue;

    fn make_writer(&'a self) -> LogQueue {
        self.clone()
    }
}

fn write_line(to: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match to.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Returns what is said about missing lines.
    fn start(queue: &LogQueue, to: impl Write + Send + 'static) -> Arc<Mutex<Vec<Occasion>>> {
        let (shared, said) = (Arc::clone(&queue.shared), Arc::<Mutex<Vec<Occasion>>>::default());
        let says = Arc::clone(&said);
        let on = move |occasion| {
            if occasion != Occasion::Tick {
                says.lock().unwrap().push(occasion);
            }
        };
        std::thread::Builder::new().spawn(move || shared.write_all(to, on)).unwrap();
        said
    }

    /// A disk that is full for its first `failing` lines.
    struct Disk {
        failing: usize,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.failing > 0 {
                self.failing -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_counted() {
        let queue = LogQueue::default();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let said = start(&queue, writer);
        let line = [b'x'; 1000];
        for _ in 0..10_000 {
            queue.push(&line); // would never return if it waited
        }
        let pending = |queue: &LogQueue| {
            let pending = queue.shared.pending();
            (pending.bytes, pending.left_out)
        };
        let (bytes, left_out) = pending(&queue);
        assert!(bytes <= PENDING_BYTES_MAX && left_out > 8_000, "{bytes} bytes, {left_out} lines");
        queue.flush(Duration::from_millis(20)); // comes back although nothing moves
        // Somebody reads again: the count is taken up once there is room.
        std::thread::Builder::new()
            .spawn(move || std::io::copy(&mut reader, &mut std::io::sink()))
            .unwrap();
        queue.flush(Duration::from_secs(30));
        assert_eq!(pending(&queue), (0, 0));
        assert_eq!(*said.lock().unwrap(), [Occasion::Missing { left_out, failed: 0 }]);
    }

    #[test]
    fn write_errors_are_swallowed_and_counted() {
        let queue = LogQueue::default();
        let said = start(&queue, Disk { failing: 60 });
        for _ in 0..100 {
            queue.push(b"line\n");
        }
        queue.flush(Duration::from_secs(30));
        assert_eq!(*said.lock().unwrap(), [Occasion::Missing { left_out: 0, failed: 60 }]);
    }

    #[test]
    fn time_is_told_although_lines_keep_coming() {
        let (queue, told) = (LogQueue::default(), Arc::<Mutex<usize>>::default());
        let (shared, tells) = (Arc::clone(&queue.shared), Arc::clone(&told));
        let on = move |occasion| *tells.lock().unwrap() += usize::from(occasion == Occasion::Tick);
        std::thread::Builder::new()
            .spawn(move || shared.write_all(Disk { failing: 0 }, on))
            .unwrap();
        for _ in 0..6_000 {
            queue.push(b"line\n");
            if *told.lock().unwrap() > 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no tick in 30 s");
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let queue = LogQueue::default();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap(); // somebody else's doing: it is waited for
        start(&queue, writer);
        let wanted: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
        for line in wanted.split_inclusive('\n') {
            queue.push(line.as_bytes());
        }
        let mut read = vec![0; wanted.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read == wanted.as_bytes());
    }
}
