//! What a reader of a report must know of a run to judge and repeat it: when, where, with what.
//!
//! Owns the asking for it. Must never fail a run: what cannot be known is left out.

use std::fs;
use std::num::NonZero;

use metalbond_uring::internals::cli::VERSION;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::cli::PROGRAM;
use crate::options::Options;

/// Names with what is known of them.
pub type Facts = Vec<(&'static str, String)>;

/// The facts about the run that begins now.
pub fn facts(options: &Options, args: &[&str]) -> Facts {
    let mut facts = vec![("date", now())];
    facts.push(("host", host()));
    facts.push(("version", format!("{PROGRAM} {VERSION}")));
    facts.push(("command", command(args)));
    let sizes = options.sizes.words(options.scenario);
    facts.push(("sizes", format!("--scenario {} {sizes}", options.scenario.name())));
    facts
}

/// The time in UTC, to the second.
fn now() -> String {
    let mut text = String::new();
    // As in the log: such as 2026-01-31T12:34:56.123456Z.
    if SystemTime.format_time(&mut Writer::new(&mut text)).is_err() {
        return "not known".to_owned();
    }
    let seconds = text.split('.').next().unwrap_or_default().replace('T', " ");
    format!("{seconds} UTC")
}

/// The host's name, its CPUs and its kernel.
fn host() -> String {
    let kernel = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let plural = if cpus == 1 { "CPU" } else { "CPUs" };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map(|rest| format!(" ({})", rest.trim_start_matches([' ', '\t', ':'])));
    let (name, release) = (kernel("hostname"), kernel("osrelease"));
    format!("{name}, {cpus} {plural}{}, Linux {release}", model.unwrap_or_default())
}

/// The command line, as a shell takes it.
fn command(args: &[&str]) -> String {
    let quoted = |arg: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/@%+".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) {
            format!(" {arg}")
        } else {
            format!(" '{}'", arg.replace('\'', "'\\''"))
        }
    };
    std::iter::once("loadgen".to_owned()).chain(args.iter().map(quoted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_can_be_repeated() {
        let args = ["--scenario=fanout", "--routes", "7", "--report", "it's [1].html"];
        let facts = facts(&crate::cli::parse(&args).unwrap(), &args);
        let fact = |name| &facts.iter().find(|(fact, _)| *fact == name).unwrap().1;
        let command = "loadgen --scenario=fanout --routes 7 --report 'it'\\''s [1].html'";
        assert_eq!(fact("command"), command);
        let sizes = "--scenario fanout --announcers 1 --routes 7 --subscribers 100";
        assert_eq!(fact("sizes"), sizes);
        assert!(fact("date").starts_with("20") && fact("date").len() == 23, "{}", fact("date"));
        assert!(fact("host").contains("CPU") && fact("host").contains("Linux "));
        assert!(fact("version").starts_with("loadgen 0."));
    }
}
