//! Decides what `make bench` compares: gates on one topic, one Redis, one app, in turn, round after round. I/O.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot go on ends")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is for the person who runs it")]
#![allow(unreachable_pub, reason = "a binary of several files")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use harness::in_repo;
use harness::kafka::Kafka;
use harness::process::Program;
use harness::publish::Publisher;
use tempfile::TempDir;

mod app;
mod events;
mod gates;
mod measure;
mod naive;
mod report;
mod runs;

use gates::Gate;
use runs::{Bench, Run};

/// Partitions of the topic.
const PARTITIONS: i32 = 12;

/// Compares the sidecar with the Python decorator and a naive loop, on a real Kafka and a real Redis.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rounds that count; one before them does not.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Records in the topic.
    #[arg(long, default_value_t = 200_000)]
    records: usize,
    /// Seconds for each gate that does not take the whole topic.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// These gates alone: decorator, decorator-tuned, naive, one, keys, batch.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Chooses where duplicates stand.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report to docs/benchmarks.md too.
    #[arg(long)]
    write: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The app.
    #[command(hide = true)]
    App {
        #[arg(long)]
        socket: PathBuf,
    },
    /// The naive gate.
    #[command(hide = true)]
    Naive(naive::Naive),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.part {
        Some(Part::App { socket }) => app::serve(&socket).await,
        Some(Part::Naive(naive)) => naive::consume(naive).await,
        None => compare(args).await,
    }
}

async fn compare(args: Args) -> anyhow::Result<()> {
    let named = |gate: &Gate| args.only.is_empty() || args.only.iter().any(|name| name == gate.name());
    let gates: Vec<Gate> = Gate::ALL.into_iter().filter(named).collect();
    anyhow::ensure!(!gates.is_empty(), "--only names no gate");
    let bench = start(&args).await?;
    let mut runs = Vec::new();
    let mut number = 0;
    // The first round warms the broker's compiler and the page cache.
    for round in 0..=args.rounds {
        for gate in &gates {
            number += 1;
            let run = bench.run(*gate, number).await?;
            tell(round, *gate, &run);
            if round > 0 {
                runs.push((*gate, run));
            }
        }
    }
    let mut text = report::report(&runs, args.records, args.seconds, PARTITIONS);
    text.push_str(&memory(&bench, &runs).await?);
    println!("\n{text}");
    if args.write {
        let file = in_repo("docs/benchmarks.md");
        let before = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let kept = report::replace_figures(&before, &text);
        std::fs::write(&file, kept).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Starts what all gates share, and publishes the events.
async fn start(args: &Args) -> anyhow::Result<Bench> {
    let dir = TempDir::with_prefix("bench-")?;
    let port = harness::port::free()?;
    let redis = Program::new("redis", "redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path())
        .start(dir.path())?;
    let kafka = Kafka::start_for_bench().await?;
    let broker = kafka.pid().context("Kafka is not running")?;
    let topic = "huleedu.essay.spellcheck.completed.v1".to_owned();
    kafka.create_topic(&topic, PARTITIONS, &[]).await?;
    let events = events::events(args.records, PARTITIONS, args.seed);
    eprintln!("publishing {} records of {} events (seed {})", args.records, events.unique, args.seed);
    Publisher::new(&kafka.bootstrap())?.send_all(&topic, events.records).await?;
    Ok(Bench {
        kafka,
        broker,
        redis,
        redis_url: format!("redis://127.0.0.1:{port}"),
        topic,
        records: args.records,
        unique: events.unique,
        time: Duration::from_secs(args.seconds),
        dir,
    })
}

fn tell(round: usize, gate: Gate, run: &Run) {
    let [own, redis, app, broker] = run.cpu;
    eprintln!(
        "round {round} {:15} {:8.0}/s  CPU µs an event: gate {own:.1}, Redis {redis:.1}, app {app:.1}, broker {broker:.1}; {} KiB",
        gate.name(),
        run.rate,
        run.resident
    );
}

/// The sidecar's memory, when it was measured.
async fn memory(bench: &Bench, runs: &[(Gate, Run)]) -> anyhow::Result<String> {
    let after = runs.iter().filter(|(gate, _)| gate.takes_all()).map(|(_, run)| run.resident).max();
    let Some(after) = after else { return Ok(String::new()) };
    let idle = bench.idle().await?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let size = std::fs::metadata(harness::process::built("sidecar")?)?.len();
    Ok(format!(
        "\nThe sidecar's resident memory: {:.1} MiB idle (joined, no records), at most {:.1} MiB at the end of a run. Its \
         release binary: {:.1} MB.\n",
        mib(idle),
        mib(after),
        size as f64 / 1e6
    ))
}
