//! Decides which of the platform's records come twice: everything that any service publishes can, into any partition, at once or
//! while others are under way. I/O: it reads all topics and produces.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::TOPICS;
use crate::kafka::client_config;
use crate::publish::{Publisher, Raw};

/// Marks a copy, so that it is not copied again.
const MARK: &str = "copied";
/// Copies for each record, so that 30 % of all are copies.
const COPIES: f64 = 0.3 / 0.7;
/// A topic is quiet when nothing came for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Copies records while it runs: half of the copies with an envelope of their own, as from a producer that publishes twice.
#[derive(Debug)]
pub struct Duplicator {
    over: Arc<AtomicBool>,
    copying: JoinHandle<anyhow::Result<usize>>,
}

impl Duplicator {
    /// Starts one for all topics of the platform, from their beginning, each of so many partitions.
    ///
    /// # Errors
    /// librdkafka refuses it.
    pub fn start(bootstrap: &str, partitions: i32) -> anyhow::Result<Self> {
        let mut config = client_config(bootstrap);
        config.set("group.id", "duplicator").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        let mut all = TopicPartitionList::new();
        for topic in TOPICS {
            for partition in 0..partitions {
                all.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        consumer.assign(&all)?;
        let (publisher, seed) = (Arc::new(Publisher::new(bootstrap)?), rand::rng().random());
        eprintln!("duplicates are chosen by seed {seed}");
        let over = Arc::<AtomicBool>::default();
        let work = Work { consumer, publisher, partitions, over: Arc::clone(&over), rng: StdRng::seed_from_u64(seed) };
        let runtime = Handle::current();
        Ok(Self { over, copying: tokio::task::spawn_blocking(move || work.run(&runtime)) })
    }

    /// Ends it when no more records come, and tells how many copies there are.
    ///
    /// # Errors
    /// The broker refused one.
    pub async fn finish(mut self) -> anyhow::Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        (&mut self.copying).await?
    }
}

impl Drop for Duplicator {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

struct Work {
    consumer: BaseConsumer,
    publisher: Arc<Publisher>,
    partitions: i32,
    over: Arc<AtomicBool>,
    rng: StdRng,
}

impl Work {
    fn run(mut self, runtime: &Handle) -> anyhow::Result<usize> {
        let (mut sent, mut seen) = (Vec::new(), BTreeSet::new());
        loop {
            let message = match self.consumer.poll(QUIET) {
                Some(message) => message?.detach(),
                None if self.over.load(Ordering::Relaxed) => break,
                None => continue,
            };
            let is_copy = message.headers().is_some_and(|headers| headers.iter().any(|header| header.key == MARK));
            // Of each type one at least.
            if is_copy || !(seen.insert(message.topic().to_owned()) || self.rng.random_bool(COPIES)) {
                continue;
            }
            let copy = self.copy(&message)?;
            let (publisher, topic) = (Arc::clone(&self.publisher), message.topic().to_owned());
            sent.push(runtime.spawn(async move { publisher.send(&topic, &copy).await }));
        }
        let copies = sent.len();
        for copy in sent {
            runtime.block_on(copy)??;
        }
        Ok(copies)
    }

    fn copy(&mut self, of: &impl Message) -> anyhow::Result<Raw> {
        let value = of.payload().context("a record without a value")?;
        let value = if self.rng.random_bool(0.5) {
            let mut envelope: Value = serde_json::from_slice(value)?;
            envelope["event_id"] = uuid::Uuid::new_v4().to_string().into();
            envelope["event_timestamp"] = "2026-01-02T00:00:00Z".into();
            envelope.to_string().into_bytes()
        } else {
            value.to_vec()
        };
        let copy = Raw { key: of.key().map(<[u8]>::to_vec), ..Raw::new(value) };
        Ok(copy.to(self.rng.random_range(0..self.partitions)).header(MARK, "1"))
    }
}
