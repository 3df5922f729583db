//! The manual pages, and completions in real shells: made from what the programs take, and nothing else.
//!
//! Owns what is claimed of both. What a machine has no program for is skipped, loudly.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::{Command, Stdio};

const PROGRAMS: [(&str, &str); 2] = [
    ("metalbond-uring", env!("CARGO_BIN_EXE_metalbond-uring")),
    ("loadgen", env!("CARGO_BIN_EXE_loadgen")),
];

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The flags in a help text: those that begin a line of it.
fn flags(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let words = lines.flat_map(|line| line.split([' ', ',']).take(3));
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

/// The help of each command of a program.
fn helps(name: &str, program: &str) -> Vec<(&'static str, String)> {
    let commands = match name {
        "loadgen" => &[][..],
        _ => &["client", "show", "diff", "fabric"],
    };
    let mut helps = vec![("", output(program, &["--help"]))];
    helps.extend(commands.iter().map(|command| (*command, output(program, &["help", command]))));
    helps
}

/// Runs a program of the machine with a text in a file; None if there is none.
fn checked(name: &str, text: &str, command: &[&str]) -> Option<String> {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "{}-{}-{name}",
        command[0],
        std::process::id()
    ));
    std::fs::write(&file, text).unwrap();
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(&file)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .env("MANPAGER", "cat")
        .stdin(Stdio::null())
        .output();
    let _ = std::fs::remove_file(&file);
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no {}", command[0]);
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn pages_are_right_and_have_each_flag() {
    for (name, program) in PROGRAMS {
        let page = output(program, &["man"]);
        assert!(page.starts_with(&format!(".TH {} 1 ", name.to_uppercase().replace('-', "\\-"))));
        for (command, help) in helps(name, program) {
            let flags = flags(&help);
            assert!(flags.len() >= 6, "{command}: {flags:?}");
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
            let title = format!("{name} {command}").trim().to_uppercase().replace('-', "\\-");
            let section = match command {
                "" => &page,
                _ => page
                    .split(".SH ")
                    .find(|part| part.starts_with(&format!("\"{title}\"")))
                    .unwrap(),
            };
            for flag in flags {
                let bold = format!("\\fB{}\\fR", flag.replace('-', "\\-"));
                assert!(section.contains(&bold), "{command} {flag}");
            }
        }
        assert!(
            !page.contains("sabotage"),
            "what help does not tell of is no business of the manual"
        );
        if name == "metalbond-uring" {
            let synopsis = page.split(".SH ").find(|part| part.starts_with("SYNOPSIS")).unwrap();
            for words in [
                "client\n.B \\-\\-server\n.I ADDRESS\n[flags]",
                "show\n.I WHAT\n[flags]",
                "diff\n.I SIDE\n.I SIDE...\n[flags]",
                "completions\n.I SHELL\n",
                "man\n",
                "help\n.I [COMMAND]\n",
            ] {
                assert!(synopsis.contains(words), "{words}: {synopsis}");
            }
        }
        if let Some(said) = checked(name, &page, &["mandoc", "-T", "lint", "-W", "warning"]) {
            // Pages are the same however late they are made.
            let warnings = said.lines().filter(|line| !line.contains("missing date"));
            assert_eq!(warnings.collect::<Vec<_>>(), [""; 0]);
        }
        let shown = checked(name, &page, &["man", "--warnings", "--local-file"]);
        if let Some(shown) = shown.filter(|shown| !shown.contains("has been minimized")) {
            assert!(!shown.contains("warning:"), "{shown}");
            for text in ["NAME", "SYNOPSIS", "--help", "SEE ALSO"] {
                assert!(shown.contains(text), "{text}: {shown}");
            }
        }
    }
}

