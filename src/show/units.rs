//! Figures as people read them.
//!
//! Owns their units. Must never leave a space within one: each is a word of its line.

/// Bytes: `512B`, `1.2MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", units[unit])
}

/// Seconds: `42s`, `5m03s`, `2h05m`, `3d04h`.
pub(super) fn seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{:02}s", seconds % 60),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Microseconds: `7us`, `1.5ms`, `2.0s`.
pub(super) fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..999_950 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.1}s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        for (figure, text) in [
            (bytes(0), "0B"),
            (bytes(1023), "1023B"),
            (bytes(1024), "1.0KiB"),
            (bytes(1_048_575), "1.0MiB"),
            (bytes(1_258_291), "1.2MiB"),
            (bytes(u64::MAX), "16.0EiB"),
            (seconds(59), "59s"),
            (seconds(303), "5m03s"),
            (seconds(7_500), "2h05m"),
            (seconds(273_600), "3d04h"),
            (seconds(u64::MAX), "213503982334601d07h"),
            (micros(999), "999us"),
            (micros(1_500), "1.5ms"),
            (micros(999_949), "999.9ms"),
            (micros(2_000_000), "2.0s"),
        ] {
            assert_eq!(figure, text);
        }
    }
}
