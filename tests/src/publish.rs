//! Decides what a test puts into its topic: unique events with duplicates at places a seed chooses, or any raw records. I/O: it
//! produces; what to produce is chosen purely.

use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde_json::json;

use crate::kafka::client_config;
use crate::ledger::{Published, logical_id};
use crate::wait::LOOK_AGAIN;

/// One record to produce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// The partition; chosen by the key where there is none.
    pub partition: Option<i32>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The record's time in milliseconds since the epoch; the producer's clock where there is none.
    pub timestamp: Option<i64>,
}

impl Raw {
    /// A record with a value alone.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// An event whose `data.uid` is the ledger's name of it, of type `order.created`.
    #[must_use]
    pub fn event(uid: &str) -> Self {
        let (id, time) = (format!("envelope-of-{uid}"), "2026-01-01T00:00:00Z");
        let envelope =
            json!({"event_id": id, "event_type": "order.created", "event_timestamp": time, "data": {"uid": uid}});
        Self::new(envelope.to_string())
    }

    /// A record without a value.
    #[must_use]
    pub fn tombstone() -> Self {
        Self::default()
    }

    /// Puts it into a partition.
    #[must_use]
    pub fn to(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Gives it a key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Gives it a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}

/// Unique events with duplicates, chosen by a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Different events.
    pub unique: usize,
    /// Share of all records that repeat an earlier one, for example 0.3.
    pub duplicates: f64,
    /// A duplicate gets its own `event_id` and `event_timestamp`, as from a producer that publishes twice; else it is the
    /// same envelope, as from a producer that retries.
    pub fresh_envelopes: bool,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Different record keys; 0 for records without keys.
    pub keys: usize,
    /// Bytes of padding in `data`.
    pub padding: usize,
    /// The envelope's `event_type`.
    pub event_type: String,
    /// Chooses everything else.
    pub seed: u64,
}

impl Plan {
    /// `unique` events over `partitions`, with 30 % duplicates and a new seed (or that of the environment variable `SEED`).
    #[must_use]
    pub fn new(unique: usize, partitions: i32) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        Self {
            unique,
            duplicates: 0.3,
            fresh_envelopes: false,
            partitions,
            keys: 0,
            padding: 0,
            event_type: "essay.spellcheck.completed".into(),
            seed: seed.unwrap_or_else(|| rand::rng().random()),
        }
    }

    /// The records in the order in which they are to be produced. A duplicate comes after its first, half of them in the same
    /// partition, half in any other (where there is one).
    ///
    /// # Panics
    /// The plan has no partition, or nothing but duplicates.
    #[must_use]
    pub fn records(&self) -> Vec<Raw> {
        assert!(self.partitions > 0 && (0.0..1.0).contains(&self.duplicates), "not a plan: {self:?}");
        let mut rng = StdRng::seed_from_u64(self.seed);
        let copies = (self.unique as f64 * self.duplicates / (1.0 - self.duplicates)).round() as usize;
        // Each event once, and the duplicates thrown in anywhere; the first to come is the original.
        let mut order: Vec<usize> = (0..self.unique).collect();
        order.extend((0..copies).map(|_| rng.random_range(0..self.unique)));
        order.shuffle(&mut rng);
        let mut home: Vec<Option<i32>> = vec![None; self.unique];
        order
            .into_iter()
            .map(|n| {
                let partition = match home[n] {
                    None => rng.random_range(0..self.partitions),
                    Some(home) if self.partitions == 1 || rng.random_bool(0.5) => home,
                    Some(home) => (home + rng.random_range(1..self.partitions)) % self.partitions,
                };
                let fresh = home[n].is_some() && self.fresh_envelopes;
                home[n].get_or_insert(partition);
                let envelope = if fresh { rng.random::<u64>() } else { n as u64 };
                Raw { key: self.key(n), ..Raw::new(self.envelope(n, envelope)).to(partition) }
            })
            .collect()
    }

    /// Produces it all, in order, and waits for every acknowledgement. Prints the seed.
    ///
    /// # Errors
    /// The broker refused a record.
    pub async fn publish(&self, bootstrap: &str, topic: &str) -> anyhow::Result<Published> {
        eprintln!("publishing {} events to {topic} (SEED={})", self.unique, self.seed);
        let mut published = Publisher::new(bootstrap)?.send_all(topic, self.records()).await?;
        published.seed = Some(self.seed);
        Ok(published)
    }

    /// The name by which the ledger knows the plan's event number `n`.
    #[must_use]
    pub fn uid(&self, n: usize) -> String {
        format!("{}-{n}", self.seed)
    }

    fn key(&self, n: usize) -> Option<Vec<u8>> {
        (self.keys > 0).then(|| format!("key-{}", n % self.keys).into_bytes())
    }

    fn envelope(&self, n: usize, envelope: u64) -> Vec<u8> {
        let uid = self.uid(n);
        let text = json!({
            "event_id": format!("{:016x}-{envelope:016x}", self.seed),
            "event_type": self.event_type,
            "event_timestamp": format!("2026-01-01T00:00:{:02}.{:06}Z", envelope % 60, envelope % 1_000_000),
            "source_service": "harness",
            "correlation_id": format!("correlation-{n}"),
            "data": {"uid": uid, "entity": n, "note": "x".repeat(self.padding)},
        });
        text.to_string().into_bytes()
    }
}

