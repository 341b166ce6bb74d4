//! Decides how a real Kafka is started and stopped for tests: KRaft mode, one JVM, free ports on loopback
//! (or where pods reach them: [`port::host`]), a folder of its own; several are a [`KafkaCluster`]. I/O.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::sidecar::record::{Record, TopicPartition};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, Program};
use crate::wait::eventually;
use crate::{in_repo, port};

mod cluster;

pub use cluster::KafkaCluster;

/// How long a broker may take to answer after its start. It takes 4 s on an idle machine.
const START: Duration = Duration::from_secs(90);
/// Any cluster id will do; Kafka wants 16 bytes in base64.
const CLUSTER_ID: &str = "aWRlbXBvdGVuY3ktdGVzdA";

/// A broker. Dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    dir: TempDir,
    port: u16,
    java: &'static [&'static str],
    others: Option<String>,
    links: Vec<Listener>,
    /// Which of a cluster it is; `None` where it is alone.
    seat: Option<Seat>,
}

/// A broker's place in a cluster.
#[derive(Clone, Debug)]
struct Seat {
    id: usize,
    /// Port of its controller.
    controller: u16,
    /// All controllers, as Kafka wants them: `id@host:port`, separated by commas.
    voters: String,
}

/// A further listener, which tells its clients another port than its own: that of a link between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where the broker listens.
    pub port: u16,
    /// Where clients shall connect.
    pub advertised: u16,
}

/// For tests: Java's quick compiler alone. The broker starts in 60 % of the time, and takes 40 % less CPU from the tests.
const QUICK: &[&str] = &["-XX:TieredStopAtLevel=1"];

/// As many replicas as the broker's own default says.
const BROKERS_DEFAULT: i32 = -1;

/// While a broker is taken for dead it tells its clients that there are no brokers, and librdkafka never comes back from that
/// (its issue 5301): of two with the same key the last counts.
const STEADY: &str = "broker.session.timeout.ms=60000\n";

