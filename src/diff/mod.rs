//! `metalbond-uring diff`: do reflectors have the same routes?
//!
//! Owns how often they are looked at, and the exit code. Must never change anything anywhere.

mod look;
mod side;
mod tell;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use metalbond_uring::internals::cli::{DiffOptions, Exit, PROGRAM, SideAt, Stream};

use crate::ask::{AskError, addresses_of, error_text, plain};
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
    refuse_twins(options)?;
    let mut teller = Teller::new(options);
    let seen = if options.patience.is_zero() {
        look(options, None, &mut |difference, identity| teller.difference(difference, identity))
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
    let is_one_look = matches!(verdict, Verdict::Differ(_));
    match teller.end(&verdict) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write: {}", error_text(&error)))
        }
        // Whoever has enough of the rest needs no advice.
        Err(_) => Ok(seen.differences == 0),
        Ok(()) => {
            if is_one_look {
                say("routes that were on their way differ too: --for 30s tells only what lasts");
            }
            Ok(seen.differences == 0)
        }
    }
}

/// Two names of one address are one side, which agrees with itself.
fn refuse_twins(options: &DiffOptions) -> Result<(), String> {
    let mut seen: Vec<(bool, SocketAddr, &str)> = Vec::new();
    for side in &options.sides {
        let (is_whole, at) = match &side.at {
            SideAt::Reflector(at) => (false, at),
            SideAt::Routes(at) => (true, at),
            SideAt::File(_) => continue,
        };
        // A name that nobody knows is told of when it is asked.
        let addresses = addresses_of(at).unwrap_or_default();
        for address in &addresses {
            let twin = seen.iter().find(|(kind, of, _)| *kind == is_whole && of == address);
            if let Some((.., twin)) = twin {
                return Err(format!(
                    "{:?} was given twice, as {twin:?} too: both are {address}, which would agree with itself",
                    side.name
                ));
            }
        }
        seen.extend(addresses.into_iter().map(|address| (is_whole, address, side.name.as_str())));
    }
    Ok(())
}

/// Looks again and again until they agree or the time is over. The last look, and what differed in all of them.
#[allow(clippy::disallowed_methods)] // a program that waits has a clock
fn wait(options: &DiffOptions) -> Result<(Look, Lasting), AskError> {
    let begun = Instant::now();
    // Enough for a last look, unless somebody does not come to an end.
    let until = Some(begun + options.patience + options.timeout);
    let mut lasting = Lasting::default();
    let mut was_seen = false;
    loop {
        let look_begun = Instant::now();
        // The last look begins when the time is over, or later.
        let is_last = begun.elapsed() >= options.patience;
        match look(options, until, &mut |difference, _| lasting.note(difference)) {
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
    for at in &seen.clients {
        say(&format!(
            "{} is a client: it is compared by the routes that it has received",
            name(at)
        ));
    }
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
