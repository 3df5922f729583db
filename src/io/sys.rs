//! System calls: TCP_INFO, keys of signatures, a signal to ignore and the allocator, which no crate wraps, and some
//! that one does.
//!
//! Owns the unsafe code of this module. Must never block, and never keep a descriptor.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use rustix::net::RecvFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::shard::TcpSample;

/// The host's name, as it calls itself.
#[cfg(feature = "cli")]
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the kernel knows about a TCP connection. Fields that this kernel does not have are 0.
///
/// # Errors
/// The kernel's, for a descriptor that is not a TCP socket.
pub(super) fn tcp_sample(socket: BorrowedFd<'_>) -> io::Result<TcpSample> {
    // First, or what is acknowledged in between would count as room in the window.
    let queued_bytes = unacknowledged_bytes(socket)?;
    let mut tcp_info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the struct.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            tcp_info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all fields are integers, and an older kernel's shorter answer leaves the rest zero.
    let tcp_info = unsafe { tcp_info.assume_init() };
    let window_end = mem::offset_of!(libc::tcp_info, tcpi_snd_wnd) + mem::size_of::<u32>();
    let has_window = length as usize >= window_end;
    Ok(TcpSample {
        snd_mss: tcp_info.tcpi_snd_mss,
        queued_bytes,
        snd_cwnd: tcp_info.tcpi_snd_cwnd,
        unacked_segments: tcp_info.tcpi_unacked,
        bytes_acked: tcp_info.tcpi_bytes_acked,
        bytes_received: tcp_info.tcpi_bytes_received,
        data_segments_received: tcp_info.tcpi_data_segs_in,
        total_retrans: tcp_info.tcpi_total_retrans,
        dsack_dups: tcp_info.tcpi_dsack_dups,
        delivered_ce: tcp_info.tcpi_delivered_ce,
        reord_seen: tcp_info.tcpi_reord_seen,
        rcv_ooopack: tcp_info.tcpi_rcv_ooopack,
        min_rtt_us: tcp_info.tcpi_min_rtt,
        rtt_us: tcp_info.tcpi_rtt,
        snd_wnd: if has_window { tcp_info.tcpi_snd_wnd } else { u32::MAX },
    })
}

/// Bytes that the kernel was given and that the peer's has not acknowledged (SIOCOUTQ). A tenth of what TCP_INFO
/// costs.
///
/// # Errors
/// The kernel's, for a descriptor that is not a socket, or one that listens.
pub(super) fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int there, and keeps nothing.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// The bytes that a key may have at most.
pub(super) const MD5_KEY_BYTES_MAX: usize = 80;

/// `struct tcp_md5sig` of linux/tcp.h. Its address is a `sockaddr_storage`, written as bytes.
#[repr(C, align(8))]
struct TcpMd5Sig {
    address: [u8; 128],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    interface: u32,
    key: [u8; MD5_KEY_BYTES_MAX],
}

/// Has a socket sign what it sends to `addresses`, and demand that of them (TCP_MD5SIG_EXT). To be called before it
/// connects, or while it listens. In an IPv6 socket IPv4 addresses are mapped, and keep their prefix length.
///
/// # Errors
/// The kernel's: `ENOPROTOOPT` or `ENOENT` if it cannot sign, `ENOMEM` beyond net.core.optmem_max.
pub(super) fn set_md5_key(
    socket: BorrowedFd<'_>,
    is_ipv6: bool,
    addresses: IpNet,
    key: &[u8],
) -> io::Result<()> {
    const TCP_MD5SIG_EXT: libc::c_int = 32;
    const HAS_PREFIX: u8 = 1;
    let mut argument = TcpMd5Sig {
        address: [0; 128],
        flags: HAS_PREFIX,
        prefix_len: addresses.prefix_len(),
        key_len: u16::try_from(key.len()).unwrap_or(u16::MAX),
        interface: 0,
        key: [0; MD5_KEY_BYTES_MAX],
    };
    let Some(room) = argument.key.get_mut(..key.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(key);
    // Of `sockaddr_in` and `sockaddr_in6`: the family, and where the address begins.
    let (family, at, octets) = match (addresses.addr(), is_ipv6) {
        (IpAddr::V4(ipv4), false) => (libc::AF_INET, 4, ipv4.octets().to_vec()),
        (IpAddr::V4(ipv4), true) => (libc::AF_INET6, 8, ipv4.to_ipv6_mapped().octets().to_vec()),
        (IpAddr::V6(ipv6), _) => (libc::AF_INET6, 8, ipv6.octets().to_vec()),
    };
    argument.address[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
    argument.address[at..at + octets.len()].copy_from_slice(&octets);
    // SAFETY: the kernel reads the struct, whose length is given, and keeps nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_MD5SIG_EXT,
            (&raw const argument).cast(),
            mem::size_of::<TcpMd5Sig>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads what a socket has, without waiting: the number of bytes, 0 at its end.
///
/// # Errors
/// `WouldBlock` if it has nothing, or the kernel's.
pub fn receive_ready(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (length, _) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(length)
}

/// A file that has reached its largest size (RLIMIT_FSIZE) gives an error to who writes, instead of ending
/// the process: the log may be such a file.
pub fn survive_file_size_limit() {
    // SAFETY: SIG_IGN runs no code, and nothing else in this program cares for the signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Has the allocator give back to the system what is free. It locks its arenas one by one meanwhile.
pub(super) fn give_back_free_memory() {
    // SAFETY: the call takes no pointer, and may be made from any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Raises the limit of open descriptors to what the administrator allows, and returns it.
///
/// # Errors
/// The kernel's; the limit is then as it was.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn samples_count_bytes() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[7; 300]).unwrap();
        client.read_exact(&mut [0; 300]).unwrap();

        let sample = tcp_sample(server.as_fd()).unwrap();
        assert_eq!((sample.bytes_received, sample.rcv_ooopack), (1000, 0));
        assert!((500..=65_536).contains(&sample.snd_mss), "{sample:?}");
        assert!(sample.snd_wnd > 1000 && sample.min_rtt_us > 0, "{sample:?}");

        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(tcp_sample(file.as_fd()).is_err());
    }

    #[test]
    fn descriptor_limit_is_the_hard_one() {
        let limit = raise_descriptor_limit().unwrap();
        assert!(limit >= 256);
        assert_eq!(raise_descriptor_limit().unwrap(), limit);
    }
}
