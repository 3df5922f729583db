//! Completions for shells.
//!
//! Owns one script for each shell, made from the grammars. Must never know a flag by its name.

use std::fmt::Write;

use super::Grammar;
use super::program::{Flag, Program};

/// The shells that there are scripts for.
pub(super) const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// The script for a shell; None if it is not one of [`SHELLS`].
pub(super) fn completions(program: &Program, shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash(program)),
        "zsh" => Some(zsh(program)),
        "fish" => Some(fish(program)),
        _ => None,
    }
}

/// The name of the function in a script.
fn function_of(program: &Program) -> String {
    format!("_{}", program.name.replace('-', "_"))
}

fn command_words(program: &Program) -> Vec<&'static str> {
    program.commands().into_iter().map(|(command, _)| command).collect()
}

/// What may follow `completions` and `help`.
fn helpers(program: &Program) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut helpers = vec![("completions", SHELLS.to_vec()), ("man", Vec::new())];
    if !program.commands.is_empty() {
        helpers.push(("help", program.commands.iter().map(|command| command.name).collect()));
    }
    helpers
}

fn is_file(flag: &Flag) -> bool {
    flag.value == Some("file")
}

fn bash(program: &Program) -> String {
    let function = function_of(program);
    let mut script = format!("# Completions of {} for bash.\n{function}() {{\n", program.name);
    script += r#"    local cur=${COMP_WORDS[COMP_CWORD]} prev="" command="" words="" word
    (( COMP_CWORD > 0 )) && prev=${COMP_WORDS[COMP_CWORD - 1]}
    (( COMP_CWORD > 1 )) && command=${COMP_WORDS[1]}
    # Bash takes --flag=value for three words.
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]] && (( COMP_CWORD > 1 )); then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    case $command in
"#;
    for command in program.commands {
        bash_arm(&mut script, command.name, command.grammar, &[]);
    }
    for (helper, words) in helpers(program) {
        let _ =
            writeln!(script, "    {helper})\n        words=\"{}\"\n        ;;", words.join(" "));
    }
    bash_arm(&mut script, "*", program.own, &command_words(program));
    let _ = write!(
        script,
        "    esac\n    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}}\n\
         complete -F {function} {}\n",
        program.name
    );
    script
}

/// What may stand in a command: the values of its flags, else its words and flags.
fn bash_arm(script: &mut String, pattern: &str, grammar: &Grammar, commands: &[&str]) {
    let flags = grammar.manual();
    let _ = writeln!(script, "    {pattern})\n        case $prev in");
    let (mut plain, mut told) = (Vec::new(), String::new());
    for flag in flags.iter().filter(|flag| flag.value.is_some()) {
        let choices = flag.choices.join(" ");
        let kind = if is_file(flag) { "-f".to_owned() } else { format!("-W \"{choices}\"") };
        if is_file(flag) || !choices.is_empty() {
            let reply = format!("mapfile -t COMPREPLY < <(compgen {kind} -- \"$cur\")");
            let _ = writeln!(
                told,
                "        {})\n            {reply}\n            return\n            ;;",
                flag.long
            );
        } else {
            plain.push(flag.long);
        }
    }
    script.push_str(&told);
    if !plain.is_empty() {
        // Nothing is known of their values.
        let _ =
            writeln!(script, "        {})\n            return\n            ;;", plain.join(" | "));
    }
    script.push_str("        esac\n");
    let mut words: Vec<String> = flags.iter().map(|flag| flag.long.to_owned()).collect();
    words.extend(flags.iter().filter_map(|flag| flag.short).map(|short| format!("-{short}")));
    let _ = writeln!(script, "        words=\"{}\"", words.join(" "));
    match grammar.words {
        Some((_, [])) => {
            script.push_str(
                "        if [[ $cur != -* ]]; then\n            \
                 mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n            return\n        fi\n",
            );
        }
        Some((_, choices)) => {
            // Only one of them.
            let _ = write!(
                script,
                "        for word in \"${{COMP_WORDS[@]:2:COMP_CWORD-2}}\"; do\n            \
                 case $word in {}) command=\"\" ;; esac\n        done\n        \
                 [[ -n $command ]] && words=\"{} $words\"\n",
                choices.join("|"),
                choices.join(" ")
            );
        }
        None => {}
    }
    if !commands.is_empty() {
        let _ = writeln!(
            script,
            "        (( COMP_CWORD == 1 )) && words=\"{} $words\"",
            commands.join(" ")
        );
    }
    script.push_str("        ;;\n");
}

