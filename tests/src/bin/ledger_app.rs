//! Decides how the ledger app runs as a process of its own: it completes every event, and writes down each effect before it answers,
//! to a file or (in a pod) to the harness's ledger. I/O.
#![allow(clippy::print_stderr, reason = "its output is the log that a test shows")]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use harness::app::{Act, App, Effects, Listen, act};
use harness::cluster::pod_app::{self, Settings};
use harness::ledger::Ledger;

/// An app that writes down each effect before it answers.
#[derive(Debug, Parser)]
struct Args {
    /// Unix socket to listen on.
    #[arg(long, env = "IDEMPOTENCY_SOCKET", required_unless_present = "port", conflicts_with = "port")]
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
    /// The harness's ledger, as `host:port`: it keeps the effects, and tells how to behave.
    #[arg(long, env = "LEDGER_SERVER", conflicts_with = "ledger", requires = "pod")]
    ledger_server: Option<String>,
    /// Name of the pod, for that ledger.
    #[arg(long, env = "POD_NAME")]
    pod: Option<String>,
    /// Port on which a liveness probe is answered, with that ledger.
    #[arg(long, requires = "ledger_server")]
    live_port: Option<u16>,
    /// Print each event to standard output.
    #[arg(long)]
    print: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listen = match (args.socket, args.port) {
        (Some(path), _) => Listen::Unix(path),
        (None, port) => Listen::Tcp(port.unwrap_or(0)),
    };
    if let (Some(ledger), Some(pod)) = (args.ledger_server, args.pod) {
        return pod_app::run(Settings { listen, ledger, pod, live_port: args.live_port, print: args.print }).await;
    }
    let work = Duration::from_millis(args.work);
    let (ledger, effects) = match &args.ledger {
        Some(path) => (Ledger::file(path, args.fsync)?, Effects::All),
        None => (Ledger::new(), Effects::None),
    };
    let behaviour = act(move |request| {
        if args.print {
            pod_app::print(request);
        }
        Act { effects: effects.clone(), ..Act::complete().after(work) }
    });
    let mut app = App::stopped(listen, behaviour, ledger);
    app.keep_nothing();
    app.listen()?;
    eprintln!("listening on {:?}", app.at());
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
    Ok(())
}
