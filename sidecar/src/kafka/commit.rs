//! Decides which commits go together: one request at a time for each topic, the newest watermark of a partition alone. I/O.
//!
//! rdkafka gives no result for an asynchronous commit (it sets no offset commit callback, and librdkafka then reports nothing
//! to the application), so commits are made synchronously on a blocking thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::topic_partition_list::{Offset as RdOffset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::context::{Context, Table};
use super::{CommitRequest, Events, KafkaEvent};
use crate::record::TopicPartition;

/// Watermarks to commit, and who waits for the end.
#[derive(Debug)]
pub(super) struct Commits {
    pub(super) requests: Vec<CommitRequest>,
    /// Gets the error of each request that failed.
    pub(super) reply: Option<oneshot::Sender<Vec<String>>>,
}

/// Commits what it is asked, until nobody can ask any more.
pub(super) async fn run(
    consumer: Arc<StreamConsumer<Context>>,
    table: Arc<Table>,
    mut commits: UnboundedReceiver<Commits>,
    events: Events,
) {
    while let Some(first) = commits.recv().await {
        let mut newest = BTreeMap::new();
        let mut replies = Vec::new();
        let mut add = |c: Commits| {
            newest.extend(c.requests.into_iter().map(|r| (r.partition, (r.epoch, r.offset))));
            replies.extend(c.reply);
        };
        add(first);
        while let Ok(more) = commits.try_recv() {
            add(more);
        }
        newest.retain(|partition, (epoch, _)| table.holds(partition, *epoch));
        let mut errors = Vec::new();
        for batch in by_topic(newest) {
            errors.extend(commit(&consumer, batch, &events).await);
        }
        for reply in replies {
            let _ = reply.send(errors.clone());
        }
    }
}

type Watermark = (TopicPartition, (u64, i64));

/// librdkafka reports an error only where every partition of a request has one. Errors of partitions are errors of their
/// topics (authorization, deletion), so each topic has a request of its own.
fn by_topic(newest: BTreeMap<TopicPartition, (u64, i64)>) -> Vec<Vec<Watermark>> {
    let mut batches: Vec<Vec<Watermark>> = Vec::new();
    for entry in newest {
        match batches.last_mut() {
            Some(batch) if batch.last().is_some_and(|(p, _)| p.topic == entry.0.topic) => batch.push(entry),
            _ => batches.push(vec![entry]),
        }
    }
    batches
}

async fn commit(consumer: &Arc<StreamConsumer<Context>>, batch: Vec<Watermark>, events: &Events) -> Vec<String> {
    let mut list = TopicPartitionList::with_capacity(batch.len());
    for (p, (_, offset)) in &batch {
        if let Err(error) = list.add_partition_offset(&p.topic, p.partition, RdOffset::Offset(*offset)) {
            tracing::error!(partition = %p, offset, %error, "offset can't be committed");
        }
    }
    let consumer = Arc::clone(consumer);
    let done = tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync)).await;
    let error = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    for (partition, (epoch, offset)) in batch {
        let _ = events.send(match &error {
            None => KafkaEvent::Committed { partition, epoch, offset },
            Some(error) => KafkaEvent::CommitFailed { partition, epoch, offset, error: error.clone() },
        });
    }
    error.into_iter().collect()
}
