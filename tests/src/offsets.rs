//! Decides what a topic holds and how far a group is, without joining it. I/O: it asks the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::client_config;
use crate::wait::eventually;

/// How long the broker may take for one question.
const ANSWER: Duration = Duration::from_secs(10);

/// Asks for one group's offsets. It never joins the group.
#[derive(Clone)]
pub struct Offsets {
    consumer: Arc<BaseConsumer>,
    group: String,
}

impl std::fmt::Debug for Offsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Offsets({})", self.group)
    }
}

impl Offsets {
    /// Asks about one group.
    ///
    /// # Errors
    /// librdkafka refuses it.
    pub fn of(bootstrap: &str, group: &str) -> anyhow::Result<Self> {
        let mut config = client_config(bootstrap);
        config.set("group.id", group).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        Ok(Self { consumer: Arc::new(config.create()?), group: group.to_owned() })
    }

    /// The committed offset of each partition; a partition without one is missing.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn committed(&self, topic: &str) -> anyhow::Result<BTreeMap<i32, i64>> {
        let topic = topic.to_owned();
        self.ask(move |consumer| {
            let mut list = TopicPartitionList::new();
            for partition in partitions(consumer, &topic)? {
                list.add_partition(&topic, partition);
            }
            let list = consumer.committed_offsets(list, ANSWER)?;
            Ok(list
                .elements()
                .iter()
                .filter_map(|e| match e.offset() {
                    Offset::Offset(offset) => Some((e.partition(), offset)),
                    _ => None,
                })
                .collect())
        })
        .await
    }

    /// The end offset of each partition: one above the last record.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn ends(&self, topic: &str) -> anyhow::Result<BTreeMap<i32, i64>> {
        let topic = topic.to_owned();
        self.ask(move |consumer| {
            let all = partitions(consumer, &topic)?;
            all.into_iter().map(|p| Ok((p, consumer.fetch_watermarks(&topic, p, ANSWER)?.1))).collect()
        })
        .await
    }

    /// How many members the group has. 0 also when nobody has heard of it.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn members(&self) -> anyhow::Result<usize> {
        let group = self.group.clone();
        self.ask(move |consumer| {
            let groups = consumer.fetch_group_list(Some(&group), ANSWER)?;
            Ok(groups.groups().iter().map(|g| g.members().len()).sum())
        })
        .await
    }

    /// Waits until the group has committed the end of every partition that holds records.
    ///
    /// # Panics
    /// It has not within the deadline; the text shows where it is.
    pub async fn wait_until_settled(&self, topic: &str, deadline: Duration) {
        eventually(format!("group {} has settled {topic}", self.group), deadline, async || {
            let ends = self.ends(topic).await?;
            let committed = self.committed(topic).await?;
            let behind: Vec<_> = ends
                .iter()
                .filter(|(_, end)| **end > 0)
                .map(|(p, end)| (p, committed.get(p).copied(), *end))
                .filter(|(_, committed, end)| *committed != Some(*end))
                .map(|(p, committed, end)| match committed {
                    Some(committed) => format!("partition {p}: {committed} of {end}"),
                    None => format!("partition {p}: nothing of {end}"),
                })
                .collect();
            ensure!(behind.is_empty(), "{}", behind.join(", "));
            Ok(())
        })
        .await;
    }

    /// librdkafka's questions block: they are asked on a thread that may.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let consumer = Arc::clone(&self.consumer);
        tokio::task::spawn_blocking(move || question(&consumer)).await?
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic).context("no metadata")?;
    ensure!(found.error().is_none() && !found.partitions().is_empty(), "topic {topic}: {:?}", found.error());
    Ok(found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
}

/// One record as a test reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its time in milliseconds since the epoch.
    pub timestamp: Option<i64>,
}

impl Read {
    /// The text of the last header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(n, _)| n == name)?;
        value.as_ref().map(|v| String::from_utf8_lossy(v).into_owned())
    }
}

/// Everything a topic holds now, by partition and offset, without a group.
///
/// # Errors
/// The broker does not answer, or not everything comes within half a minute.
pub async fn read_all(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<Read>> {
    let offsets = Offsets::of(bootstrap, "harness-reads-without-joining")?;
    let ends = offsets.ends(topic).await?;
    let topic = topic.to_owned();
    offsets.ask(move |consumer| read_up_to(consumer, &topic, &ends)).await
}

fn read_up_to(consumer: &BaseConsumer, topic: &str, ends: &BTreeMap<i32, i64>) -> anyhow::Result<Vec<Read>> {
    let mut list = TopicPartitionList::new();
    let mut open = BTreeMap::new();
    for (&partition, &end) in ends {
        let (low, _) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
        if low < end {
            list.add_partition_offset(topic, partition, Offset::Offset(low))?;
            open.insert(partition, end);
        }
    }
    consumer.assign(&list)?;
    let mut found = Vec::new();
    let start = Instant::now();
    while !open.is_empty() {
        ensure!(start.elapsed() < Duration::from_secs(30), "{topic}: partitions {open:?} not read to their end");
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            found.push(read(&message?.detach()));
        }
        // By position, not by the last record: the last offsets can be transaction markers.
        for element in consumer.position()?.elements() {
            if let Offset::Offset(at) = element.offset()
                && open.get(&element.partition()).is_some_and(|end| at >= *end)
            {
                open.remove(&element.partition());
            }
        }
    }
    found.sort_by_key(|r| (r.partition, r.offset));
    Ok(found)
}

fn read(message: &rdkafka::message::OwnedMessage) -> Read {
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect());
    Read {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp: message.timestamp().to_millis(),
    }
}
