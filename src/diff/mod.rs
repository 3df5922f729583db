//! `metalbond-uring diff`: do reflectors have the same routes?
//!
//! Owns how often they are looked at, and the exit code. Must never change anything anywhere.

mod look;
mod side;
mod tell;

use std::io::Write;
use std::time::{Duration, Instant};

use metalbond_uring::internals::cli::{DiffOptions, Exit, PROGRAM, Stream};

use crate::ask::{AskError, error_text, plain};
use look::{Lasting, Look, look};
use side::Identity;
use tell::{Teller, Verdict, listed};

/// Between two looks, at least.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Compares them.
///
/// # Errors
/// What to say, and the exit code, unless they are equal.
pub(crate) fn run(options: &DiffOptions) -> Result<(), Exit> {
    match compare(options) {
        Ok(true) => Ok(()),
        // All was said.
        Ok(false) => Err(Exit { code: 1, text: String::new(), stream: Stream::Stderr }),
        Err(text) => {
            let text = format!("{PROGRAM} diff: {text}\n");
            Err(Exit { code: 2, text, stream: Stream::Stderr })
        }
    }
}

/// Whether they are equal, or why that cannot be told.
fn compare(options: &DiffOptions) -> Result<bool, String> {
    let mut teller = Teller::new(options);
    let seen = if options.patience.is_zero() {
        look(options, &mut |difference, identity| teller.difference(difference, identity))
    } else {
        wait(options).map(|(seen, lasting)| {
            if seen.differences > 0 {
                lasting.differences().for_each(|it| teller.difference(&it, seen.identity));
            }
            seen
        })
    };
    let seen = seen.map_err(|error| error.to_string())?;
    notes(options, &seen);
    let verdict = match seen.differences {
        0 => Verdict::Equal(&seen),
        _ if options.patience.is_zero() => Verdict::Differ(&seen),
        _ => Verdict::NeverAgreed(&seen),
    };
    match teller.end(&verdict) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write: {}", error_text(&error)))
        }
        _ => Ok(seen.differences == 0),
    }
}

/// Looks again and again until they agree or the time is over. The last look, and what differed in all of them.
#[allow(clippy::disallowed_methods)] // a program that waits has a clock
fn wait(options: &DiffOptions) -> Result<(Look, Lasting), AskError> {
    let begun = Instant::now();
    let mut lasting = Lasting::default();
    let mut was_seen = false;
    loop {
        let look_begun = Instant::now();
        // The last look begins when the time is over, or later.
        let is_last = begun.elapsed() >= options.patience;
        match look(options, &mut |difference, _| lasting.note(difference)) {
            Ok(seen) => {
                lasting.end_look();
                was_seen = true;
                if is_last || seen.differences == 0 {
                    return Ok((seen, lasting));
                }
            }
            // Who could be asked before may be restarting.
            Err(error) if is_last || !was_seen => return Err(error),
            Err(_) => lasting.forget_look(),
        }
        let left = options.patience.saturating_sub(begun.elapsed());
        std::thread::sleep(LOOK_PAUSE.max(look_begun.elapsed()).min(left));
    }
}

/// What one has to know of the comparison.
fn notes(options: &DiffOptions, seen: &Look) {
    let name = |at: &usize| options.sides[*at].name.clone();
    if seen.identity == Identity::Addresses {
        let bare = listed(&seen.bare.iter().map(name).collect::<Vec<_>>());
        say(&format!(
            "only destinations and addresses of next hops are compared: {bare} tells no more"
        ));
    }
    for (at, unreadable) in seen.unreadable.iter().enumerate().filter(|(_, count)| **count > 0) {
        say(&format!("{} tells of what is no route: {unreadable} entries are left out", name(&at)));
    }
}

fn say(text: &str) {
    // If nobody listens, the comparison counts.
    let _ = writeln!(std::io::stderr(), "{PROGRAM} diff: {}", plain(text));
}
