//! Decides how the world is set up that faults happen in: Kafka, Redis, pods, and the network between them. I/O.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use crds::config::SidecarConfig;
use harness::kafka::{KafkaCluster, Listener};
use harness::link::Link;
use harness::proxy::Proxy;
use harness::redis::{RedisSentinel, RedisServer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, RwLock};

use crate::history::{ANSWERS, Interval};
use crate::kind::Kind;
use crate::pod::{Gate, Pod};

/// Pods that share the topic.
pub(crate) const PODS: usize = 3;
/// Partitions of the topic.
pub(crate) const PARTITIONS: i32 = 6;
/// The consumer group.
pub(crate) const GROUP: &str = "under-faults";
/// How long a master may be silent until its replica takes its place. On two cores, beside brokers that start: not too short.
const SILENCE: Duration = Duration::from_secs(2);
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
    /// One, or three that replicate.
    pub(crate) brokers: usize,
    /// Redis is a master and a replica, with a sentinel.
    pub(crate) sentinel: bool,
    /// Time-outs of the group and of sessions are short, so that a round sees many of each; else those of production.
    pub(crate) short: bool,
}

impl Setup {
    /// The setup of round `number`.
    pub(crate) const fn of(number: usize) -> Self {
        const fn setup(open: bool, ordering: &'static str, batch: u32, brokers: usize, sentinel: bool) -> Setup {
            Setup { open, ordering, batch, brokers, sentinel, short: true }
        }
        const ALL: [Setup; 6] = [
            setup(true, "Partition", 1, 1, false),
            setup(false, "Key", 1, 3, true),
            setup(true, "Partition", 20, 3, false),
            setup(false, "Unordered", 1, 1, false),
            setup(true, "Key", 10, 1, true),
            setup(false, "Partition", 1, 3, false),
        ];
        ALL[number % ALL.len()]
    }

    /// The faults that it can suffer.
    pub(crate) fn kinds(self) -> Vec<Kind> {
        let strikes = |kind: &Kind| if self.sentinel { kind.strikes_sentinel() } else { kind.strikes_alone() };
        Kind::all().into_iter().filter(strikes).collect()
    }
}

/// The Redis of a world.
#[derive(Debug)]
pub(crate) enum Store {
    Alone(RedisServer),
    Sentinel(RedisSentinel),
}

impl Store {
    fn start(sentinel: bool) -> anyhow::Result<Self> {
        // What it acknowledged outlives a kill, as with a replica that was up to date: losing writes is a fault of its own.
        let kept = ["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0"];
        Ok(if sentinel {
            Self::Sentinel(RedisSentinel::with(&kept, SILENCE)?)
        } else {
            Self::Alone(RedisServer::with(&kept)?)
        })
    }

    /// The sidecar's settings of it, without links.
    fn settings(&self) -> Value {
        match self {
            Self::Alone(server) => json!({"url": server.url()}),
            Self::Sentinel(set) => {
                json!({"url": set.url(), "topology": "Sentinel", "sentinelMaster": RedisSentinel::MASTER})
            }
        }
    }
}

/// What is between one pod and the servers.
#[derive(Debug)]
pub(crate) struct Links {
    /// One to each broker.
    pub(crate) kafka: Vec<Link>,
    /// Absent where a sentinel says where Redis is.
    pub(crate) redis: Option<RedisLink>,
    /// One fault strikes them at a time.
    pub(crate) struck: Mutex<()>,
}

/// What is between one pod and Redis.
#[derive(Debug)]
pub(crate) struct RedisLink {
    pub(crate) link: Link,
    /// Behind the link: loses single messages.
    pub(crate) proxy: Proxy,
}

