//! Decides how the ledger app runs as a process of its own, for tests that kill it and for benches: it completes every event. I/O.
#![allow(clippy::print_stderr, reason = "its output is the log that a test shows")]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use harness::app::{Act, App, Effects, Listen, act};
use harness::ledger::Ledger;

/// An app that appends each effect to a file before it answers.
#[derive(Debug, Parser)]
struct Args {
    /// Unix socket to listen on.
    #[arg(long, required_unless_present = "port", conflicts_with = "port")]
    socket: Option<PathBuf>,
    /// Loopback port to listen on instead.
    #[arg(long)]
    port: Option<u16>,
    /// File to append the effects to; without it nothing is kept.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Sync the file after each request.
    #[arg(long, requires = "ledger")]
    fsync: bool,
    /// Milliseconds of work for each request, before the effect.
    #[arg(long, default_value_t = 0)]
    work: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let at = match (args.socket, args.port) {
        (Some(path), _) => Listen::Unix(path),
        (None, port) => Listen::Tcp(port.unwrap_or(0)),
    };
    let work = Duration::from_millis(args.work);
    let (ledger, effects) = match &args.ledger {
        Some(path) => (Ledger::file(path, args.fsync)?, Effects::All),
        None => (Ledger::new(), Effects::None),
    };
    let behaviour = act(move |_| Act { effects: effects.clone(), ..Act::complete().after(work) });
    let mut app = App::stopped(at, behaviour, ledger);
    app.keep_nothing();
    app.listen()?;
    eprintln!("listening on {:?}", app.at());
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
    Ok(())
}
