//! What this host knows of an address.
//!
//! Owns the questions whether it can be had, now or at all. Must never wait for it.

use std::io;
use std::net::IpAddr;

/// The kernel was built or started without it, or the service is not allowed to use it.
pub(super) fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// No interface has the address, or has it but must not use it yet.
pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

pub(super) fn is_tentative(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else { return false };
    let digits: String = address.octets().iter().map(|byte| format!("{byte:02x}")).collect();
    let interfaces = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    // Address, index, prefix length, scope, flags (all hexadecimal), name.
    interfaces.lines().filter(|line| line.starts_with(&digits)).any(|line| {
        let flags = line.split_whitespace().nth(4).map(|flags| u32::from_str_radix(flags, 16));
        matches!(flags, Some(Ok(flags)) if flags & libc::IFA_F_TENTATIVE != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tentative_addresses_are_tentative() {
        for address in ["::1", "127.0.0.1", "2001:db8::77"] {
            assert!(!is_tentative(address.parse().unwrap()), "{address}");
        }
    }
}
