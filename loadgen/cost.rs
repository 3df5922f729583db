//! What a process costs: CPU time and resident memory.
//!
//! Owns the reading of clocks and of /proc. Must never fail a run: a process that cannot be read costs
//! nothing known.

use std::fs;
use std::io;

/// The highest number that Linux gives a process. (A higher one would become another clock's id.)
const PID_MAX: u32 = 1 << 22;

/// CPU time of a process so far, all its threads, user and system, in nanoseconds.
///
/// The same sum as `utime + stime` in /proc/PID/stat, which has ticks of 10 ms: too coarse for short stages.
///
/// # Errors
/// If there is no such process, or the kernel does not tell.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    if pid > PID_MAX {
        return Err(io::ErrorKind::NotFound.into());
    }
    let pid = pid as libc::pid_t;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the function writes the id of a clock and nothing else.
    let error = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    clock_ns(clock)
}

/// CPU time of loadgen itself, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// CPU time of this thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// Resident memory of a process and its highest value so far, in bytes: VmRSS and VmHWM of /proc/PID/status.
///
/// # Errors
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> io::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib = line.trim_start_matches(':').trim().strip_suffix("kB")?.trim();
        kib.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    // A process that has ended, and was not waited for, has a status without memory.
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    Ok((bytes("VmRSS").ok_or_else(missing)?, bytes("VmHWM").ok_or_else(missing)?))
}

fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the struct that it is given.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_costs_grow() {
        let before = cpu_ns(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_ns(std::process::id()).unwrap() < before + 20_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own_cpu_ns() >= before + 20_000_000);
        let (resident, highest) = resident_bytes(std::process::id()).unwrap();
        assert!(resident > 500_000 && highest >= resident, "{resident} {highest}");
    }

    #[test]
    fn nobody_costs_nothing_known() {
        for pid in [PID_MAX, PID_MAX + 1, i32::MAX as u32, u32::MAX] {
            assert!(cpu_ns(pid).is_err() && resident_bytes(pid).is_err());
        }
    }
}
