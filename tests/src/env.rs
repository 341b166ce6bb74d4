//! Decides what a test gets: the servers all tests share, names nobody else uses, a folder, a time limit, and its logs when it
//! fails. I/O.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{anyhow, bail};
use crds::config::SidecarConfig;
use libtest_mimic::{Failed, Trial};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::app::{App, Behaviour, Listen};
use crate::kafka::Kafka;
use crate::offsets::Offsets;
use crate::process::{read_log, tail};
use crate::redis::RedisServer;
use crate::sidecar::Sidecar;

/// How long a test may take where it names no other limit.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Lines of each log that a failure shows; the files stay.
const SHOWN: usize = 60;
/// What is left to a test at its limit to notice it.
const GRACE: Duration = Duration::from_secs(20);

/// The Kafka that all tests share, started when the first test asks for it.
static KAFKA: Mutex<Option<Arc<Kafka>>> = Mutex::const_new(None);

/// The Redis that tests share which need no fault of their own; their keys differ by group.
static REDIS: Mutex<Option<Arc<RedisServer>>> = Mutex::const_new(None);

/// What a test works with. A clone is the same.
#[derive(Clone, Debug)]
pub struct Env {
    name: String,
    dir: Arc<TempDir>,
    unique: u64,
}

impl Env {
    fn new(name: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // Short, since a socket's path has at most 107 bytes, and readable for an app that runs as another user.
        let dir = TempDir::with_prefix("it-")?;
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { name: name.into(), dir: Arc::new(dir), unique: NUMBER.fetch_add(1, Ordering::Relaxed) })
    }

    /// Name of the test.
    #[must_use]
    pub fn test(&self) -> &str {
        &self.name
    }

    /// The shared Kafka, started by the first who asks; or the one that `E2E_KAFKA` names.
    ///
    /// # Errors
    /// It cannot be started; the text says what is missing.
    pub async fn kafka(&self) -> anyhow::Result<Arc<Kafka>> {
        let mut shared = KAFKA.lock().await;
        if let Some(kafka) = &*shared {
            return Ok(Arc::clone(kafka));
        }
        let kafka = Arc::new(match named("E2E_KAFKA") {
            Some(bootstrap) => Kafka::of_others(bootstrap)?,
            None => Kafka::start_steady().await?,
        });
        *shared = Some(Arc::clone(&kafka));
        Ok(kafka)
    }

    /// The shared Redis, started by the first who asks.
    ///
    /// # Errors
    /// It cannot be started; the text says what is missing.
    pub async fn redis(&self) -> anyhow::Result<Arc<RedisServer>> {
        let mut shared = REDIS.lock().await;
        if let Some(redis) = &*shared {
            return Ok(Arc::clone(redis));
        }
        let redis = Arc::new(RedisServer::start()?);
        *shared = Some(Arc::clone(&redis));
        Ok(redis)
    }

    /// URL of the shared Redis, or what `E2E_REDIS` says.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn redis_url(&self) -> anyhow::Result<String> {
        match named("E2E_REDIS") {
            Some(url) => Ok(url),
            None => Ok(self.redis().await?.url()),
        }
    }

    /// The test's own folder. Logs (`*.log`) in it are shown when the test fails; it is removed when it passes.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A name that no other test uses, for topics, groups and key prefixes.
    #[must_use]
    pub fn name(&self, what: &str) -> String {
        format!("{}-{}-{}-{what}", self.name.replace("::", "-").replace('_', "-"), std::process::id(), self.unique)
    }

    /// Makes a topic of the test's own on the shared Kafka, and returns its name.
    ///
    /// # Errors
    /// Kafka cannot be started, or refuses it.
    pub async fn topic(&self, what: &str, partitions: i32) -> anyhow::Result<String> {
        let name = self.name(what);
        self.kafka().await?.create_topic(&name, partitions, &[]).await?;
        Ok(name)
    }

    /// Offsets of a group on the shared Kafka.
    ///
    /// # Errors
    /// Kafka cannot be started.
    pub async fn offsets(&self, group: &str) -> anyhow::Result<Offsets> {
        Offsets::of(&self.kafka().await?.bootstrap(), group)
    }

    /// The path of a socket in the test's folder.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.sock"))
    }

    /// An app on a unix socket of that name in the test's folder.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn app(&self, name: &str, behaviour: Behaviour) -> anyhow::Result<App> {
        Ok(App::start(Listen::Unix(self.socket(name)), behaviour)?)
    }

    /// A configuration for the shared Kafka: group `group`, one topic, that Redis, the app's place, short pauses; the rest by
    /// default. The test changes what it is about.
    ///
    /// # Errors
    /// Kafka cannot be started.
    pub async fn config(&self, group: &str, topic: &str, redis: &str, app: &Listen) -> anyhow::Result<SidecarConfig> {
        let mut config: SidecarConfig = serde_json::from_value(json!({
            "version": crds::config::VERSION,
            "group": group,
            "topics": [topic],
            "kafka": {
                "bootstrapServers": self.kafka().await?.bootstrap(),
            },
            "redis": {"url": redis},
            "session": {"ttl": "3s"},
            "delivery": {"backoff": {"min": "20ms", "max": "500ms"}},
            "admin": {"bind": "127.0.0.1:0"},
            "drainTimeout": "10s",
        }))?;
        match app {
            Listen::Unix(path) => config.delivery.socket.clone_from(path),
            Listen::Tcp(port) => config.delivery.port = Some(*port),
        }
        Ok(config)
    }

    /// A sidecar with its log in the test's folder, once its admin endpoint listens.
    ///
    /// # Errors
    /// It is not built, or it ended.
    pub async fn sidecar(&self, name: &str, config: &SidecarConfig) -> anyhow::Result<Sidecar> {
        Sidecar::start(self.dir(), name, config).await
    }

    /// The end of every log in the test's folder.
    fn logs(&self) -> String {
        let entries = std::fs::read_dir(self.dir()).into_iter().flatten().flatten().map(|e| e.path());
        let mut paths: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
        paths.sort();
        let shown = paths.iter().map(|p| format!("\n--- {}\n{}\n", p.display(), tail(&read_log(p), SHOWN)));
        shown.collect()
    }
}

fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// A test with the usual time limit.
pub fn trial<F, T>(name: &str, test: F) -> Trial
where
    F: FnOnce(Env) -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>>,
{
    trial_within(LIMIT, name, test)
}

/// A test with a time limit of its own. It runs in a runtime of its own, and fails by an error, a panic, or the limit.
pub fn trial_within<F, T>(limit: Duration, name: &str, test: F) -> Trial
where
    F: FnOnce(Env) -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>>,
{
    let name = name.to_owned();
    Trial::test(name.clone(), move || {
        let env = Env::new(&name).map_err(|e| Failed::from(format!("{e:#}")))?;
        let (done, result) = mpsc::channel();
        let given = env.clone();
        // A thread of its own, so that a test which blocks it instead of awaiting still meets its limit.
        std::thread::Builder::new().name(name.clone()).spawn(move || done.send(run(limit, test, given)))?;
        let result = result
            .recv_timeout(limit + GRACE)
            .unwrap_or_else(|_| Err(anyhow!("not done within {limit:?}, nor {GRACE:?} later: it blocks its thread")));
        result.map_err(|e| {
            let logs = env.logs();
            let kafka = KAFKA.blocking_lock().as_ref().map(|kafka| tail(&kafka.log(), SHOWN)).unwrap_or_default();
            let dir = keep(&env.dir);
            Failed::from(format!("{e:#}\nfiles: {}{logs}\n--- shared Kafka\n{kafka}\n", dir.display()))
        })
    })
}

fn run<F, T>(limit: Duration, test: F, env: Env) -> anyhow::Result<()>
where
    F: FnOnce(Env) -> T,
    T: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let within = async { tokio::time::timeout(limit, test(env)).await };
    // The hook has printed the panic with its place; here it becomes the test's failure.
    let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(within)));
    // What the test left running ends with its runtime; a question to a broker may still block a thread for a moment.
    runtime.shutdown_timeout(Duration::from_secs(5));
    match result {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => bail!("not done within {limit:?}"),
        Err(panic) => bail!("{}", text_of(panic.as_ref())),
    }
}

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without text").to_owned()
}

/// Leaves a failed test's folder for a person to look at.
fn keep(dir: &Arc<TempDir>) -> PathBuf {
    let path = dir.path().to_owned();
    // `TempDir` removes on drop: forget this one owner, and it never drops.
    std::mem::forget(Arc::clone(dir));
    path
}

/// Stops what was shared. Called once, when all tests are done: statics are not dropped by themselves.
pub fn stop_shared() {
    drop(KAFKA.blocking_lock().take());
    drop(REDIS.blocking_lock().take());
}
