//! Decides nothing: shows the sidecar at work with nothing installed. An embedded broker and store, a sample app behind a real
//! unix socket, duplicates, a killed app, a store that goes away; and at the end, what every event came to. I/O.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crds::config::SidecarConfig;
use crds::status::SidecarStatus;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::args::{DemoArgs, exit};
use crate::deliver::HttpDelivery;
use crate::kafka::mock::EmbeddedBroker;
use crate::run::Service;
use crate::settings::{KafkaSettings, RedisSettings, Secret, Settings};
use crate::store::memory::MemoryStore;

mod app;
mod report;
mod topic;

use app::App;
use report::Report;

const TOPIC: &str = "demo-events";
const GROUP: &str = "demo";
/// How long the store is away.
const OUTAGE: Duration = Duration::from_secs(2);
/// A demo that takes longer has stalled.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs the demo and prints its table. The code is 1 if an event was lost, or came twice outside a named window.
#[must_use]
pub fn run(args: &DemoArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::args::tell(&error, exit::INTERNAL),
    };
    match runtime.block_on(play(args)) {
        Ok(report) => {
            // Whoever closes standard output early has seen enough; the code still tells.
            let _ = writeln!(std::io::stdout(), "{report}");
            if report.kept_its_promise() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => crate::args::tell(error.as_ref(), exit::INTERNAL),
    }
}

async fn play(args: &DemoArgs) -> Result<Report> {
    let seed = args.seed.unwrap_or_else(rand::random);
    let folder = temporary_folder()?;
    let broker = EmbeddedBroker::start(&[(TOPIC, i32::from(args.partitions))])?;
    let records = topic::records(args, seed);
    let ends = topic::publish(broker.bootstrap_servers(), &records).await.context("publishing the demo's events")?;
    let socket = folder.0.join("app.sock");
    let settings = settings(broker.bootstrap_servers(), &socket)?;
    let store = MemoryStore::new();
    let deliver = Arc::new(HttpDelivery::new(&settings.config.delivery));
    let service = Service::start(settings, Arc::new(store.clone()), deliver, &Handle::current()).await?;
    let status = service.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let sidecar = tokio::spawn(service.serve(async move {
        let _ = stopped.await;
    }));
    let mut app = App::start(&socket).await?;
    let bar = progress_bar(records.len() as u64);
    let began = Instant::now();
    watch_until(&status, &bar, began, |now| settled(now) >= records.len() as u64 / 2).await?;
    bar.set_message("the app is killed, the store goes away");
    store.set_available(false);
    app.kill().await;
    sleep(OUTAGE / 2).await;
    bar.set_message("the app is back, the store is still away");
    app.restart(&socket).await?;
    sleep(OUTAGE / 2).await;
    store.set_available(true);
    bar.set_message("the store is back");
    watch_until(&status, &bar, began, |now| is_through(now, &ends)).await?;
    let took = began.elapsed();
    bar.finish_and_clear();
    let _ = stop.send(());
    sidecar.await.context("the sidecar's task")??;
    let counters = status.borrow().counters;
    Ok(Report::new(seed, &records, &app.ledger(), counters, took))
}

fn settings(bootstrap: &str, socket: &std::path::Path) -> Result<Settings> {
    let config: SidecarConfig = serde_json::from_value(json!({
        "version": 1,
        "group": GROUP,
        "topics": [TOPIC],
        "kafka": {"bootstrapServers": bootstrap},
        "redis": {"url": "redis://embedded"},
        "delivery": {"socket": socket},
        "admin": {"bind": "127.0.0.1:0"},
    }))?;
    let redis = RedisSettings {
        urls: Vec::new(),
        username: None,
        password: None,
        ca_pem: None,
        client_pem: None,
        topology: config.redis.topology,
        sentinel_master: None,
        claim_command: config.redis.claim_command,
        timeout: config.redis.timeout.get(),
    };
    let kafka = KafkaSettings {
        properties: vec![("bootstrap.servers".into(), Secret::new(bootstrap))],
        group: GROUP.into(),
        topics: vec![TOPIC.into()],
    };
    Ok(Settings { config, redis, kafka, drain_token: None })
}

async fn watch_until(
    status: &watch::Receiver<Arc<SidecarStatus>>,
    bar: &ProgressBar,
    began: Instant,
    reached: impl Fn(&SidecarStatus) -> bool,
) -> Result<()> {
    let mut status = status.clone();
    loop {
        let now = status.borrow_and_update().clone();
        bar.set_position(settled(&now));
        if reached(&now) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("the demo has stalled: {}", serde_json::to_string(&*now)?);
        }
        tokio::time::timeout(Duration::from_secs(5), status.changed()).await.context("the sidecar is silent")??;
    }
}

fn settled(status: &SidecarStatus) -> u64 {
    status.counters.completed + status.counters.duplicates
}

/// Every partition's watermark has reached its end.
fn is_through(status: &SidecarStatus, ends: &[i64]) -> bool {
    ends.iter().enumerate().all(|(partition, end)| {
        let held = status.partitions.iter().find(|held| usize::try_from(held.partition) == Ok(partition));
        *end == 0 || held.and_then(|held| held.watermark) == Some(*end)
    })
}

fn progress_bar(records: u64) -> ProgressBar {
    let bar = ProgressBar::new(records);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} records  {msg}") {
        bar.set_style(style);
    }
    bar.set_message("consuming");
    bar
}

/// A folder that goes with its owner.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn temporary_folder() -> Result<Folder> {
    let path = std::env::temp_dir().join(format!("idempotency-demo-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
    Ok(Folder(path))
}
