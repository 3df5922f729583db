//! The service manager, systemd: it is told that the service is up, that it still answers, and that it ends.
//!
//! Owns what goes to NOTIFY_SOCKET. Must never wait long for whoever reads there, and never call a node alive whose
//! shards do not all answer.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use metalbond_uring::internals::io::Asker;
use metalbond_uring::internals::vital;
use tracing::warn;

/// How long a line may wait for room in the manager's socket.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);
/// What the manager's patience is taken for, whatever it says.
const PATIENCE_MIN: Duration = Duration::from_millis(2);
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Says that the service is up, and that it is this process from now on if it took over from another one. If the manager
/// has a watchdog, it is told from now on that all shards answer; one that does not is left to it.
///
/// # Errors
/// If the watchdog's thread cannot start.
pub fn ready(asker: &Asker, took_over: bool) -> io::Result<()> {
    if socket().is_none() {
        return Ok(());
    }
    match took_over {
        true => tell(&format!("MAINPID={}\nREADY=1\n", std::process::id())),
        false => tell("READY=1\n"),
    }
    let set = |name| std::env::var(name).ok();
    let patience = patience(set("WATCHDOG_USEC"), set("WATCHDOG_PID"), std::process::id());
    if let Some(patience) = patience {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let asker = asker.clone();
        let body = move || runtime.block_on(watch(&asker, patience));
        vital::spawn("watchdog", body)?;
    }
    Ok(())
}

/// Says that the service is about to end.
pub fn stopping() {
    tell("STOPPING=1\n");
}

/// Says it, if there is a manager. What it does not take is lost.
fn tell(words: &str) {
    let Some(socket) = socket() else { return };
    if let Err(error) = send(&socket, words.as_bytes()) {
        warn!("the service manager at NOTIFY_SOCKET={socket:?} was not told {words:?}: {error}");
    }
}

/// Where the manager reads, if there is one.
fn socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
}

fn send(name: &OsStr, words: &[u8]) -> io::Result<()> {
    let address = match name.as_bytes() {
        // An abstract one: it has no file.
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TELL_TIMEOUT))?;
    socket.connect_addr(&address)?;
    socket.send(words).map(drop)
}

/// How long the watchdog waits for a word, if there is one and it is for this process.
fn patience(microseconds: Option<String>, of: Option<String>, id: u32) -> Option<Duration> {
    if of.is_some_and(|of| of.parse() != Ok(id)) {
        return None;
    }
    let microseconds = microseconds?;
    match microseconds.parse() {
        Ok(0) => None,
        Ok(number) => Some(Duration::from_micros(number).clamp(PATIENCE_MIN, PATIENCE_MAX)),
        Err(_) => {
            warn!("WATCHDOG_USEC={microseconds:?} is no number: there is no watchdog");
            None
        }
    }
}

/// Until the shards end.
async fn watch(asker: &Asker, patience: Duration) {
    while all_answer(asker, patience).await.is_some() {
        tell("WATCHDOG=1\n");
        tokio::time::sleep(patience / 2).await;
    }
}

/// Asks each shard, and waits for a late one, however long. None if one has ended.
async fn all_answer(asker: &Asker, patience: Duration) -> Option<()> {
    for shard in asker.shards() {
        // Whatever others ask it meanwhile.
        let answer = asker.pulse(shard);
        tokio::pin!(answer);
        let answered = match tokio::time::timeout(patience, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                let index = shard.0;
                warn!("shard {index} has not answered for {patience:?}: the watchdog is not told");
                answer.await
            }
        };
        answered?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let patience = |microseconds: &str, of: Option<&str>| {
            patience(Some(microseconds.to_owned()), of.map(str::to_owned), 7)
        };
        assert_eq!(patience("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(patience("30000000", Some("7")), Some(Duration::from_secs(30)));
        assert_eq!(patience("30000000", Some("8")), None);
        assert_eq!(patience("30000000", Some("")), None);
        assert_eq!(super::patience(None, None, 7), None);
        for nonsense in ["", "0", "-1", "30s", "18446744073709551616"] {
            assert_eq!(patience(nonsense, None), None, "{nonsense}");
        }
        assert_eq!(patience("1", None), Some(PATIENCE_MIN));
        assert_eq!(patience("18446744073709551615", None), Some(PATIENCE_MAX));
    }
}
