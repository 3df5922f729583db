//! The one timer of a shard's thread, exact to microseconds.
//!
//! Owns the descriptor that becomes readable in time. Must never be set where nothing has changed: that is a
//! system call.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::ready;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer that is set anew at will. Tokio's own has steps of a millisecond, and one on the ring cannot be
/// moved without a further operation.
pub(super) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// One that is not set. To be called on the thread whose runtime shall wait for it.
    ///
    /// # Errors
    /// The kernel's: too many open files.
    pub(super) fn new() -> io::Result<Alarm> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is the same for as long as the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register(descriptor)? };
        Ok(Alarm(registered))
    }

    /// Goes off after this time, and no longer when it was set for; None for never.
    pub(super) fn set(&self, after: Option<Duration>) {
        // Zero would be never.
        let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(after).unwrap_or(Timespec { tv_sec: i64::MAX, ..zero });
        let once = Itimerspec { it_interval: zero, it_value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)
            .expect("a time that is one, and a descriptor of ours");
    }

    /// Waits until it goes off.
    pub(super) async fn rings(&self) {
        // Each end of a time is an event of its own: nothing has to be read.
        let ready = poll_fn(|context| {
            let ready = ready!(self.0.poll_read_ready(context));
            std::task::Poll::Ready(ready.map(|mut guard| guard.clear_ready()))
        });
        ready.await.expect("the runtime lives as long as its tasks");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_once_for_each_time_and_can_be_moved() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let alarm = Alarm::new().unwrap();
            for _ in 0..3 {
                alarm.set(Some(Duration::from_secs(3600)));
                alarm.set(Some(Duration::from_micros(60)));
                alarm.rings().await;
            }
            alarm.set(Some(Duration::ZERO));
            alarm.rings().await;
            alarm.set(Some(Duration::from_micros(60)));
            alarm.set(None);
            let rings = tokio::time::timeout(Duration::from_millis(20), alarm.rings()).await;
            assert!(rings.is_err(), "it was put off");
        });
    }
}
