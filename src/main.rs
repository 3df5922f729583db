//! The program `metalbond-uring`.
//!
//! Owns the process: its arguments, its output and its exit code.

mod ask;
mod detach;
mod diagnostics;
mod diff;
mod show;
mod supervisor;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use metalbond_uring::api::{DummyClient, HttpOptions, MetalBond, NetlinkClient};
use metalbond_uring::internals::cli::{
    self, ClientOptions, Exit, ForgetOptions, Invocation, ServerOptions, Stream,
};
use metalbond_uring::internals::http::{HttpListener, View};
use metalbond_uring::internals::io;

/// What is said when the log's thread cannot start.
const NO_LOG: &str = "cannot start the log";

/// What is said when the watchdog's thread cannot start.
const NO_WATCHDOG: &str = "cannot tell the watchdog that all is well";

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    io::survive_file_size_limit();
    match cli::parse(&args) {
        Ok(Invocation::Server(options)) if options.detach => detached(),
        Ok(Invocation::Server(options)) => end(serve(options)),
        Ok(Invocation::Client(options)) => end(client(options)),
        Ok(Invocation::Show(options)) => done(show::run(&options)),
        Ok(Invocation::Diff(options)) => done(diff::run(&options)),
        Ok(Invocation::Forget(options)) => done(forget(&options)),
        Err(exit) => say(&exit),
    }
}

/// The same in the background. Why it does not serve, it has said by itself.
fn detached() -> ExitCode {
    match detach::start() {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(status)) => {
            let text = match status.code() {
                Some(_) => String::new(),
                None => format!("{}: {status}\n", cli::PROGRAM),
            };
            say(&Exit { code: detach::code_of(status), text, stream: Stream::Stderr })
        }
        Err(error) => end(Err(anyhow::Error::new(error).context("cannot start in the background"))),
    }
}

fn serve(options: ServerOptions) -> anyhow::Result<()> {
    detach::leave_terminal();
    diagnostics::start(options.log_format, options.verbose).context(NO_LOG)?;
    let handover =
        options.handover.map(|options| io::Handover::begin(options, cli::VERSION)).transpose();
    let mut handover = handover?;
    let takes_over = handover.as_ref().is_some_and(io::Handover::takes_over);
    let inherit = |address| handover.as_mut()?.inherit_http(address);
    let http =
        options.http.map(|address| HttpListener::bind_or_inherit(&address, inherit)).transpose();
    let http = http.context("--http")?;
    if let (Some(handover), Some(http)) = (&mut handover, &http) {
        handover.offer_http(http.socket().context("--http")?);
    }
    let signals = io::Signals::watch(supervisor::stopping)?;
    io::serve(options.server, handover, signals, |asker| {
        let mut view = View::new(asker.clone(), cli::VERSION);
        if options.metrics_per_peer {
            view = view.with_metrics_per_peer();
        }
        let http = http.map(|listener| listener.serve(view)).transpose().context("--http")?;
        supervisor::ready(asker, takes_over).context(NO_WATCHDOG)?;
        detach::serves();
        Ok(http)
    })
}

fn client(options: ClientOptions) -> anyhow::Result<()> {
    diagnostics::start(options.log_format, options.verbose).context(NO_LOG)?;
    let signals = io::Signals::watch(supervisor::stopping)?;
    let mut http =
        HttpOptions { metrics_per_peer: options.metrics_per_peer, ..HttpOptions::default() };
    let metalbond = match options.kernel {
        Some(kernel) => {
            let client = NetlinkClient::new(kernel).context("--tun, --install-routes")?;
            http.kernel = Some(client.watch());
            MetalBond::new(options.node, client)?
        }
        None => MetalBond::new(options.node, DummyClient)?,
    };
    for vni in options.subscribe {
        metalbond.subscribe(vni)?;
    }
    for (vni, route) in options.announce {
        metalbond.announce_route(vni, route.destination, route.next_hop)?;
    }
    for server in options.servers {
        metalbond.add_peer(&server, None)?;
    }
    // Behind the servers: it is not ready before one of them is established.
    if let Some(address) = options.http {
        metalbond.start_http_server_with(&address.to_string(), http).context("--http")?;
    }
    supervisor::ready(metalbond.asker(), false).context(NO_WATCHDOG)?;
    signals.wait();
    match options.cleanup {
        true => metalbond.shutdown_and_cleanup(),
        false => metalbond.shutdown(),
    }
    Ok(())
}

/// Has the others forget a reflector.
fn forget(options: &ForgetOptions) -> Result<(), Exit> {
    let ForgetOptions { fabric, reflector, force } = options;
    let name = cli::PROGRAM;
    let removed = io::forget(fabric, reflector, *force).map_err(|error| Exit {
        code: 1,
        text: format!("{name} fabric forget: {error}\n"),
        stream: Stream::Stderr,
    })?;
    let text = format!("forgot {reflector}: {removed} routes removed\n");
    Err(Exit { code: 0, text, stream: Stream::Stdout })
}

fn end(result: anyhow::Result<()>) -> ExitCode {
    if let Err(error) = result {
        let text = format!("{}: {}\n", cli::PROGRAM, told(&error));
        return say(&Exit { code: 1, text, stream: Stream::Stderr });
    }
    diagnostics::flush();
    ExitCode::SUCCESS
}

/// What went wrong, and why: each cause that is not told by what it led to.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The end of what only asks.
fn done(result: Result<(), Exit>) -> ExitCode {
    result.map_or_else(|exit| say(&exit), |()| ExitCode::SUCCESS)
}

fn say(exit: &Exit) -> ExitCode {
    match exit.stream {
        // Nobody may be listening any more (`--help | head -1`).
        Stream::Stdout => drop(std::io::stdout().write_all(exit.text.as_bytes())),
        Stream::Stderr => diagnostics::say(&exit.text),
    }
    diagnostics::flush();
    ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
}
