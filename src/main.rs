//! The program `metalbond-uring`.
//!
//! Owns the process: its arguments, its output and its exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use metalbond_uring::api::{Config, DummyClient, MetalBond, NetlinkClient, NetlinkClientConfig};
use metalbond_uring::cli::{self, ClientOptions, Exit, Invocation, ServerOptions, Stream};
use metalbond_uring::io;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match cli::parse(&args) {
        Ok(Invocation::Server(options)) => serve(options),
        Ok(Invocation::Client(options)) => match client(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format_args!("{error:#}")),
        },
        Err(exit) => say(&exit),
    }
}

fn serve(options: ServerOptions) -> ExitCode {
    start_log(options.verbose);
    match io::serve(options.server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn client(options: ClientOptions) -> anyhow::Result<()> {
    start_log(options.verbose);
    let config = Config {
        keepalive_interval_s: options.keepalive_interval_s,
        hold_time: options.hold_time,
        ..Config::default()
    };
    let metalbond = match options.tun {
        Some(link_name) if !options.install_routes.is_empty() => {
            let client = NetlinkClient::new(NetlinkClientConfig {
                vni_table_map: options.install_routes,
                link_name,
                ipv4_only: options.ipv4_only,
                hops_max: options.hops_max,
                resync: options.resync,
            });
            MetalBond::new(config, client.context("--tun, --install-routes")?)?
        }
        _ => MetalBond::new(config, DummyClient)?,
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
    let name = io::wait_for_signal()?;
    tracing::info!("{name} received");
    match options.cleanup {
        true => metalbond.shutdown_and_cleanup(),
        false => metalbond.shutdown(),
    }
    Ok(())
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    let text = format!("{}: {error}\n", cli::PROGRAM);
    say(&Exit { code: 1, text, stream: Stream::Stderr })
}

/// Logs to stderr: `info` and above, or what RUST_LOG says; `--verbose` means `debug` for this program.
fn start_log(verbose: bool) {
    let default = if verbose { "info,metalbond_uring=debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn say(exit: &Exit) -> ExitCode {
    // Nobody may be listening any more (`--help | head -1`).
    let _ = match exit.stream {
        Stream::Stdout => std::io::stdout().write_all(exit.text.as_bytes()),
        Stream::Stderr => std::io::stderr().write_all(exit.text.as_bytes()),
    };
    ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
}
