//! The manual page.
//!
//! Owns its roff, made from the grammars and from what argh knows. Must never know a flag by its name.

use std::fmt::Write;

use super::program::Program;
use super::{Grammar, VERSION};

/// The page, in the language of man(7).
pub(super) fn man(program: &Program) -> String {
    let name = program.name;
    let mut page = format!(
        ".TH {} 1 \"\" \"{name} {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n",
        escaped(&name.to_uppercase()),
        escaped(VERSION),
        escaped(name),
        escaped(program.summary)
    );
    page.push_str(".SH SYNOPSIS\n");
    if program.commands.is_empty() {
        synopsis(&mut page, name, "", "[flags]");
    }
    for (at, command) in program.commands.iter().enumerate() {
        if at > 0 {
            page.push_str(".br\n");
        }
        synopsis(&mut page, &format!("{name} {}", command.name), command.needs, "[flags]");
    }
    for (command, needs) in [("completions", "SHELL"), ("man", ""), ("help", "[COMMAND]")] {
        if program.commands().iter().any(|(name, _)| *name == command) {
            page.push_str(".br\n");
            synopsis(&mut page, &format!("{name} {command}"), needs, "");
        }
    }
    page.push_str(".SH DESCRIPTION\n");
    paragraphs(&mut page, (program.own.args)().description);
    if program.commands.is_empty() {
        page.push_str(".SH OPTIONS\n");
        notes(&mut page, program.own);
        options(&mut page, program.own);
        details(&mut page, name, program.own);
    }
    for command in program.commands {
        let whole = format!("{name} {}", command.name);
        let _ = writeln!(page, ".SH \"{}\"", escaped(&whole.to_uppercase()));
        if !std::ptr::eq(command.grammar, program.own) {
            paragraphs(&mut page, (command.grammar.args)().description);
        }
        notes(&mut page, command.grammar);
        options(&mut page, command.grammar);
        details(&mut page, &whole, command.grammar);
    }
    let _ = writeln!(
        page,
        ".SH FILES\nCompletions for shells are printed by\n.B {} completions\n.RB ( bash ,\n.BR zsh ,\n.BR fish ).",
        escaped(name)
    );
    if !program.see_also.is_empty() {
        let _ = writeln!(page, ".SH SEE ALSO\n{}", escaped(&program.see_also.join(", ")));
    }
    page
}

fn synopsis(page: &mut String, whole: &str, needs: &str, more: &str) {
    let _ = writeln!(page, ".B {}", escaped(whole));
    for word in needs.split_whitespace() {
        let font = if word.starts_with("--") { "B" } else { "I" };
        let _ = writeln!(page, ".{font} {}", escaped(word));
    }
    if !more.is_empty() {
        let _ = writeln!(page, "{}", escaped(more));
    }
}

fn options(page: &mut String, grammar: &Grammar) {
    for flag in grammar.manual() {
        page.push_str(".TP\n");
        let short = flag.short.map(|short| format!("\\fB\\-{short}\\fR, ")).unwrap_or_default();
        let value = flag.value.map(|value| format!(" \\fI{}\\fR", escaped(value)));
        let _ = writeln!(
            page,
            "{short}\\fB{}\\fR{}\n{}",
            escaped(flag.long),
            value.unwrap_or_default(),
            escaped(&sentence(flag.description))
        );
    }
}

/// What there is to say before the flags.
fn notes(page: &mut String, grammar: &Grammar) {
    for note in (grammar.args)().notes {
        // A heading begins a paragraph.
        if !page.lines().next_back().is_some_and(|line| line.starts_with(".SH ")) {
            page.push_str(".PP\n");
        }
        paragraphs(page, note);
    }
}

/// Examples and exit codes.
fn details(page: &mut String, whole: &str, grammar: &Grammar) {
    let info = (grammar.args)();
    if !info.examples.is_empty() {
        page.push_str(".SS Examples\n.nf\n");
        for example in info.examples {
            let _ = writeln!(page, "{}", escaped(&example.replace("{command_name}", whole)));
        }
        page.push_str(".fi\n");
    }
    if !info.error_codes.is_empty() {
        page.push_str(".SS Exit status\n");
        for code in info.error_codes {
            let _ = writeln!(page, ".TP\n{}\n{}", code.code, escaped(code.description));
        }
    }
}

/// Text as it stands in `--help`: lines that are indented stay as they are.
fn paragraphs(page: &mut String, text: &str) {
    let mut is_table = false;
    for line in text.lines() {
        let starts_table = line.starts_with(' ');
        if starts_table != is_table {
            page.push_str(if starts_table { ".PP\n.nf\n" } else { ".fi\n" });
            is_table = starts_table;
        }
        match line {
            "" => page.push_str(".PP\n"),
            _ => {
                let _ = writeln!(page, "{}", escaped(line));
            }
        }
    }
    if is_table {
        page.push_str(".fi\n");
    }
}

/// A flag's description in one line, with a capital and a full stop.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", chars.as_str())
}

/// Text in which nothing is a request or an escape.
fn escaped(text: &str) -> String {
    let escape = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-").replace('`', "\\(ga");
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    };
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}
