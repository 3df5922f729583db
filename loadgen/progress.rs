//! What a run says while it runs: bars on a terminal, plain lines otherwise. To standard error.
//!
//! Owns the bar. Must never slow the run down: it draws a few times a second.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::shared::Counts;
use crate::stage::Stage;

/// Says how far a run is.
pub struct Progress {
    bars: bool,
    bar: Option<ProgressBar>,
    name: String,
    clock: Clock,
    said_s: u64,
}

/// Time between two plain lines of a stage, in seconds.
const LINE_S: u64 = 5;

impl Progress {
    /// Bars if standard error is a terminal.
    pub fn new() -> Progress {
        Progress {
            bars: std::io::stderr().is_terminal(),
            bar: None,
            name: String::new(),
            clock: Clock::start(),
            said_s: 0,
        }
    }

    /// A stage begins that should bring this many deliveries.
    pub fn begin(&mut self, name: &str, deliveries: u64) {
        (self.name, self.clock, self.said_s) = (name.to_owned(), Clock::start(), 0);
        if !self.bars {
            return;
        }
        let bar = ProgressBar::new(deliveries.max(1));
        let template = if deliveries > 0 {
            "{prefix:>12} [{bar:30}] {human_pos}/{human_len} updates {elapsed}"
        } else {
            "{prefix:>12} {spinner} {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }

    /// Counters since the stage began.
    pub fn update(&mut self, counts: &Counts) {
        let elapsed_s = self.clock.now_ns() / 1_000_000_000;
        if let Some(bar) = &self.bar {
            bar.set_position(counts.deliveries);
        } else if elapsed_s >= self.said_s + LINE_S {
            self.said_s = elapsed_s;
            let deliveries = HumanCount(counts.deliveries);
            say(&format!("{}: {deliveries} updates delivered after {elapsed_s} s\n", self.name));
        }
    }

    /// Something that whoever runs it has to know now.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(&format!("{line}\n")),
        }
    }

    /// The stage has ended.
    pub fn end(&mut self, stage: &Stage) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let state = if stage.ok { "done" } else { "FAILED" };
        let deliveries = match stage.deliveries {
            0 => String::new(),
            n => format!(", {} updates delivered", HumanCount(n)),
        };
        let line = format!("{}: {state} in {:.3} s{deliveries}\n", stage.stage, stage.wall_s);
        say(&line);
    }
}

fn say(line: &str) {
    // Nobody may be listening.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