/// What bash offers for the last word of a line.
fn in_bash(program: &str, script: &str, line: &str) -> Vec<String> {
    // As bash splits it: at `=` and `:` too, which are words then.
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let parts = word.split_inclusive('=').flat_map(|part| match part.strip_suffix('=') {
            Some(flag) => vec![flag, "="],
            None => vec![part],
        });
        let count = words.len();
        words.extend(parts.map(str::to_owned));
        if words.len() == count {
            words.push(String::new());
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let asked = format!(
        "{script}\nset -- $(complete -p {program})\nfunction_name=$3\nCOMP_WORDS=({})\n\
         COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n$function_name\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" ")
    );
    let output = Command::new("bash").args(["--norc", "-uc", &asked]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{line}: {said}");
    let replies = String::from_utf8(output.stdout).unwrap();
    replies.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn completions_in_bash() {
    let (name, program) = PROGRAMS[0];
    let script = output(program, &["completions", "bash"]);
    let offered = |line: &str| in_bash(name, &script, &format!("{name} {line}"));
    assert_eq!(offered("s"), ["server", "show"]);
    assert_eq!(offered("c"), ["client", "completions"]);
    assert_eq!(offered("--re"), ["--reflect-own"]);
    assert_eq!(offered("--reflect-own "), ["none", "lb", "all-but-nat"]);
    assert_eq!(offered("server --reflect-own=l"), ["lb"]);
    assert_eq!(offered("server --reflect-own="), ["none", "lb", "all-but-nat"]);
    assert_eq!(offered("--listen "), [""; 0], "nothing is known of its values");
    assert_eq!(offered("client --an"), ["--announce"]);
    assert_eq!(offered("client s"), [""; 0], "a command comes first");
    assert_eq!(offered("show p"), ["peers", "peer"]);
    assert_eq!(offered("show peers p"), [""; 0]);
    assert_eq!(offered("show --json p"), ["peers", "peer"]);
    assert_eq!(offered("show peers --w"), ["--watch"]);
    assert_eq!(offered("diff --f"), ["--for"]);
    assert_eq!(offered("diff /etc/hostn"), ["/etc/hostname"], "a saved table");
    assert_eq!(offered("completions "), ["bash", "zsh", "fish"]);
    assert_eq!(offered("help d"), ["diff"]);
    for (name, program) in PROGRAMS {
        let script = output(program, &["completions", "bash"]);
        for (command, help) in helps(name, program) {
            let line = format!("{name} {command} -").replace("  ", " ");
            let offered = in_bash(name, &script, &line);
            for flag in flags(&help) {
                assert!(offered.contains(&flag), "{line}: {flag}: {offered:?}");
            }
        }
    }
    let (name, program) = PROGRAMS[1];
    let script = output(program, &["completions", "bash"]);
    let offered = |line: &str| in_bash(name, &script, &format!("{name} {line}"));
    assert!(offered("--scenario ").contains(&"churn".to_owned()));
    assert_eq!(offered("--report /etc/hostn"), ["/etc/hostname"]);
    assert_eq!(offered("m"), ["man"]);
}

#[test]
fn completions_in_fish() {
    for (name, program) in PROGRAMS {
        let script = output(program, &["completions", "fish"]);
        let offered = |line: &str| {
            let asked = format!("complete -C '{name} {line}'");
            let text = format!("{script}\n{asked}\n");
            checked(name, &text, &["fish", "--no-config"])
        };
        for (command, help) in helps(name, program) {
            let Some(offered) = offered(&format!("{command} --").replace("  ", " ")) else {
                return;
            };
            let words: Vec<&str> =
                offered.lines().map(|line| line.split('\t').next().unwrap()).collect();
            for flag in flags(&help) {
                assert!(words.contains(&&*flag), "{command} {flag}: {offered}");
            }
        }
        let offered = |line: &str| {
            let offered = offered(line).unwrap();
            offered
                .lines()
                .map(|line| line.split('\t').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        if name == "loadgen" {
            assert!(offered("--scenario ").contains(&"churn".to_owned()));
            continue;
        }
        assert_eq!(offered("sh"), ["show"]);
        assert_eq!(offered("show v"), ["vnis"]);
        assert_eq!(offered("show vnis v"), [""; 0]);
        assert_eq!(offered("--reflect-own l"), ["lb"]);
        assert_eq!(offered("completions z"), ["zsh"]);
    }
}

/// zsh completes on a terminal only, so its script is run by a zsh that says what it is offered.
#[test]
fn completions_in_zsh() {
    for (name, program) in PROGRAMS {
        let script = output(program, &["completions", "zsh"]);
        assert!(script.starts_with(&format!("#compdef {name}\n")));
        let offered = |line: &str| {
            let words: Vec<String> = line.split(' ').map(|word| format!("'{word}'")).collect();
            let text = format!(
                "compdef() {{ }}\n_arguments() {{ print -rl -- \"$@\" }}\nwords=({})\nCURRENT=$#words\n{script}\n_{}\n",
                words.join(" "),
                name.replace('-', "_")
            );
            checked(name, &text, &["zsh", "-f", "-o", "nounset"])
        };
        for (command, help) in helps(name, program) {
            let Some(offered) = offered(&format!("{name} {command} --").replace("  ", " ")) else {
                return;
            };
            for flag in flags(&help) {
                let is_there = offered.lines().any(|spec| {
                    // What it excludes stands before it.
                    let bare = spec.strip_prefix('(').and_then(|spec| spec.split_once(')'));
                    let spec = bare.map_or(spec, |(_, spec)| spec).trim_start_matches('*');
                    spec.strip_prefix(&*flag).is_some_and(|rest| rest.starts_with(['[', '=']))
                });
                assert!(is_there, "{command} {flag}: {offered}");
            }
            if command == "show" {
                assert!(offered.contains("2:what:(summary peers peer routes vnis)"), "{offered}");
            }
        }
    }
}

#[test]
fn wrong_words_are_told_of() {
    for (name, program) in PROGRAMS {
        for (arguments, words) in [
            (&["completions"][..], "There are: bash, zsh, fish"),
            (&["completions", "bsh"], "Did you mean bash?"),
            (&["completions", "tcsh"], "no completions for \"tcsh\""),
            (&["completions", "bash", "x"], "Unrecognized argument: \"x\""),
            (&["man", "x"], "Unrecognized argument: \"x\""),
        ] {
            let output = Command::new(program).args(arguments).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
            assert!(said.starts_with(&format!("{name}: ")) && said.contains(words), "{said}");
        }
        assert!(output(program, &["completions", "--help"]).contains("bash|zsh|fish"));
    }
}
