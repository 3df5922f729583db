//! Flags as they stand on a command line, before argh reads them.
//!
//! Owns what argh does not know (`--flag=value`, `--switch=true`), and what is said about a wrong word. Must
//! never know what a flag is for.

use std::collections::BTreeSet;

use argh::{CommandInfoWithArgs, FromArgs};

use super::{Exit, Stream};
use crate::types::nearest;

/// What the programs print after their name: the version, and the commit if it was built from a clone.
pub const VERSION: &str = env!("METALBOND_VERSION");

/// A flag with a value: its name, what it takes, and an example.
pub struct Takes(pub &'static str, pub &'static str, pub &'static str);

/// The flags of a program, or of one of its commands.
pub struct Grammar {
    /// Its name in texts.
    pub program: &'static str,
    /// The flags that take a value.
    pub values: &'static [Takes],
    /// Those of them whose value is a list, with commas between.
    pub lists: &'static [&'static str],
    /// The flags that take none.
    pub switches: &'static [&'static str],
    /// Former names of flags that take a value, each with the name of today.
    pub aliases: &'static [(&'static str, &'static str)],
    /// Another command of the program, by its name, whose flags may be meant.
    pub beside: Option<(&'static str, &'static Grammar)>,
    /// What stands among the flags: its name in texts, and the words to choose from, if they are known.
    pub words: Option<(&'static str, &'static [&'static str])>,
    /// What argh knows of the flags.
    pub args: fn() -> CommandInfoWithArgs,
}

/// Reads flags with argh, after putting right what it does not know.
///
/// # Errors
/// An [`Exit`] in the name of the program, also for `--help`.
pub fn parse_flags<F: FromArgs>(grammar: &Grammar, args: &[&str]) -> Result<F, Exit> {
    let words = grammar.normalise(args)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    F::from_args(&[grammar.program], &words).map_err(|exit| grammar.explain(exit))
}

/// What is said about a wrong command line: `text`, which ends with a line feed, and where to look.
pub fn usage_of(program: &str, text: &str) -> Exit {
    Exit {
        code: 2,
        text: format!("{program}: {text}Try: {program} --help\n"),
        stream: Stream::Stderr,
    }
}

/// What `--version` says.
pub fn version_of(program: &str) -> Exit {
    Exit { code: 0, text: format!("{program} {VERSION}\n"), stream: Stream::Stdout }
}

impl Takes {
    /// What the flag takes, in one line.
    fn hint(&self, program: &str) -> String {
        let Takes(flag, takes, example) = self;
        format!("{flag} takes {takes}, for example: {program} {flag} {}\n", quoted(example))
    }
}

impl Grammar {
    /// What is said about a flag's value.
    pub fn wrong(&self, flag: &str, value: &str, why: &str) -> Exit {
        let given = if value.is_empty() { String::new() } else { format!(" {value:?}") };
        let hint = self.takes(flag).map(|takes| takes.hint(self.program));
        usage_of(self.program, &format!("{flag}{given}: {why}\n{}", hint.unwrap_or_default()))
    }

    /// The values of a list flag: repeated, or with commas between; none may come twice.
    pub(super) fn unique<T: Ord>(
        &self,
        flag: &str,
        given: &[String],
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<BTreeSet<T>, Exit> {
        let mut values = BTreeSet::new();
        for text in given.iter().flat_map(|text| text.split(',')).map(str::trim) {
            if text.is_empty() {
                let why =
                    "nothing stands before, behind or between the commas (a list has no spaces)";
                return Err(self.wrong(flag, "", why));
            }
            let value = read(text).map_err(|why| self.wrong(flag, text, &why))?;
            if !values.insert(value) {
                return Err(self.wrong(flag, text, "it was given twice"));
            }
        }
        Ok(values)
    }

    /// All flags.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.values.iter().map(|Takes(flag, ..)| *flag).chain(self.switches.iter().copied())
    }

    fn takes(&self, flag: &str) -> Option<&'static Takes> {
        let alias = self.aliases.iter().find(|(former, _)| *former == flag);
        let flag = alias.map_or(flag, |(_, now)| now);
        self.values.iter().find(|Takes(name, ..)| *name == flag)
    }

    fn knows(&self, flag: &str) -> bool {
        self.takes(flag).is_some() || self.switches.contains(&flag)
    }

    /// Makes `--flag value` of `--flag=value`, and refuses what is no flag.
    fn normalise(&self, args: &[&str]) -> Result<Vec<String>, Exit> {
        let usage = |text: &str| Err(usage_of(self.program, text));
        let mut words: Vec<String> = Vec::new();
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg, None),
            };
            if arg == "--" {
                // Ends the flags; nothing may follow them.
                if let Some(extra) = args.next() {
                    return usage(&format!("Unrecognized argument: {extra:?} after `--`\n"));
                }
            } else if !arg.starts_with('-') || arg == "-" {
                if self.words.is_none() || arg.is_empty() || arg == "-" {
                    return Err(self.no_flag(arg, &words));
                }
                words.push(arg.to_owned());
            } else if let Some(takes) = self.takes(flag) {
                let value = value.or_else(|| args.next().copied());
                if let Some(next) = value.filter(|next| !arg.contains('=') && self.knows(next)) {
                    let hint = takes.hint(self.program);
                    return usage(&format!("No value for option '{flag}': {next} follows\n{hint}"));
                }
                words.push(takes.0.to_owned());
                words.extend(value.map(str::to_owned));
            } else if !self.switches.contains(&flag) {
                // Or the value behind it would be blamed.
                return Err(self.unknown(flag));
            } else if switched_on(flag, value).map_err(|text| usage_of(self.program, &text))? {
                words.push(flag.to_owned());
            }
        }
        Ok(words)
    }

    /// A word that is neither a flag nor a flag's value; `words` are those before it.
    fn no_flag(&self, word: &str, words: &[String]) -> Exit {
        let mut text = format!("Unrecognized argument: {word:?} is no flag\n");
        if let [.., flag, value] = words
            && self.lists.contains(&flag.as_str())
        {
            let value = value.trim_end_matches(',');
            let list = quoted(&format!("{value},{word}"));
            text += &format!("A list has commas between, and no spaces: {flag} {list}\n");
        } else if let Some((command, _)) = self.beside
            && command.split(' ').next_back() == Some(word)
        {
            text += &format!("The command comes first, and its flags after it: {command}\n");
        } else if let Some(flag) = nearest(word, self.flags()) {
            text += &format!("Did you mean {flag}?\n");
        }
        usage_of(self.program, &text)
    }

    /// A flag that there is not.
    fn unknown(&self, flag: &str) -> Exit {
        let mut text = format!("Unrecognized argument: {flag}\n");
        if let Some((command, _)) = self.beside.filter(|(_, beside)| beside.knows(flag)) {
            text += &format!("It is a flag of `{command}`\n");
        } else if let Some(meant) = nearest(flag, self.flags()) {
            text += &format!("Did you mean {meant}?\n");
        }
        usage_of(self.program, &text)
    }

    /// argh's word for an early exit, and what the flag in question takes.
    fn explain(&self, exit: argh::EarlyExit) -> Exit {
        if exit.status.is_ok() {
            return Exit { code: 0, text: exit.output, stream: Stream::Stdout };
        }
        let mut text = exit.output;
        let blamed =
            self.values.iter().find(|Takes(flag, ..)| text.contains(&format!("option '{flag}'")));
        if let Some(takes) = blamed {
            text += &takes.hint(self.program);
        }
        usage_of(self.program, &text)
    }
}

/// The Go program takes `--switch=false` for a switch that is not there.
fn switched_on(flag: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "yes" | "1") => Ok(true),
        Some("false" | "no" | "0") => Ok(false),
        Some(value) => {
            Err(format!("{flag} takes no value but true or false, and {value:?} was given\n"))
        }
    }
}

/// As it must stand in a shell: zsh takes brackets for a pattern of file names.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/=%+@".contains(c);
    if value.chars().all(plain) { value.to_owned() } else { format!("\"{value}\"") }
}
