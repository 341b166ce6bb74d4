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

use super::context::{Context, ReadTopic, Table};
use super::incarnation::{self, TopicId};
use super::{CommitRequest, Events, KafkaEvent};
use crate::fail_point;
use crate::record::{Offset, TopicPartition};

/// Watermarks to commit, and who waits for the end.
#[derive(Debug)]
pub(super) struct Commits {
    pub(super) requests: Vec<CommitRequest>,
    /// Gets the error of each request that failed.
    pub(super) reply: Option<oneshot::Sender<Vec<String>>>,
}

/// Commits what it is asked, until nobody can ask any more. What can't be committed yet goes with a later request, which may be
/// empty.
pub(super) async fn run(
    consumer: Arc<StreamConsumer<Context>>,
    table: Arc<Table>,
    mut commits: UnboundedReceiver<Commits>,
    events: Events,
) {
    let mut newest = BTreeMap::new();
    while let Some(first) = commits.recv().await {
        let mut replies = Vec::new();
        let mut add = |c: Commits| {
            newest.extend(c.requests.into_iter().map(|r| (r.partition, (r.epoch, r.offset))));
            replies.extend(c.reply);
        };
        add(first);
        while let Ok(more) = commits.try_recv() {
            add(more);
        }
        let mut errors = Vec::new();
        let mut ready = Vec::new();
        newest.retain(|partition: &TopicPartition, &mut (epoch, offset)| {
            let Some(held) = table.get(partition).filter(|held| held.epoch == epoch) else { return false };
            let topic_id = match held.topic {
                ReadTopic::Open => {
                    errors.push(format!("{partition}: it is not known yet which topic of that name is read"));
                    return true;
                }
                ReadTopic::Nameless => None,
                ReadTopic::Known(id) => Some(id),
            };
            ready.push(Watermark { partition: partition.clone(), epoch, offset, topic_id });
            false
        });
        for batch in by_topic(ready) {
            errors.extend(commit(&consumer, batch, &events).await);
        }
        for reply in replies {
            let _ = reply.send(errors.clone());
        }
    }
}

struct Watermark {
    partition: TopicPartition,
    epoch: u64,
    offset: Offset,
    topic_id: Option<TopicId>,
}

/// librdkafka reports an error only where every partition of a request has one. Errors of partitions are errors of their
/// topics (authorization, deletion), so each topic has a request of its own.
fn by_topic(newest: Vec<Watermark>) -> Vec<Vec<Watermark>> {
    let mut batches: Vec<Vec<Watermark>> = Vec::new();
    for entry in newest {
        match batches.last_mut() {
            Some(batch) if batch.last().is_some_and(|w| w.partition.topic == entry.partition.topic) => {
                batch.push(entry)
            }
            _ => batches.push(vec![entry]),
        }
    }
    batches
}

async fn commit(consumer: &Arc<StreamConsumer<Context>>, batch: Vec<Watermark>, events: &Events) -> Vec<String> {
    let mut list = TopicPartitionList::with_capacity(batch.len());
    for Watermark { partition, offset, topic_id, .. } in &batch {
        let mut entry = list.add_partition(&partition.topic, partition.partition);
        if let Err(error) = entry.set_offset(RdOffset::Offset(*offset)) {
            tracing::error!(%partition, offset, %error, "offset can't be committed");
        }
        if let Some(id) = topic_id {
            entry.set_metadata(incarnation::mark(id));
        }
    }
    let consumer = Arc::clone(consumer);
    fail_point::pass("commit.unsent");
    let done = tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync)).await;
    fail_point::pass("commit.answered");
    let error = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    for Watermark { partition, epoch, offset, .. } in batch {
        let _ = events.send(match &error {
            None => KafkaEvent::Committed { partition, epoch, offset },
            Some(error) => KafkaEvent::CommitFailed { partition, epoch, offset, error: error.clone() },
        });
    }
    error.into_iter().collect()
}
