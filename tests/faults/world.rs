//! Decides how the world is set up that faults happen in: Kafka, Redis, pods, and the network between them. I/O.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use crds::config::SidecarConfig;
use harness::kafka::{Kafka, Listener};
use harness::link::Link;
use harness::proxy::Proxy;
use harness::redis::RedisServer;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Mutex, RwLock};

use crate::history::ANSWERS;
use crate::kind::Kind;
use crate::pod::{Gate, Pod};

/// Pods that share the topic.
pub(crate) const PODS: usize = 3;
/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 6;
/// The consumer group.
pub(crate) const GROUP: &str = "under-faults";
/// The topic.
pub(crate) const TOPIC: &str = "events";
/// Where rejected events go.
pub(crate) const DEAD: &str = "dead-letters";

/// How one round is set up: another for each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Events flow without Redis.
    pub(crate) open: bool,
    pub(crate) ordering: &'static str,
    pub(crate) batch: u32,
}

impl Setup {
    /// The setup of round `number`.
    pub(crate) const fn of(number: usize) -> Self {
        const ALL: [Setup; 6] = [
            Setup { open: true, ordering: "Partition", batch: 1 },
            Setup { open: false, ordering: "Key", batch: 1 },
            Setup { open: true, ordering: "Partition", batch: 20 },
            Setup { open: false, ordering: "Unordered", batch: 1 },
            Setup { open: true, ordering: "Key", batch: 10 },
            Setup { open: false, ordering: "Partition", batch: 1 },
        ];
        ALL[number % ALL.len()]
    }
}

/// What is between one pod and the servers.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) kafka: Link,
    pub(crate) redis: Link,
    /// Behind `redis`: loses single messages.
    pub(crate) proxy: Proxy,
    /// One fault strikes them at a time.
    pub(crate) struck: Mutex<()>,
}

/// Everything that a fault can strike. Locks keep two faults from striking one thing.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) kafka: Mutex<Kafka>,
    pub(crate) bootstrap: String,
    pub(crate) redis: Mutex<RedisServer>,
    pub(crate) pods: Vec<Mutex<Pod>>,
    pub(crate) links: Vec<Links>,
    pub(crate) config: SidecarConfig,
    /// Held by whoever strikes all pods; shared by whoever strikes one.
    pub(crate) all_pods: RwLock<()>,
    /// How many further pods have come and gone.
    pub(crate) guests: AtomicUsize,
    /// Sidecars that ended without a fault having asked them to.
    pub(crate) unasked: AtomicU64,
    ending: AtomicBool,
}

impl World {
    /// A world in which nothing is wrong yet.
    pub(crate) async fn new(setup: Setup, gate: Gate) -> anyhow::Result<Arc<Self>> {
        let folder = TempDir::with_prefix("faults-")?;
        // What it acknowledged outlives a kill, as with a replica that was up to date: losing writes is a fault of its own.
        let redis =
            RedisServer::with(&["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"])?;
        let mut listeners = Vec::new();
        let mut links = Vec::new();
        for _ in 0..PODS {
            let broker = harness::port::free()?;
            let proxy = Proxy::start(redis.port()).await?;
            let kafka = Link::to(broker).await?;
            listeners.push(Listener { port: broker, advertised: kafka.port() });
            links.push(Links { kafka, redis: Link::to(proxy.port()).await?, proxy, struck: Mutex::default() });
        }
        let kafka = Kafka::start_behind(&listeners).await?;
        kafka.create_topic(TOPIC, PARTITIONS, &[]).await?;
        // The broker's time: the clock of the sidecar that wrote one may be a lie.
        kafka.create_topic(DEAD, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")]).await?;
        let config = config(setup)?;
        let mut pods = Vec::new();
        for (number, links) in links.iter().enumerate() {
            pods.push(Mutex::new(Pod::start(folder.path(), number, gate, &between(&config, links))?));
        }
        Ok(Arc::new(Self {
            folder,
            bootstrap: kafka.bootstrap(),
            kafka: Mutex::new(kafka),
            redis: Mutex::new(redis),
            pods,
            links,
            config,
            all_pods: RwLock::new(()),
            guests: AtomicUsize::new(0),
            unasked: AtomicU64::new(0),
            ending: AtomicBool::new(false),
        }))
    }

    /// The folder of this round's files.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts again what has ended, until [`World::end`].
    pub(crate) async fn tend(&self) -> anyhow::Result<()> {
        while !self.ending.load(Ordering::Relaxed) {
            for pod in &self.pods {
                // One that is being struck is left alone.
                if let Ok(mut pod) = pod.try_lock()
                    && pod.tend()?
                {
                    self.unasked.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Ends the pods in order.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        self.ending.store(true, Ordering::Relaxed);
        for pod in &self.pods {
            pod.lock().await.end().await?;
        }
        Ok(())
    }

    /// The folder of one more pod, and what its sidecar is told. No link is between it and the servers.
    pub(crate) async fn guest(&self, number: usize) -> anyhow::Result<(PathBuf, SidecarConfig)> {
        let mut config = self.config.clone();
        let home = self.path().join(format!("guest-{number}"));
        std::fs::create_dir_all(home.join("state"))?;
        config.kafka.bootstrap_servers.clone_from(&self.bootstrap);
        config.redis.url = Some(self.redis.lock().await.url());
        config.delivery.socket = home.join("app.sock");
        config.state_dir = Some(home.join("state"));
        Ok((home, config))
    }
}

/// What every sidecar is told. Short times, so that a round sees many of each.
fn config(setup: Setup) -> anyhow::Result<SidecarConfig> {
    let batch = if setup.batch > 1 { json!({"maxEvents": setup.batch}) } else { json!({}) };
    serde_json::from_value(json!({
        "version": crds::config::VERSION,
        "group": GROUP,
        "topics": [TOPIC],
        "kafka": {
            "bootstrapServers": "unset",
            "properties": {
                "session.timeout.ms": "4500",
                "heartbeat.interval.ms": "300",
                "reconnect.backoff.max.ms": "500",
            },
        },
        "redis": {"url": "unset", "failurePolicy": if setup.open { "Open" } else { "Closed" }},
        "session": {"ttl": "1500ms"},
        "delivery": {
            "timeout": format!("{ANSWERS}ms"),
            "ordering": setup.ordering,
            "concurrency": 8,
            "batch": batch,
            "backoff": {"min": "20ms", "max": "500ms"},
            "deadLetterTopic": DEAD,
            "appDownTimeout": "20s",
        },
        "drainTimeout": "5s",
        "admin": {"bind": "127.0.0.1:0"},
    }))
    .context("the configuration of a round")
}

/// The same, over the links of one pod.
fn between(config: &SidecarConfig, links: &Links) -> SidecarConfig {
    let mut config = config.clone();
    config.kafka.bootstrap_servers = format!("127.0.0.1:{}", links.kafka.port());
    config.redis.url = Some(format!("redis://127.0.0.1:{}", links.redis.port()));
    config
}

/// Kinds of faults that this machine can do: without the library that lies about the time, no clock jumps.
pub(crate) fn kinds() -> anyhow::Result<Vec<Kind>> {
    faketime()?;
    Ok(Kind::all())
}

/// The library that lies about the time.
pub(crate) fn faketime() -> anyhow::Result<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").context("no /usr/lib")?.flatten();
    let library = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    library.context("libfaketime is missing: apt-get install faketime")
}
