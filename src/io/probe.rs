//! Whether io_uring works here, and if not, what forbids it.
//!
//! Owns the ring's set-up flags and the words for the operator. Must never change a setting itself.

use std::fs;
use std::io;

use thiserror::Error;

/// Submissions that one turn of a shard hands over in one system call.
const ENTRIES: u32 = 1024;

/// Completions that wait in the ring: several for each peer of a full shard.
const COMPLETIONS: u32 = 16_384;

/// Why io_uring cannot be used, and what to change.
#[derive(Error, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ProbeError {
    /// The sysctl forbids it (1: to unprivileged processes, 2: to all).
    #[error(
        "io_uring is forbidden: kernel.io_uring_disabled = {setting}. Allow it with `sysctl -w \
         kernel.io_uring_disabled=0`{}",
        if *setting == 1 { ", or put this user into the group of kernel.io_uring_group" } else { "" }
    )]
    Sysctl {
        /// The value found.
        setting: u8,
    },
    /// A seccomp filter, as container runtimes install, or a security module.
    #[error(
        "io_uring is forbidden: io_uring_setup returned EPERM though the sysctl allows it, most likely by \
         the container's seccomp profile. Allow io_uring_setup, io_uring_enter and io_uring_register in \
         it (docker/podman: --security-opt seccomp=PROFILE.json; Kubernetes: securityContext.\
         seccompProfile of type Localhost)"
    )]
    Seccomp,
    /// The system call is missing.
    #[error(
        "io_uring is missing: io_uring_setup returned ENOSYS on kernel {release}. Either the kernel is \
         built without CONFIG_IO_URING, or the container's seccomp profile hides it (docker/podman: \
         --security-opt seccomp=PROFILE.json; Kubernetes: securityContext.seccompProfile of type \
         Localhost). Linux 6.0 or later is needed"
    )]
    Missing {
        /// `uname -r`.
        release: String,
    },
    /// The kernel does not know the flags.
    #[error(
        "kernel {release} is too old: Linux 6.0 or later is needed (IORING_SETUP_SINGLE_ISSUER)"
    )]
    TooOld {
        /// `uname -r`.
        release: String,
    },
    /// Locked memory.
    #[error(
        "no memory for the ring (ENOMEM): raise the limit of locked memory (`ulimit -l`, systemd: \
         LimitMEMLOCK=infinity) or the memory limit of the container"
    )]
    Memory,
    /// No descriptor left for the ring.
    #[error("no descriptor for the ring: raise `ulimit -n` (systemd: LimitNOFILE)")]
    Descriptors,
    /// Anything else.
    #[error("io_uring does not work here: {message} (kernel {release})")]
    Other {
        /// The kernel's error.
        message: String,
        /// `uname -r`.
        release: String,
    },
}

/// The runtime of a shard: only its own thread submits, and completions need no interrupt.
/// (DEFER_TASKRUN would hang, since tokio-uring waits in epoll and not in the ring.)
pub fn runtime_builder() -> tokio_uring::Builder {
    let mut builder = tokio_uring::builder();
    builder.entries(ENTRIES).uring_builder(&ring_builder());
    builder
}

/// Builds a ring as the shards will, and drops it.
///
/// # Errors
/// What forbids io_uring, in words for the operator.
pub fn probe() -> Result<(), ProbeError> {
    match ring_builder().build(ENTRIES) {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(&error)),
    }
}

/// Puts a failed set-up of a ring into words.
pub fn explain(error: &io::Error) -> ProbeError {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    classify(error, setting.as_deref(), release.trim())
}

fn ring_builder() -> io_uring::Builder {
    let mut builder = tokio_uring::uring_builder();
    builder.setup_coop_taskrun().setup_single_issuer().setup_cqsize(COMPLETIONS);
    builder
}

fn classify(error: &io::Error, setting: Option<&str>, release: &str) -> ProbeError {
    let release = release.to_owned();
    match (error.raw_os_error(), setting.map(str::trim)) {
        (Some(libc::EPERM), Some("1")) => ProbeError::Sysctl { setting: 1 },
        (Some(libc::EPERM), Some("2")) => ProbeError::Sysctl { setting: 2 },
        (Some(libc::EPERM | libc::EACCES), _) => ProbeError::Seccomp,
        (Some(libc::ENOSYS), _) => ProbeError::Missing { release },
        (Some(libc::EINVAL), _) if is_before_6(&release) => ProbeError::TooOld { release },
        (Some(libc::ENOMEM), _) => ProbeError::Memory,
        (Some(libc::EMFILE | libc::ENFILE), _) => ProbeError::Descriptors,
        _ => ProbeError::Other { message: error.to_string(), release },
    }
}

fn is_before_6(release: &str) -> bool {
    let major = release.split('.').next().unwrap_or_default();
    major.parse::<u32>().is_ok_and(|major| major < 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(errno: i32, setting: Option<&str>) -> ProbeError {
        classify(&io::Error::from_raw_os_error(errno), setting, "5.15.0")
    }

    #[test]
    fn says_what_forbids_it() {
        for (errno, setting, expected, words) in [
            (libc::EPERM, Some("1\n"), ProbeError::Sysctl { setting: 1 }, "io_uring_group"),
            (libc::EPERM, Some("2\n"), ProbeError::Sysctl { setting: 2 }, "io_uring_disabled=0"),
            (libc::EPERM, Some("0\n"), ProbeError::Seccomp, "seccomp"),
            (libc::EPERM, None, ProbeError::Seccomp, "seccomp"),
            (libc::ENOMEM, Some("0\n"), ProbeError::Memory, "ulimit -l"),
            (libc::EMFILE, Some("0\n"), ProbeError::Descriptors, "ulimit -n"),
        ] {
            let error = classified(errno, setting);
            assert_eq!(error, expected);
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(!classified(libc::EPERM, Some("2")).to_string().contains("group"));
    }

    #[test]
    fn names_the_kernel() {
        for errno in [libc::EINVAL, libc::ENOSYS, libc::EIO] {
            let error = classified(errno, Some("0"));
            assert!(error.to_string().contains("5.15.0"), "{error}");
        }
        assert!(matches!(classified(libc::EINVAL, None), ProbeError::TooOld { .. }));
        assert!(matches!(classified(libc::ENOSYS, None), ProbeError::Missing { .. }));
    }

    #[test]
    fn a_new_kernel_is_not_called_old() {
        let invalid = io::Error::from_raw_os_error(libc::EINVAL);
        for release in ["6.0.1", "6.18.44-test", "10.1", "strange"] {
            let error = classify(&invalid, None, release);
            assert!(matches!(error, ProbeError::Other { .. }), "{error}");
        }
    }

    #[test]
    fn works_here_or_says_why() {
        if let Err(error) = probe() {
            eprintln!("no io_uring on this machine: {error}");
            assert!(!matches!(error, ProbeError::Other { .. }), "{error}");
        }
    }
}