fn zsh(program: &Program) -> String {
    let function = function_of(program);
    let mut script = format!("#compdef {}\n# Completions of {0} for zsh.\n", program.name);
    let _ = write!(
        script,
        "{function}() {{\n    local command=\"\"\n    (( CURRENT > 2 )) && command=$words[2]\n    \
         case $command in\n"
    );
    for command in program.commands {
        let words = match command.grammar.words {
            Some((name, [])) => format!(" '*:{name}:_files'"),
            Some((name, choices)) => format!(" '2:{name}:({})'", choices.join(" ")),
            None => String::new(),
        };
        let _ = writeln!(script, "    {})\n        _arguments '1: :'{words} \\", command.name);
        zsh_flags(&mut script, command.grammar);
    }
    for (helper, words) in helpers(program) {
        let words = words.join(" ");
        let _ = writeln!(
            script,
            "    {helper})\n        _arguments '1: :' '2: :({words})'\n        ;;"
        );
    }
    let commands: Vec<String> = program
        .commands()
        .into_iter()
        .map(|(command, summary)| format!("{command}\\:\"{}\"", summary.replace('\'', "'\\''")))
        .collect();
    let _ =
        writeln!(script, "    *)\n        _arguments '1:command:(({}))' \\", commands.join(" "));
    zsh_flags(&mut script, program.own);
    let _ = write!(
        script,
        "    esac\n}}\nif [[ ${{funcstack[1]:-}} == {function} ]]; then\n    {function} \"$@\"\nelse\n    \
         compdef {function} {}\nfi\n",
        program.name
    );
    script
}

/// Specifications for `_arguments`, one a line, and the end of the arm.
fn zsh_flags(script: &mut String, grammar: &Grammar) {
    for flag in grammar.manual() {
        let text = words_of(&flag).replace('\\', "\\\\").replace('[', "\\[").replace(']', "\\]");
        let text = text.replace(':', "\\:").replace('\'', "'\\''");
        let value = match flag.value {
            None => String::new(),
            Some(name) if is_file(&flag) => format!(":{name}:_files"),
            Some(name) => format!(":{}:({})", name.replace(':', "\\:"), flag.choices.join(" ")),
        };
        let times = if flag.is_list { "*" } else { "" };
        // A value may follow in the same word too.
        let equals = if flag.value.is_some() { "=" } else { "" };
        let long = flag.long;
        let _ = match flag.short {
            Some(short) => writeln!(
                script,
                "            '(-{short} {long})'{{-{short},{long}{equals}}}'[{text}]{value}' \\"
            ),
            None => writeln!(script, "            '{times}{long}{equals}[{text}]{value}' \\"),
        };
    }
    script.push_str("            && return 0\n        ;;\n");
}

fn fish(program: &Program) -> String {
    let name = program.name;
    let mut script = format!("# Completions of {name} for fish.\ncomplete -c {name} -f\n");
    for (command, summary) in program.commands() {
        let _ = writeln!(
            script,
            "complete -c {name} -n __fish_use_subcommand -a {command} -d {}",
            fish_quoted(summary)
        );
    }
    let others: Vec<&str> =
        command_words(program).into_iter().filter(|word| *word != "server").collect();
    let condition = format!("not __fish_seen_subcommand_from {}", others.join(" "));
    fish_flags(&mut script, name, &condition, program.own);
    for command in program.commands.iter().filter(|command| command.name != "server") {
        let condition = format!("__fish_seen_subcommand_from {}", command.name);
        match command.grammar.words {
            Some((_, [])) => {
                let _ = writeln!(script, "complete -c {name} -n '{condition}' -F");
            }
            Some((_, choices)) => {
                let choices = choices.join(" ");
                let _ = writeln!(
                    script,
                    "complete -c {name} -n '{condition}; and not __fish_seen_subcommand_from {choices}' -a '{choices}'"
                );
            }
            None => {}
        }
        fish_flags(&mut script, name, &condition, command.grammar);
    }
    for (helper, words) in helpers(program).into_iter().filter(|(_, words)| !words.is_empty()) {
        let words = words.join(" ");
        let _ = writeln!(
            script,
            "complete -c {name} -n '__fish_seen_subcommand_from {helper}; and not __fish_seen_subcommand_from {words}' -a '{words}'"
        );
    }
    script
}

fn fish_flags(script: &mut String, name: &str, condition: &str, grammar: &Grammar) {
    for flag in grammar.manual() {
        let _ = write!(
            script,
            "complete -c {name} -n '{condition}' -l {}",
            flag.long.trim_start_matches('-')
        );
        if let Some(short) = flag.short {
            let _ = write!(script, " -s {short}");
        }
        if flag.value.is_some() {
            script.push_str(if is_file(&flag) { " -r -F" } else { " -x" });
        }
        if !flag.choices.is_empty() {
            let _ = write!(script, " -a '{}'", flag.choices.join(" "));
        }
        let _ = writeln!(script, " -d {}", fish_quoted(&words_of(&flag)));
    }
}

/// A description in one line.
fn words_of(flag: &Flag) -> String {
    flag.description.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
