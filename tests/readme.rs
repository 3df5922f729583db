//! The README's shell blocks do what they say.
//!
//! Owns the rules for them. Each block tagged `sh` is run by `bash -euo pipefail`, in order, from the root of
//! the repository, with the home directory elsewhere:
//!
//! * `cargo run --release -- ARGS` and `cargo run --release --bin NAME -- ARGS` run the built program;
//!   `metalbond-uring` is in the path.
//! * A server or client as the last line of a block is one in the foreground: it must listen, or get
//!   connected, and end in order on SIGINT.
//! * What ends in ` &` runs until the end of the README; a server must listen before the next line.
//! * Any other line with `cargo` is not run here, but must stand in `.ci/run` as it is.
//! * The ports 4711 to 4719 are replaced by free ones.
//!
//! Blocks with any other tag are not run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_readme_works() {
    let ran =
        run_all(&read("README.md"), &read(".ci/run")).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(ran > 0, "the README has no block tagged `sh` that starts anything");
}

#[test]
fn the_rules_hold() {
    let ci = "set -e\n  cargo test\n";
    let run = |readme: &str| run_all(readme, ci);
    let block = |lines: &str| format!("Text\n\n```sh\n{lines}\n```\n\n```text\nfalse\n```\n");
    // What is right.
    assert_eq!(run(&block("cargo test")), Ok(0));
    assert_eq!(run(&block("metalbond-uring --version | grep -q metalbond")), Ok(1));
    assert_eq!(run(&block("cargo run --release -- --cores 1 --listen '[::]:4711'")), Ok(1));
    let both = "metalbond-uring --cores 1 &\n(exec 3<>/dev/tcp/::1/4711) # it listens";
    assert_eq!(run(&block(both)), Ok(2));
    assert_eq!(run(&block("[ \"$HOME\" != /root ] && echo \\\n  \"$PWD\" | grep -q .")), Ok(1));
    // What is not.
    let fault = |lines: &str| run(&block(lines)).unwrap_err();
    assert!(fault("cargo test --all").contains(".ci/run"));
    assert!(fault("true\nfalse").contains("failed"));
    assert!(fault("false | true").contains("failed"));
    assert!(fault("metalbond-uring --listen 192.0.2.1:4711").contains("no interface"));
    assert!(fault("metalbond-uring --no-such-flag").contains("no-such-flag"));
    assert!(fault("metalbond-uring --cores 1 &\nmetalbond-uring").contains("address in use"));
    assert!(fault("metalbond-uring --cores 1\ntrue").contains("last line"));
    // zsh refuses what looks like a pattern of file names, so quote it.
    assert!(fault("metalbond-uring --cores 1 --listen [::]:4711").contains("no match"));
}

/// Runs a README. How many lines were run, or what is wrong.
fn run_all(readme: &str, ci: &str) -> Result<usize, String> {
    let place = Place::new();
    let mut background = Vec::new();
    let mut ran = 0;
    for block in blocks(readme) {
        let lines = logical_lines(&block);
        for (at, line) in lines.iter().enumerate() {
            let is_last = at + 1 == lines.len();
            let command = place.command(line);
            match kind(&command) {
                Kind::Nothing => continue,
                Kind::Checked => {
                    if !ci.lines().any(|run| run.trim() == line) {
                        return Err(format!(".ci/run has no line `{line}`"));
                    }
                    continue;
                }
                Kind::Background(command) => {
                    background.push(Running::start(&place, &command)?);
                }
                Kind::Foreground if is_last => {
                    Running::start(&place, &command)?.interrupt()?;
                }
                Kind::Foreground => return Err(format!("`{line}` must be its block's last line")),
                Kind::Shell => Running::start(&place, &command)?.finish()?,
            }
            ran += 1;
        }
    }
    Ok(ran)
}

/// How a line is run.
enum Kind {
    Nothing,
    Checked,
    Background(String),
    Foreground,
    Shell,
}

fn kind(command: &str) -> Kind {
    if command.is_empty() || command.starts_with('#') {
        Kind::Nothing
    } else if command.split_whitespace().any(|word| word == "cargo") {
        Kind::Checked
    } else if let Some(command) = command.strip_suffix(" &") {
        Kind::Background(command.to_owned())
    } else if is_server(command) {
        Kind::Foreground
    } else {
        Kind::Shell
    }
}

