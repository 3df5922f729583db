//! The program `metalbond-uring`.
//!
//! Owns the process: its arguments, its output and its exit code.

use std::io::Write;
use std::process::ExitCode;

use metalbond_uring::cli::{self, Exit, Invocation, Stream};

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match cli::parse(&args) {
        Ok(Invocation::Server(_)) => ExitCode::SUCCESS,
        Err(exit) => say(&exit),
    }
}

fn say(exit: &Exit) -> ExitCode {
    // Nobody may be listening any more (`--help | head -1`).
    let _ = match exit.stream {
        Stream::Stdout => std::io::stdout().write_all(exit.text.as_bytes()),
        Stream::Stderr => std::io::stderr().write_all(exit.text.as_bytes()),
    };
    ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
}
