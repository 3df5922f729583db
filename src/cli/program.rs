//! A program as a whole: its commands, for its manual and for shells.
//!
//! Owns what both are made from, which is what argh and the grammars know. Must never name a single flag.

use argh::{FlagInfo, FlagInfoKind};

use super::Grammar;

/// A program.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it is, in half a sentence.
    pub summary: &'static str,
    /// Its flags where no command is given.
    pub own: &'static Grammar,
    /// Its commands; may be empty.
    pub commands: &'static [Command],
    /// Other manual pages.
    pub see_also: &'static [&'static str],
}

/// One of a program's commands.
pub struct Command {
    /// Its word.
    pub name: &'static str,
    /// What it does, in half a sentence.
    pub summary: &'static str,
    /// What has to follow it: flags as they stand, and words in capitals for what is chosen.
    pub needs: &'static str,
    /// Its flags.
    pub grammar: &'static Grammar,
}

/// A flag, as shells and people need it.
pub(super) struct Flag {
    /// With its dashes.
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// What its value is called; None for a switch.
    pub(super) value: Option<&'static str>,
    /// The words that its value is one of, if it is.
    pub(super) choices: Vec<&'static str>,
    pub(super) description: &'static str,
    pub(super) is_list: bool,
}

impl Program {
    /// The words that may come first.
    pub(super) fn commands(&self) -> Vec<(&'static str, &'static str)> {
        let named = self.commands.iter().map(|command| (command.name, command.summary));
        let mut commands: Vec<_> = named.collect();
        commands.extend([
            ("completions", "print completions for a shell"),
            ("man", "print the manual page"),
        ]);
        if !self.commands.is_empty() {
            commands.push(("help", "say what a command does"));
        }
        commands
    }
}

impl Grammar {
    /// The flags that `--help` tells of, and itself.
    pub(super) fn manual(&self) -> Vec<Flag> {
        let info = (self.args)();
        let told = info.flags.iter().filter(|flag| !flag.hidden && flag.long != "--help");
        let mut flags: Vec<Flag> = told.map(|flag| self.flag(flag)).collect();
        flags.push(Flag {
            long: "--help",
            short: Some('h'),
            value: None,
            choices: Vec::new(),
            description: "say what there is",
            is_list: false,
        });
        flags
    }

    fn flag(&self, flag: &FlagInfo<'static>) -> Flag {
        let value = match flag.kind {
            FlagInfoKind::Switch => None,
            FlagInfoKind::Option { arg_name } => Some(arg_name),
        };
        let takes = self.values.iter().find(|takes| takes.0 == flag.long);
        Flag {
            long: flag.long,
            short: flag.short,
            value,
            choices: takes.map(|takes| choices(takes.1)).unwrap_or_default(),
            description: flag.description,
            is_list: self.lists.contains(&flag.long),
        }
    }
}

/// The words of "a, b or c"; none if it is another sentence.
fn choices(takes: &'static str) -> Vec<&'static str> {
    let words: Vec<&str> = takes.split(", ").flat_map(|part| part.split(" or ")).collect();
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if words.len() > 1 && words.iter().all(is_word) { words } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_lists_of_words() {
        assert_eq!(choices("none, lb or all-but-nat"), ["none", "lb", "all-but-nat"]);
        for sentence in
            ["auto, off, or a number of routes", "seconds", "ADDRESS/LENGTH, or an ADDRESS"]
        {
            assert!(choices(sentence).is_empty(), "{sentence}");
        }
    }
}