/// Whether a command is our server, which does not end by itself.
fn is_server(command: &str) -> bool {
    let mut words = command.split_whitespace().skip_while(|word| word.contains('='));
    let is_ours = words.next() == Some("metalbond-uring");
    let ends = ["--help", "-h", "--version", "-V", "|", "||", "&&"];
    let serves = |word: &str| {
        ["server", "client"].contains(&word) || word.starts_with('-') || word.starts_with('#')
    };
    is_ours
        && words.next().is_none_or(serves)
        && !command.split_whitespace().any(|word| ends.contains(&word))
}

/// The contents of the blocks tagged `sh`.
fn blocks(readme: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<(bool, String)> = None;
    for line in readme.lines() {
        match (&mut block, line.trim().strip_prefix("```")) {
            (None, Some(tag)) => block = Some((tag == "sh", String::new())),
            (Some(_), Some(_)) => {
                blocks.extend(block.take().filter(|(run, _)| *run).map(|(_, text)| text));
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The lines of a block, those that end in a backslash joined with the next.
fn logical_lines(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    joined.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Where commands run: free ports, and a home directory for this run alone.
struct Place {
    home: PathBuf,
    ports: BTreeMap<u16, u16>,
}

impl Place {
    fn new() -> Place {
        // A block of their own, below those that connections are given, while nobody has it.
        static BLOCKS: AtomicU16 = AtomicU16::new(0);
        let is_free = |port: &u16| TcpListener::bind(("::", *port)).is_ok();
        let block = || {
            let block = std::process::id() as u16 % 1_000 + BLOCKS.fetch_add(7, Ordering::Relaxed);
            10_000 + block % 1_000 * 10
        };
        let first = std::iter::repeat_with(block)
            .find(|first| (*first..first + 9).all(|port| is_free(&port)))
            .unwrap();
        let ports: BTreeMap<_, _> = (4711..=4719).zip(first..).collect();
        let unique = format!("readme-{}-{}", std::process::id(), ports[&4711]);
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique);
        std::fs::create_dir_all(&home).unwrap();
        Place { home, ports }
    }

    fn command(&self, line: &str) -> String {
        let mut command = line.to_owned();
        for (port, free) in &self.ports {
            command = command.replace(&port.to_string(), &free.to_string());
        }
        if let Some((before, program)) = command.split_once("cargo run --release --bin ") {
            command = format!("{before}{}", program.replacen(" -- ", " ", 1));
        }
        let command = command.replace("cargo run --release -- ", "metalbond-uring ");
        command.replace("cargo run --release", "metalbond-uring")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// A command that was started; killed when dropped.
struct Running {
    command: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    /// Starts it; a server is waited for until it listens.
    fn start(place: &Place, command: &str) -> Result<Running, String> {
        let programs = Path::new(env!("CARGO_BIN_EXE_metalbond-uring")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let number = std::fs::read_dir(&place.home).unwrap().count();
        let output = place.home.join(format!("output-{number}"));
        let file = std::fs::File::create(&output).unwrap();
        // A server takes the shell's place, so that its id is the child's.
        let script = if is_server(command) { format!("exec {command}") } else { command.into() };
        let default_port = format!("[::]:{}", place.ports[&4711]);
        let bare =
            is_server(command) && !command.contains("--listen") && !command.contains(" client ");
        let script = if bare { format!("{script} --listen '{default_port}'") } else { script };
        let child = Command::new("bash")
            .args(["-O", "failglob", "-euo", "pipefail", "-c", &script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", path)
            .env("HOME", &place.home)
            .env("TMPDIR", &place.home)
            .env("METALBOND_URING", env!("CARGO_BIN_EXE_metalbond-uring"))
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut running = Running { command: command.to_owned(), child, output };
        if is_server(command) {
            let word = if command.contains(" client ") { "connected" } else { "listening on" };
            let up = |running: &mut Running| running.written().contains(word);
            running.wait("listen or connect", up)?;
        }
        Ok(running)
    }

    /// Waits until it ends by itself, without an error.
    fn finish(&mut self) -> Result<(), String> {
        self.wait("end", |running| running.child.try_wait().unwrap().is_some())?;
        let status = self.child.wait().unwrap();
        if status.success() { Ok(()) } else { Err(self.fault(&format!("failed ({status})"))) }
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(&mut self) -> Result<(), String> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        self.finish()
    }

    fn wait(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Running) -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            if self.child.try_wait().unwrap().is_some() {
                return Err(self.fault(&format!("ended, and was to {what}")));
            }
            if Instant::now() > deadline {
                return Err(self.fault(&format!("did not {what} within {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn fault(&self, what: &str) -> String {
        format!("`{}` {what}:\n{}", self.command, self.written())
    }

    fn written(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
