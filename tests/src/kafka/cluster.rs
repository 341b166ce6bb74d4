//! Decides how brokers form a cluster for tests: each broker and controller in one JVM, three replicas of everything. I/O.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rdkafka::consumer::Consumer;
use tempfile::TempDir;

use super::{Kafka, Listener, QUICK, Seat};
use crate::port;
use crate::wait::LOOK_AGAIN;

/// Of what stands twice, the last counts. Slower to take each other for dead than a broker alone may be: they share two cores.
const SEVERAL: &str = "\
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=3000
replica.lag.time.max.ms=3000
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
controller.quorum.election.backoff.max.ms=1000
";

/// How long a broker may take to catch up with the others.
const CAUGHT_UP: Duration = Duration::from_secs(60);

/// One broker, or three of which one can go without anybody missing it. Dropped, they are killed and their data removed.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: Vec<Kafka>,
}

impl KafkaCluster {
    /// One broker for each list of further listeners, and waits until each of them knows all.
    ///
    /// # Errors
    /// As for [`Kafka::start`].
    pub async fn start_behind(links: &[Vec<Listener>]) -> anyhow::Result<Self> {
        if let [alone] = links {
            return Ok(Self { brokers: vec![Kafka::start_behind(alone).await?] });
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::start_several(links).await {
                // Somebody took a port between our look and a broker's bind.
                Err(e) if tries < 3 && format!("{e:#}").contains("Address already in use") => {}
                other => return other,
            }
        }
    }

    async fn start_several(links: &[Vec<Listener>]) -> anyhow::Result<Self> {
        let controllers = links.iter().map(|_| port::free()).collect::<anyhow::Result<Vec<_>>>()?;
        let voter = |(n, controller): (usize, &u16)| format!("{}@{}:{controller}", n + 1, port::host());
        let voters = controllers.iter().enumerate().map(voter).collect::<Vec<_>>().join(",");
        let mut brokers = Vec::new();
        for (n, (links, controller)) in links.iter().zip(controllers).enumerate() {
            let mut broker = Kafka {
                process: None,
                dir: TempDir::with_prefix("kafka-")?,
                port: port::free()?,
                java: QUICK,
                others: None,
                links: links.clone(),
                seat: Some(Seat { id: n + 1, controller, voters: voters.clone() }),
            };
            broker.format(SEVERAL)?;
            broker.launch()?;
            brokers.push(broker);
        }
        for broker in &mut brokers {
            broker.wait_until_up(links.len()).await?;
        }
        Ok(Self { brokers })
    }

    /// `host:port` of all brokers, for clients.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.brokers.iter().map(Kafka::bootstrap).collect::<Vec<_>>().join(",")
    }

    /// It is a single broker.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.brokers.len() == 1
    }

    /// Starts a broker that was killed, and waits until it has every replica again that it had: the next one can go then.
    ///
    /// # Errors
    /// As for [`Kafka::restart`], or it has not caught up within a minute.
    pub async fn restart(&mut self, number: u64) -> anyhow::Result<()> {
        let broker = self.broker(number)?;
        broker.restart().await?;
        let client = broker.client()?;
        let started = Instant::now();
        loop {
            let metadata = client.fetch_metadata(None, Duration::from_secs(2))?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let behind = partitions.filter(|partition| partition.isr().len() < partition.replicas().len()).count();
            if behind == 0 {
                return Ok(());
            }
            ensure!(started.elapsed() < CAUGHT_UP, "{behind} partitions lack a replica after {CAUGHT_UP:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// One of its brokers, by any number.
    ///
    /// # Errors
    /// It has none.
    pub fn broker(&mut self, number: u64) -> anyhow::Result<&mut Kafka> {
        let count = self.brokers.len().max(1) as u64;
        self.brokers.get_mut(usize::try_from(number % count)?).context("a cluster without brokers")
    }

    /// Makes a topic: [`Kafka::create_topic`].
    ///
    /// # Errors
    /// The brokers refuse it.
    pub async fn create_topic(&mut self, name: &str, partitions: i32, config: &[(&str, &str)]) -> anyhow::Result<()> {
        self.broker(0)?.create_topic(name, partitions, config).await
    }
}
