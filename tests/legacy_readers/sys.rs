//! System calls of the matrix that no crate of this project wraps: namespaces, and tun devices.
//!
//! Owns all unsafe code of the matrix. Must never touch the namespace that the test was started in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Moves this thread into a new network namespace.
pub fn new_network() -> io::Result<File> {
    // SAFETY: the call takes no pointers; it moves this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    File::open("/proc/thread-self/ns/net")
}

/// Moves this thread into a network namespace.
pub fn enter_network(network: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call moves this thread alone.
    if unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// For how long this thread could have run and had no CPU, in nanoseconds; 0 where the kernel does not tell.
pub fn waited_ns() -> u64 {
    schedule("/proc/thread-self/schedstat").1
}

/// Nanoseconds on a CPU, and waiting for one, of all threads of a process.
pub fn schedule_of(process: u32) -> (u64, u64) {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let times = tasks.map(|task| schedule(task.path().join("schedstat")));
    times.fold((0, 0), |sum, times| (sum.0 + times.0, sum.1 + times.1))
}

fn schedule(file: impl AsRef<std::path::Path>) -> (u64, u64) {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut times = text.split_whitespace().map(|time| time.parse().unwrap_or_default());
    (times.next().unwrap_or_default(), times.next().unwrap_or_default())
}

/// Makes a tun device in this thread's namespace: a read or write is one IP packet, and never waits.
pub fn tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: all zeros are a value of this struct of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "a device's name is short");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes the struct, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
