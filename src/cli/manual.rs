//! The commands `completions` and `man`, of every program here.
//!
//! Owns what is said about wrong words behind them.

use super::completions::{SHELLS, completions};
use super::man::man;
use super::program::{Command, Program};
use super::{Exit, GRAMMAR, PROGRAM, Stream, client, diff, fabric, show, usage_of};
use crate::types::nearest;

/// All that this program can be asked for.
pub(super) static MANUAL: Program = Program {
    name: PROGRAM,
    summary: "a route reflector for the MetalBond protocol",
    own: &GRAMMAR,
    commands: &[
        Command { name: "server", summary: "be the reflector", needs: "", grammar: &GRAMMAR },
        Command {
            name: "client",
            summary: "connect to servers, announce and install routes",
            needs: "--server ADDRESS",
            grammar: &client::GRAMMAR,
        },
        Command {
            name: "show",
            summary: "show what a running server or client knows",
            needs: "WHAT",
            grammar: &show::GRAMMAR,
        },
        Command {
            name: "diff",
            summary: "say whether reflectors have the same routes",
            needs: "SIDE SIDE...",
            grammar: &diff::GRAMMAR,
        },
        Command {
            name: "fabric",
            summary: "how the fabric of reflectors is, and forget one",
            needs: "WHAT",
            grammar: &fabric::GRAMMAR,
        },
    ],
    see_also: &["loadgen(1)"],
};

impl Program {
    /// The answer to `completions SHELL` and `man`, which are the first words.
    pub fn text(&self, args: &[&str]) -> Exit {
        let usage = |text: String| usage_of(self.name, &text);
        match args {
            ["completions", "--help" | "-h"] | ["man", "--help" | "-h"] => Exit {
                code: 0,
                text: format!(
                    "Usage: {0} completions <{1}>\n       {0} man\n\nPrint completions for a shell, or the manual page (roff).\n",
                    self.name,
                    SHELLS.join("|")
                ),
                stream: Stream::Stdout,
            },
            ["completions"] => {
                let shells = SHELLS.join(", ");
                usage(format!("for which shell? There are: {shells}\n"))
            }
            ["completions", shell] => match completions(self, shell) {
                Some(text) => Exit { code: 0, text, stream: Stream::Stdout },
                None => {
                    let meant = nearest(shell, SHELLS.into_iter());
                    let meant = meant.map(|meant| format!("Did you mean {meant}?\n"));
                    usage(format!(
                        "no completions for {shell:?}: there are: {}\n{}",
                        SHELLS.join(", "),
                        meant.unwrap_or_default()
                    ))
                }
            },
            ["man"] => Exit { code: 0, text: man(self), stream: Stream::Stdout },
            [_, rest @ ..] => {
                usage(format!("Unrecognized argument: {:?}\n", rest.last().unwrap_or(&"")))
            }
            [] => usage("no command\n".to_owned()),
        }
    }
}