impl Kafka {
    /// Formats a new storage folder, starts a broker on it, and waits until it answers.
    ///
    /// # Errors
    /// Java or the jars are missing, or the broker ended; the text holds its output.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(QUICK, "", &[]).await
    }

    /// As [`Kafka::start`], for a broker that nobody kills: it is not taken for dead when the machine is busy.
    ///
    /// # Errors
    /// As for [`Kafka::start`].
    pub async fn start_steady() -> anyhow::Result<Self> {
        Self::start_with(QUICK, STEADY, &[]).await
    }

    /// As [`Kafka::start`], with further listeners.
    ///
    /// # Errors
    /// As for [`Kafka::start`].
    pub async fn start_behind(links: &[Listener]) -> anyhow::Result<Self> {
        Self::start_with(QUICK, "", links).await
    }

    /// As [`Kafka::start`], with Java's full compiler: slow at first, then as fast as in production.
    ///
    /// # Errors
    /// As for [`Kafka::start`].
    pub async fn start_for_bench() -> anyhow::Result<Self> {
        Self::start_with(&[], "", &[]).await
    }

    /// One that somebody else runs: it can't be stopped or started here.
    ///
    /// # Errors
    /// A folder can't be made.
    pub fn of_others(bootstrap: String) -> anyhow::Result<Self> {
        Ok(Self {
            process: None,
            dir: TempDir::new()?,
            port: 0,
            java: QUICK,
            others: Some(bootstrap),
            links: Vec::new(),
            seat: None,
        })
    }

    async fn start_with(java: &'static [&'static str], more: &str, links: &[Listener]) -> anyhow::Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (dir, port) = (TempDir::with_prefix("kafka-")?, port::free()?);
            let mut kafka = Self { process: None, dir, port, java, others: None, links: links.to_vec(), seat: None };
            kafka.format(more)?;
            match kafka.restart().await {
                Ok(()) => return Ok(kafka),
                // Somebody took the port between our look and the broker's bind.
                Err(e) if tries < 3 && format!("{e:#}").contains("Address already in use") => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.others.clone().unwrap_or_else(|| format!("{}:{}", port::host(), self.port))
    }

    /// The broker's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The broker's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The broker's output so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The folder with the broker's configuration, data and output.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the broker by SIGTERM, in order; it keeps its port and its data.
    ///
    /// # Errors
    /// It is not running.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("Kafka is not running")?;
        process.signal(Signal::TERM)?;
        process.wait(Duration::from_secs(60)).await;
        Ok(())
    }

    /// Kills the broker by SIGKILL; it keeps its port and its data.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts a stopped or killed broker on the same port and data, and waits until it answers.
    ///
    /// # Errors
    /// It runs already, or it ended; the text holds its output.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.wait_until_up(1).await
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none() && self.others.is_none(), "Kafka runs already");
        let process = Program::new("kafka", java())
            .args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true"])
            .args(self.java)
            .args(classpath()?)
            .arg("kafka.Kafka")
            .arg(self.dir.path().join("server.properties"))
            .start(self.dir.path())?;
        self.process = Some(process);
        Ok(())
    }

    /// Freezes the broker (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.process.as_ref().context("Kafka is not running")?.signal(Signal::STOP)
    }

    /// Lets a frozen broker go on (SIGCONT).
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.as_ref().context("Kafka is not running")?.signal(Signal::CONT)
    }

    /// Makes a topic, with as many replicas as there are brokers up to three, and waits until each of its partitions has a leader.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(BROKERS_DEFAULT));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let results = self.admin()?.create_topics([&topic], &options()).await?;
        for result in results {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot create topic {topic}: {code}"))?;
        }
        let consumer = self.client()?;
        eventually(format!("topic {name} has its leaders"), Duration::from_secs(30), async || {
            let metadata = consumer.fetch_metadata(Some(name), Duration::from_secs(5)).map_err(|e| e.to_string())?;
            let led = metadata.topics().iter().flat_map(|t| t.partitions()).filter(|p| p.leader() >= 0).count();
            if led == partitions as usize { Ok(()) } else { Err(format!("{led} of {partitions}")) }
        })
        .await;
        Ok(())
    }

    /// Sets one option of a topic.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn alter_topic(&self, name: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let wanted = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        for result in self.admin()?.alter_configs([&wanted], &options()).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot alter topic {topic:?}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn delete_topic(&self, name: &str) -> anyhow::Result<()> {
        let results = self.admin()?.delete_topics(&[name], &options()).await?;
        for result in results {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot delete topic {topic}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes the records before an offset of one partition.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> anyhow::Result<()> {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(before))?;
        self.admin()?.delete_records(&list, &options()).await?;
        Ok(())
    }

    /// Adds partitions to a topic, up to `count` in all.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn grow_topic(&self, topic: &str, count: usize) -> anyhow::Result<()> {
        let wanted = rdkafka::admin::NewPartitions::new(topic, count);
        for result in self.admin()?.create_partitions([&wanted], &options()).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot grow topic {topic}: {code}"))?;
        }
        Ok(())
    }

    /// The least configuration of a client of this broker.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        client_config(&self.bootstrap())
    }

    fn client(&self) -> anyhow::Result<BaseConsumer> {
        Ok(self.client_config().create()?)
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(self.client_config().create()?)
    }

    fn format(&self, more: &str) -> anyhow::Result<()> {
        let (dir, port) = (self.dir.path(), self.port);
        let controller = self.seat.as_ref().map_or_else(port::free, |seat| Ok(seat.controller))?;
        let mut text = std::fs::read_to_string(in_repo("tests/kafka/server.properties"))?;
        let host = port::host();
        let own = format!("PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}");
        let links = |port: fn(&Listener) -> u16| {
            let each = self.links.iter().enumerate().map(|(n, link)| format!(",LINK{n}://{host}:{}", port(link)));
            each.collect::<String>()
        };
        let (listen, advertise) = (links(|link| link.port), links(|link| link.advertised));
        let protocols: String = (0..self.links.len()).map(|n| format!(",LINK{n}:PLAINTEXT")).collect();
        let (quorum, alone) = match &self.seat {
            None => (format!("controller.quorum.bootstrap.servers={host}:{controller}"), Some("--standalone")),
            Some(seat) => (format!("node.id={}\ncontroller.quorum.voters={}", seat.id, seat.voters), None),
        };
        write!(
            text,
            "\nlisteners={own}{listen}\nadvertised.listeners={own}{advertise}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
             {quorum}\nlog.dirs={}\n{more}",
            dir.join("data").display()
        )?;
        let properties = dir.join("server.properties");
        std::fs::write(&properties, text)?;
        let output = Command::new(java())
            .args(QUICK)
            .args(classpath()?)
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID])
            .args(alone)
            .arg("-c")
            .arg(&properties)
            .output()
            .context("cannot start Java: install a JRE of version 17 or later (`make setup` does), or set JAVA_HOME")?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            bail!("Kafka's storage cannot be formatted: {}", String::from_utf8_lossy(&text));
        }
        Ok(())
    }

    /// Waits until it answers, and tells of so many brokers.
    async fn wait_until_up(&mut self, brokers: usize) -> anyhow::Result<()> {
        let client = self.client()?;
        let process = self.process.as_mut().context("Kafka is not running")?;
        let start = std::time::Instant::now();
        loop {
            process.must_run()?;
            let answer = client.fetch_metadata(None, Duration::from_millis(500));
            match answer {
                Ok(metadata) if metadata.brokers().len() >= brokers => return Ok(()),
                _ if start.elapsed() < START => tokio::time::sleep(crate::wait::LOOK_AGAIN).await,
                other => bail!(
                    "Kafka does not answer after {START:?} ({:?}); its output:\n{}",
                    other.map(|m| m.brokers().len()),
                    process.log()
                ),
            }
        }
    }
}

/// The least configuration of a client: where the broker is, and no waiting long for one that was away.
#[must_use]
pub fn client_config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("message.max.bytes", "33554432")
        // A broker that is stopped on purpose is not worth a line.
        .set("log_level", "2");
    config
}

/// A message as the sidecar's rules see it, without its headers.
#[must_use]
pub fn record_of(message: &impl Message) -> Record {
    Record {
        origin: TopicPartition { topic: message.topic().into(), partition: message.partition() },
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: Vec::new(),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30))).request_timeout(Some(Duration::from_secs(30)))
}

fn java() -> PathBuf {
    std::env::var_os("JAVA_HOME").map_or_else(|| "java".into(), |home| Path::new(&home).join("bin/java"))
}

fn classpath() -> anyhow::Result<[String; 3]> {
    let libs = in_repo(".cache/kafka/libs");
    ensure!(libs.is_dir(), "Kafka's jars are missing: run `make setup`, or tests/kafka/jars alone");
    let log4j = in_repo("tests/kafka/log4j2.properties");
    Ok([format!("-Dlog4j2.configurationFile={}", log4j.display()), "-cp".into(), format!("{}/*", libs.display())])
}
