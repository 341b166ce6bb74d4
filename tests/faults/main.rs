//! Decides what `make faults` does: rounds of faults at random, by seed, over real Kafka, real Redis, and sidecars and apps as processes;
//! then checks that nothing was lost and nothing came twice outside a named window. I/O.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness that cannot go on ends")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is for the person who runs it")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use harness::in_repo;
use rand::RngExt;

mod app;
mod check;
mod history;
mod inject;
mod kind;
mod load;
mod one_phase;
mod pod;
mod report;
mod round;
mod schedule;
mod world;

use kind::Kind;
use pod::Gate;
use report::Run;
use round::Plan;
use world::Setup;

/// Injects faults and checks that the promise is kept. Exit 1 if it is not; with a gate that can't keep it, if that is not seen.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rounds; each has a world and a setup of its own.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The setup of the first round; the next one has the next.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Seconds of faults in a round.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Records a second.
    #[arg(long, default_value_t = 250.0)]
    rate: f64,
    /// Chooses everything; by chance where it is not given.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Only faults of these names, as the table has them, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// What gates the events.
    #[arg(long, value_enum, default_value = "ours")]
    gate: Gate,
    /// Write the tables to docs/proof.md too.
    #[arg(long)]
    write: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Measures, with the time-outs of production, from SIGKILL of a sidecar until its partitions flow again.
    Recovery {
        /// Kills; every other one takes the whole pod.
        #[arg(long, default_value_t = 20)]
        kills: u32,
    },
    /// The app.
    #[command(hide = true)]
    App(app::Settings),
    /// The gate that loses events.
    #[command(hide = true)]
    OnePhase(one_phase::Settings),
}

impl Args {
    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    match args.part {
        Some(Part::App(settings)) => app::serve(settings).await.map(|()| ExitCode::SUCCESS),
        Some(Part::OnePhase(settings)) => one_phase::consume(settings).await.map(|()| ExitCode::SUCCESS),
        Some(Part::Recovery { kills }) => recovery(&args, kills).await,
        None => rounds(&args).await,
    }
}

/// Faults at once.
const LANES: u64 = 3;
/// Between two kills whose recovery is measured: longer than Kafka's session time-out.
const REST: Duration = Duration::from_secs(20);

async fn recovery(args: &Args, kills: u32) -> anyhow::Result<ExitCode> {
    let seed = args.seed();
    println!("{kills} kills, seed {seed}: some {} minutes", (REST * kills).as_secs() / 60 + 1);
    let outcome = round::play(Plan {
        seed,
        setup: Setup { short: false, ..Setup::of(0) },
        gate: Gate::Ours,
        // The last one begins before that.
        faults: REST * kills,
        kinds: vec![Kind::KillSidecar, Kind::KillPod],
        lanes: 1,
        rest: REST,
        rate: args.rate,
    })
    .await?;
    let verdict = check::check(&outcome.evidence);
    print!("{}", verdict.wrongs());
    let told = report::recovery(&verdict);
    println!("{told}");
    if args.write {
        report::write(&in_repo("docs/proof.md"), "recovery", &told)?;
    }
    Ok(if verdict.is_kept() && outcome.settled.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn rounds(args: &Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed();
    let started = Instant::now();
    let mut run = Run { command: command(args, seed), ..Run::default() };
    let mut kept = true;
    for number in args.first..args.first + args.rounds {
        let mut setup = Setup::of(number);
        // It knows no sentinels.
        setup.sentinel &= args.gate == Gate::Ours;
        let seed = seed + number as u64;
        let faults = Duration::from_secs(args.seconds);
        let named = |kind: &Kind| args.only.is_empty() || args.only.contains(&kind.name());
        let kinds: Vec<Kind> = setup.kinds().into_iter().filter(named).collect();
        anyhow::ensure!(
            !kinds.is_empty(),
            "--only: the setup of round {number} knows no fault of the names {:?}",
            args.only
        );
        let rest = Duration::ZERO;
        let plan = Plan { seed, setup, gate: args.gate, faults, kinds, lanes: LANES, rest, rate: args.rate };
        let outcome = round::play(plan).await?;
        let verdict = check::check(&outcome.evidence);
        let struck = &outcome.evidence.history.faults;
        println!(
            "round {number}: seed {seed}, {setup:?}: {} faults, {} records, {} events, lost {}, second effects {} in windows, {} outside, \
             commits past an unsettled record {}; sidecars that ended unasked {}",
            struck.len(),
            verdict.records,
            verdict.events,
            verdict.lost.len(),
            verdict.second.values().sum::<usize>(),
            verdict.outside.len(),
            verdict.past.len(),
            outcome.unasked
        );
        if let Err(last) = &outcome.settled {
            println!("round {number} did not settle: {last}");
        }
        print!("{}", verdict.wrongs());
        let as_it_must_be = match args.gate {
            Gate::Ours => verdict.is_kept() && outcome.settled.is_ok(),
            Gate::OnePhase => !verdict.lost.is_empty(),
        };
        if !as_it_must_be {
            round::keep(&outcome.world);
        }
        kept &= as_it_must_be;
        run.seeds.push(seed);
        struck.iter().for_each(|fault| *run.faults.entry(fault.kind).or_default() += 1);
        run.unasked += outcome.unasked;
        run.verdict.add(verdict);
    }
    run.seconds = started.elapsed().as_secs();
    let told = report::markdown(&run);
    println!("\n{told}");
    if args.write {
        report::write(&in_repo("docs/proof.md"), "faults", &told)?;
    }
    let (faults, seconds): (usize, u64) = (run.faults.values().sum(), run.seconds);
    println!(
        "faults result: {}. {faults} faults of {} kinds, {} records, lost {}, second effects outside windows {}; finished in {seconds}s",
        if kept { "ok" } else { "FAILED" },
        run.faults.len(),
        run.verdict.records,
        run.verdict.lost.len(),
        run.verdict.outside.len(),
    );
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn command(args: &Args, seed: u64) -> String {
    let gate = if args.gate == Gate::OnePhase { " --gate one-phase" } else { "" };
    let Args { rounds, first, seconds, rate, .. } = args;
    let only = if args.only.is_empty() { String::new() } else { format!(" --only '{}'", args.only.join(",")) };
    format!(
        "make faults ARGS=\"--rounds {rounds} --first {first} --seconds {seconds} --rate {rate} --seed {seed}{gate}{only}\""
    )
}