/// A producer that waits for all acknowledgements.
pub struct Publisher(FutureProducer);

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    /// A producer for one broker. Idempotent, so that it makes no duplicates of its own.
    ///
    /// # Errors
    /// librdkafka refuses it.
    pub fn new(bootstrap: &str) -> anyhow::Result<Self> {
        Ok(Self(
            client_config(bootstrap)
                .set("enable.idempotence", "true")
                .set("acks", "all")
                .set("linger.ms", "5")
                .set("queue.buffering.max.kbytes", "262144")
                .create()?,
        ))
    }

    /// Produces one record; returns its partition and offset.
    ///
    /// # Errors
    /// The broker refused it.
    pub async fn send(&self, topic: &str, raw: &Raw) -> anyhow::Result<(i32, i64)> {
        acknowledged(self.enqueue(topic, raw).await?).await.with_context(|| format!("cannot produce to {topic}"))
    }

    /// Produces records, each partition in their order, and waits for every acknowledgement.
    ///
    /// # Errors
    /// The broker refused one.
    pub async fn send_all(&self, topic: &str, records: Vec<Raw>) -> anyhow::Result<Published> {
        let mut under_way = Vec::with_capacity(records.len());
        for raw in &records {
            under_way.push(self.enqueue(topic, raw).await?);
        }
        let mut published = Published::default();
        for (raw, sent) in records.iter().zip(under_way) {
            let (partition, offset) = acknowledged(sent).await.with_context(|| format!("cannot produce to {topic}"))?;
            published.add(event_of(raw, topic, partition, offset), topic, partition, offset);
        }
        Ok(published)
    }

    /// Hands one record to librdkafka, when its queue has room. What is handed over first is written first.
    async fn enqueue(&self, topic: &str, raw: &Raw) -> anyhow::Result<DeliveryFuture> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &raw.headers {
            headers = headers.insert(Header { key, value: value.as_ref() });
        }
        let mut record: FutureRecord<'_, Vec<u8>, Vec<u8>> = FutureRecord::to(topic).headers(headers);
        record.partition = raw.partition;
        record.key = raw.key.as_ref();
        record.payload = raw.value.as_ref();
        record.timestamp = raw.timestamp;
        loop {
            record = match self.0.send_result(record) {
                Ok(sent) => return Ok(sent),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                Err((e, _)) => return Err(e).with_context(|| format!("cannot produce to {topic}")),
            };
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until nothing is on its way.
    ///
    /// # Errors
    /// Something still is after 30 s.
    pub fn flush(&self) -> anyhow::Result<()> {
        Ok(self.0.flush(Duration::from_secs(30))?)
    }
}

async fn acknowledged(sent: DeliveryFuture) -> anyhow::Result<(i32, i64)> {
    let delivery = sent.await.context("the producer is gone")?.map_err(|(e, _)| e)?;
    Ok((delivery.partition, delivery.offset))
}

/// Which event a record is. One without content is told by its place: two tombstones are two events.
fn event_of(raw: &Raw, topic: &str, partition: i32, offset: i64) -> String {
    match &raw.value {
        Some(value) if !value.is_empty() => logical_id(value),
        _ => empty_id(topic, partition, offset),
    }
}

/// The ledger's name of a record without content.
#[must_use]
pub fn empty_id(topic: &str, partition: i32, offset: i64) -> String {
    format!("empty-{topic}/{partition}@{offset}")
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn a_plan_repeats_itself_and_holds_its_share() {
        let plan = Plan { seed: 7, ..Plan::new(1_000, 6) };
        let records = plan.records();
        assert_eq!(records, plan.records());
        assert_eq!(records.len(), 1_429, "429 of 1429 are 30 %");
        let mut places: HashMap<String, HashSet<i32>> = HashMap::new();
        for record in &records {
            let uid = logical_id(record.value.as_ref().unwrap());
            places.entry(uid).or_default().insert(record.partition.unwrap());
        }
        assert_eq!(places.len(), 1_000);
        assert!(places.values().filter(|p| p.len() > 1).count() > 50, "duplicates across partitions");
        let values: HashSet<_> = records.iter().map(|r| &r.value).collect();
        assert_eq!(values.len(), 1_000, "a duplicate is the same envelope");
    }

    #[test]
    fn fresh_envelopes_differ_and_their_data_does_not() {
        let plan = Plan { seed: 7, fresh_envelopes: true, ..Plan::new(100, 2) };
        let records = plan.records();
        let values: HashSet<_> = records.iter().map(|r| r.value.clone().unwrap()).collect();
        assert_eq!(values.len(), records.len());
        let data: HashSet<_> = values
            .iter()
            .map(|v| serde_json::from_slice::<serde_json::Value>(v).unwrap()["data"].to_string())
            .collect();
        assert_eq!(data.len(), 100);
    }
}