/// Everything that a fault can strike. Locks keep two faults from striking one thing.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) kafka: Mutex<KafkaCluster>,
    pub(crate) bootstrap: String,
    pub(crate) redis: Mutex<Store>,
    pub(crate) pods: Vec<Mutex<Pod>>,
    pub(crate) links: Vec<Links>,
    pub(crate) config: SidecarConfig,
    /// Held by whoever strikes all pods; shared by whoever strikes one.
    pub(crate) all_pods: RwLock<()>,
    /// What has gone wrong so far.
    pub(crate) struck: std::sync::Mutex<Vec<Interval>>,
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
        let redis = Store::start(setup.sentinel)?;
        let mut listeners = vec![Vec::new(); setup.brokers];
        let mut links = Vec::new();
        for _ in 0..PODS {
            let mut kafka = Vec::new();
            for listeners in &mut listeners {
                let port = harness::port::free()?;
                let link = Link::to(port).await?;
                listeners.push(Listener { port, advertised: link.port() });
                kafka.push(link);
            }
            let redis = match &redis {
                Store::Alone(server) => {
                    let proxy = Proxy::start(server.port()).await?;
                    Some(RedisLink { link: Link::to(proxy.port()).await?, proxy })
                }
                Store::Sentinel(_) => None,
            };
            links.push(Links { kafka, redis, struck: Mutex::default() });
        }
        let mut kafka = KafkaCluster::start_behind(&listeners).await?;
        kafka.create_topic(TOPIC, PARTITIONS, &[]).await?;
        // The broker's time: the clock of the sidecar that wrote one may be a lie.
        kafka.create_topic(DEAD, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")]).await?;
        let config = config(setup, &kafka, &redis)?;
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
            struck: std::sync::Mutex::default(),
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
                    && let Some(ending) = pod.tend()?
                {
                    self.unasked.fetch_add(1, Ordering::Relaxed);
                    eprintln!("a sidecar ended unasked: {ending}");
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
    pub(crate) fn guest(&self, number: usize) -> anyhow::Result<(PathBuf, SidecarConfig)> {
        let mut config = self.config.clone();
        let home = self.path().join(format!("guest-{number}"));
        std::fs::create_dir_all(home.join("state"))?;
        config.delivery.socket = home.join("app.sock");
        config.state_dir = Some(home.join("state"));
        Ok((home, config))
    }
}

/// What every sidecar is told, but for the links.
fn config(setup: Setup, kafka: &KafkaCluster, redis: &Store) -> anyhow::Result<SidecarConfig> {
    let mut config = json!({
        "version": crds::config::VERSION,
        "group": GROUP,
        "topics": [TOPIC],
        "kafka": {"bootstrapServers": kafka.bootstrap(), "properties": {"reconnect.backoff.max.ms": "500"}},
        "redis": redis.settings(),
        "delivery": {
            "timeout": format!("{ANSWERS}ms"),
            "ordering": setup.ordering,
            "concurrency": 8,
            "backoff": {"min": "20ms", "max": "500ms"},
            "deadLetterTopic": DEAD,
            "appDownTimeout": "20s",
        },
        "drainTimeout": "5s",
        "admin": {"bind": "127.0.0.1:0"},
    });
    config["redis"]["failurePolicy"] = json!(if setup.open { "Open" } else { "Closed" });
    if setup.batch > 1 {
        config["delivery"]["batch"] = json!({"maxEvents": setup.batch});
    }
    if setup.short {
        config["session"] = json!({"ttl": "1500ms"});
        config["kafka"]["properties"]["session.timeout.ms"] = json!("4500");
        config["kafka"]["properties"]["heartbeat.interval.ms"] = json!("300");
    }
    serde_json::from_value(config).context("the configuration of a round")
}

/// The same, over the links of one pod.
fn between(config: &SidecarConfig, links: &Links) -> SidecarConfig {
    let mut config = config.clone();
    let brokers: Vec<_> = links.kafka.iter().map(|link| format!("127.0.0.1:{}", link.port())).collect();
    config.kafka.bootstrap_servers = brokers.join(",");
    if let Some(RedisLink { link, .. }) = &links.redis {
        config.redis.url = Some(format!("redis://127.0.0.1:{}", link.port()));
    }
    config
}

/// The library that lies about the time.
pub(crate) fn faketime() -> anyhow::Result<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").context("no /usr/lib")?.flatten();
    let library = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    library.context("libfaketime is missing: apt-get install faketime")
}
