//! Decides how one run is measured: from the first event to the last, and checked against what was published. I/O.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::decorator::Places;
use harness::kafka::Kafka;
use harness::offsets::Offsets;
use harness::process::{Process, Program};
use harness::wait::eventually;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::app::{Client, Count};
use crate::gates::Gate;
use crate::measure;

/// How long a gate may take until its first event, and a fast one for all of them.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at the app's count.
const LOOK: Duration = Duration::from_millis(10);

/// What all runs share.
pub(crate) struct Bench {
    pub(crate) kafka: Kafka,
    pub(crate) broker: u32,
    pub(crate) redis: Process,
    pub(crate) redis_url: String,
    pub(crate) topic: String,
    pub(crate) records: usize,
    pub(crate) unique: usize,
    /// How long the slow ones are watched.
    pub(crate) time: Duration,
    pub(crate) dir: TempDir,
}

/// What one run has shown.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Records that passed the gate in a second.
    pub(crate) rate: f64,
    /// CPU time for each of them in microseconds: gate, Redis, app, broker.
    pub(crate) cpu: [f64; 4],
    /// The gate's memory after the last event, in KiB.
    pub(crate) resident: u64,
}

/// What was seen at one moment.
struct Moment {
    count: Count,
    cpu: [u64; 4],
}

impl Bench {
    /// Runs a gate on an empty Redis, in a new group, with a new app.
    pub(crate) async fn run(&self, gate: Gate, number: usize) -> anyhow::Result<Run> {
        self.empty_redis().await?;
        let socket = self.dir.path().join(format!("{number}.sock"));
        let group = format!("{}-{number}", gate.name());
        let app = Program::new("app", std::env::current_exe()?).args(["app", "--socket"]).arg(&socket);
        let app = app.start(self.dir.path())?;
        let mut client = eventually("the app listens", PATIENCE, async || Client::connect(socket.clone()).await).await;
        let (kafka, redis) = (self.kafka.bootstrap(), self.redis_url.as_str());
        let places = Places { kafka: &kafka, topic: &self.topic, group: &group, redis, socket: &socket };
        let mut process = gate.start(self.dir.path(), &places)?;
        let pids = [process.pid(), self.redis.pid(), app.pid(), self.broker];
        let first = self.watch(&mut process, &mut client, pids, |count| count.events > 0).await?;
        let all = self.unique as u64;
        let (takes_all, until) = (gate.takes_all(), Instant::now() + self.time);
        let done = |count: &Count| if takes_all { count.events == all } else { Instant::now() >= until };
        let last = self.watch(&mut process, &mut client, pids, done).await?;
        let resident = measure::resident(process.pid())?;
        if takes_all {
            self.all_is_committed(&group).await?;
        }
        let told = end(&mut process).await?;
        // Only now nothing is under way any more.
        let whole = client.count().await?;
        ensure!(whole.again == 0, "{}: {} events came twice", gate.name(), whole.again);
        let records = match told {
            _ if takes_all => self.records as f64 / all as f64,
            Some((delivered, duplicates)) => {
                ensure!(
                    delivered == whole.events,
                    "{} delivered {delivered}, the app has {}",
                    gate.name(),
                    whole.events
                );
                (delivered + duplicates) as f64 / delivered as f64
            }
            None => anyhow::bail!("{} does not tell what it did:\n{}", gate.name(), process.log()),
        };
        Ok(run(&first, &last, records, resident))
    }

    /// Looks until the condition holds.
    async fn watch(
        &self,
        gate: &mut Process,
        app: &mut Client,
        pids: [u32; 4],
        done: impl Fn(&Count) -> bool,
    ) -> anyhow::Result<Moment> {
        let start = Instant::now();
        loop {
            gate.must_run()?;
            let count = app.count().await?;
            if done(&count) {
                let mut cpu = [0; 4];
                for (cpu, pid) in cpu.iter_mut().zip(pids) {
                    *cpu = measure::cpu(pid)?;
                }
                return Ok(Moment { count, cpu });
            }
            ensure!(start.elapsed() < PATIENCE, "{}: {count:?} of {} after {PATIENCE:?}", gate.name(), self.unique);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn all_is_committed(&self, group: &str) -> anyhow::Result<()> {
        let offsets = Offsets::of(&self.kafka.bootstrap(), group)?;
        let ends = offsets.ends(&self.topic).await?;
        eventually("every offset is committed", PATIENCE, async || {
            let committed = offsets.committed(&self.topic).await?;
            ensure!(committed == ends, "{committed:?} of {ends:?}");
            Ok(())
        })
        .await;
        Ok(())
    }

    async fn empty_redis(&self) -> anyhow::Result<()> {
        let client = redis::Client::open(self.redis_url.as_str())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHALL").arg("SYNC").query_async::<()>(&mut connection).await.context("FLUSHALL")
    }

    /// What the sidecar holds when it has nothing to do, in KiB: started, joined, on a topic without records.
    pub(crate) async fn idle(&self) -> anyhow::Result<u64> {
        self.kafka.create_topic("idle", 12, &[]).await?;
        let socket: PathBuf = self.dir.path().join("idle.sock");
        let app = Program::new("app", std::env::current_exe()?).args(["app", "--socket"]).arg(&socket);
        let _app = app.start(self.dir.path())?;
        let _client = eventually("the app listens", PATIENCE, async || Client::connect(socket.clone()).await).await;
        let kafka = self.kafka.bootstrap();
        let places = Places { kafka: &kafka, topic: "idle", group: "idle", redis: &self.redis_url, socket: &socket };
        let mut process = Gate::One.start(self.dir.path(), &places)?;
        let offsets = Offsets::of(&kafka, "idle")?;
        eventually("the sidecar has joined", PATIENCE, async || offsets.members().await.map(|n| n == 1)).await;
        // Its first statistics, renewals and metadata are part of it.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let resident = measure::resident(process.pid())?;
        end(&mut process).await?;
        Ok(resident)
    }
}

fn run(first: &Moment, last: &Moment, records: f64, resident: u64) -> Run {
    let events = (last.count.events - first.count.events) as f64 * records;
    let seconds = (last.count.last - first.count.last) as f64 / 1e6;
    let mut cpu = [0.0; 4];
    for (n, cpu) in cpu.iter_mut().enumerate() {
        *cpu = (last.cpu[n] - first.cpu[n]) as f64 / events;
    }
    Run { rate: events / seconds, cpu, resident }
}

/// Ends a gate; what it says it has delivered and skipped.
async fn end(process: &mut Process) -> anyhow::Result<Option<(u64, u64)>> {
    process.signal(Signal::TERM)?;
    let status = process.wait(Duration::from_secs(60)).await;
    ensure!(status.success(), "{} ended with {status}:\n{}", process.name(), process.log());
    let log = process.log();
    let told = log.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let number = |name: &str| told.as_ref()?.get(name)?.as_u64();
    Ok(number("delivered").zip(number("duplicates")))
}
