//! `metalbond-uring show`: what a running server or client knows, as tables.
//!
//! Owns what is shown of an answer. Must never hold a table of routes.

mod fabric;
mod facts;
mod json;
mod peers;
mod routes;
mod screen;
mod table;
mod units;
mod vnis;

use std::time::Duration;

use metalbond_uring::internals::cli::{Exit, PROGRAM, ShowOptions, Stream, Subject};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::ask::{AskError, Node, error_text};
use screen::{Screen, is_closed};
use table::{Cell, Column, Layout};

/// Between two looks.
const WATCH_PAUSE: Duration = Duration::from_secs(2);

/// Why it is not shown.
#[derive(Debug, Error)]
enum ShowError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("there is no peer at {0}")]
    NoPeer(String),
    #[error("cannot write: {}", error_text(.0))]
    Write(#[from] std::io::Error),
}

/// Shows it.
///
/// # Errors
/// What to say, and the exit code, if it cannot be shown.
pub(crate) fn run(options: &ShowOptions) -> Result<(), Exit> {
    let node = Node { address: options.http.clone(), timeout: options.timeout, until: None };
    let mut screen = Screen::new(options.watch && !options.json);
    match show_all(options, &node, &mut screen) {
        Err(ShowError::Write(error)) if is_closed(&error) => Ok(()),
        Err(error) => {
            let text = format!("{PROGRAM} show: {error}\n");
            Err(Exit { code: 1, text, stream: Stream::Stderr })
        }
        Ok(()) => Ok(()),
    }
}

fn show_all(options: &ShowOptions, node: &Node, screen: &mut Screen) -> Result<(), ShowError> {
    if !options.watch {
        show(options, node, screen)?;
        return Ok(screen.end()?);
    }
    // Who cannot be asked at first is not waited for; who goes away later may come back.
    let mut was_shown = false;
    loop {
        screen.begin()?;
        if screen.is_in_place() {
            let pause = WATCH_PAUSE.as_secs();
            screen.heading(&format!("http://{}, every {pause} s until Ctrl-C", node.address))?;
            screen.line("")?;
        }
        match show(options, node, screen) {
            Ok(()) => was_shown = true,
            Err(error @ (ShowError::Ask(_) | ShowError::NoPeer(_))) if was_shown => {
                screen.note(&error.to_string())?;
            }
            Err(error) => return Err(error),
        }
        screen.end()?;
        std::thread::sleep(WATCH_PAUSE);
    }
}

fn show(options: &ShowOptions, node: &Node, screen: &mut Screen) -> Result<(), ShowError> {
    let path = match options.subject {
        Subject::Summary => "/summary.json",
        Subject::Peers | Subject::Peer => "/peers.json",
        Subject::Routes => "/routes.json",
        Subject::Vnis => "/vnis.json",
        Subject::Fabric => "/fabric.json",
    };
    let answer = node.ask(path, &options.filter)?;
    let url = answer.url.clone();
    let body = answer.json()?;
    if options.subject == Subject::Peer {
        let address = options.filter.first().map_or("", |(_, address)| address);
        let told = json::keep(body, &url, options.json, screen)?;
        return peers::one(&told, &url, address, !options.json, screen);
    }
    if options.json {
        return json::pass_on(body, &url, screen);
    }
    match options.subject {
        Subject::Summary => facts::summary(&read(body, &url)?, screen),
        Subject::Fabric => fabric::fabric(read(body, &url)?, screen),
        Subject::Peers | Subject::Peer => {
            let told = peers::all(read(body, &url)?, screen)?;
            note_nothing(options, told, screen)
        }
        Subject::Routes => {
            let told = routes::routes(body, &url, screen)?;
            note_nothing(options, told, screen)
        }
        Subject::Vnis => {
            let told = vnis::vnis(read(body, &url)?, screen)?;
            note_nothing(options, told, screen)
        }
    }
}

/// Says so if filters have left nothing of a table.
fn note_nothing(options: &ShowOptions, rows: u64, screen: &mut Screen) -> Result<(), ShowError> {
    if rows > 0 || options.filter.is_empty() {
        return Ok(());
    }
    let has_prefix = options.filter.iter().any(|(word, _)| *word == "prefix");
    let text = match options.subject {
        Subject::Routes if has_prefix => {
            "no route matches (ADDRESS/LENGTH means exactly that one; an ADDRESS alone finds the longest)"
        }
        Subject::Routes => "no route matches",
        Subject::Vnis => "no such VNI has a route or a subscriber",
        _ => "no peer matches",
    };
    Ok(screen.note(text)?)
}

/// An answer as a whole.
fn read<T: DeserializeOwned>(body: impl std::io::Read, url: &str) -> Result<T, ShowError> {
    serde_json::from_reader(body).map_err(|error| AskError::of(url, error).into())
}

/// A table of which all is known.
fn write_table(
    columns: &[Column],
    rows: &[Vec<Cell>],
    screen: &mut Screen,
) -> Result<(), ShowError> {
    let layout = Layout::new(columns, rows, screen.width, screen.has_colours);
    screen.line(&layout.heading())?;
    for row in rows {
        if !screen.line(&layout.line(row))? {
            break;
        }
    }
    Ok(())
}
