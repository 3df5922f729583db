//! System calls of the matrix that no crate of this project wraps: namespaces, and tun devices.
//!
//! Owns all unsafe code of the matrix. Must never touch the namespace that the test was started in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

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

/// Makes a tun device in this thread's namespace: a read or write is one IP packet.
pub fn tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
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
